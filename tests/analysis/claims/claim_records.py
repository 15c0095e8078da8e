"""Made-up measurements for any claim: with an effect of a size and a sign, or with none.

The levels of arms are chosen so that every comparison of a claim has the same effect; noise is
added by seed and by row. With an effect of 0 the truth lies where the claim's test has its edge.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from analysis.claims import claim_named, designs, judge
from analysis.claims.choices import Extreme
from analysis.claims.designs import Follows
from analysis.measurements import COLUMNS

PLACES = {"smallest": 10, "early": 200, "middle": 500, "largest": 1000}
SEEDS, CLUSTERS, CHECKPOINTS, POINTS = 5, 11, 9, 4


def rows_for(claim, effect, *, noise=0.1, draw=0, seeds=SEEDS, clusters=CLUSTERS, points=None):
    """A table for one claim.

    Args:
        claim: the claim.
        effect: in the direction claimed (rising, of a question), in units of what it is of.
        noise: standard deviation, of seeds and of rows.
        draw: of the noise.
        seeds: how many.
        clusters: how many, where the claim has items.
        points: along the axis of a trend; None for enough.
    """
    generator = np.random.default_rng([draw, *claim.identifier.encode()])
    sign = claim.expected.sign if claim.expected else 1
    make = _Maker(claim, sign * effect, noise, generator, seeds, clusters, points)
    if isinstance(claim.design, Follows):
        make.series(claim.design)
    else:
        make.design(claim.design, {})
    frame = pd.DataFrame(make.rows)
    return frame.sample(frac=1.0, random_state=draw).reset_index(drop=True)


class _Maker:
    def __init__(self, claim, effect, noise, generator, seeds, clusters, points):
        self.claim, self.effect, self.noise = claim, effect, noise
        self.generator, self.seeds, self.clusters = generator, seeds, clusters
        self.points = points
        self.rows = []

    def design(self, design, fixed):
        if isinstance(design, designs.AllOf):
            self.contrasts(design.parts, fixed)
        elif isinstance(design, designs.Contrast):
            self.contrasts((design,), fixed)
        elif isinstance(design, designs.EachOf):
            wanted = self.claim.where.get(design.column)
            for value in wanted or (0, 1, 2):
                self.design(design.design, {**fixed, design.column: value})
        elif isinstance(design, designs.Foremost):
            for value in (0, 1, 2):
                size = self.effect if value == 2 else 0.0
                self.trend(design.trend, {**fixed, design.column: value}, size)
        else:
            self.trend(design, fixed, self.effect)

    def contrasts(self, parts, fixed):
        """Every arm gets a level, the last base first."""
        levels, named = {}, {}
        for part in reversed(parts):
            base = 0.0
            if part.base is not None:
                key = repr(sorted(part.base.settings.items()))
                named[key] = part.base.settings
                base = levels.setdefault(key, 1.0)
            key = repr(sorted(part.arm.settings.items()))
            named[key] = part.arm.settings
            levels[key] = part.scale * base + self.effect
        for key, settings in named.items():
            self.block({**self.claim.where, **settings, **fixed}, levels[key])
        for extra in self.places_not_named(named.values()):
            self.block({**self.claim.where, **extra, **fixed}, 1.0)

    def places_not_named(self, settings):
        """Rows that make an extreme the one it is meant to be."""
        arms = [arm for arm in settings if any(isinstance(v, Extreme) for v in arm.values())]
        if arms:
            column = next(name for name, v in arms[0].items() if isinstance(v, Extreme))
            taken = {place(arm[column]) for arm in arms}
            for number in PLACES.values():
                if number not in taken:
                    yield {column: number}

    def block(self, settings, level):
        least = self.claim.least
        names = [f"item {i}" for i in range(self.clusters)] if least.items else [None]
        for seed in range(self.seeds):
            shift = self.noise * self.generator.normal()
            for name in names:
                self.row(settings, seed, name, level + shift + self.noise * self.generator.normal())

    def trend(self, design, fixed, size):
        wanted = {**self.claim.where, **fixed}.get(design.axis)
        count = self.points or (CHECKPOINTS if design.axis == "step" else POINTS)
        axis = wanted if isinstance(wanted, tuple) else [10 * 2**i for i in range(count)]
        arms = [(design.arm, size)] + ([(design.base, 0.0)] if design.base else [])
        for (arm, slope), seed in product(arms, range(self.seeds)):
            walk = np.cumsum(self.generator.normal(size=len(axis)))
            for i, at in enumerate(axis):
                value = slope * i / (len(axis) - 1) + self.noise * walk[i]
                settings = {**self.claim.where, **arm.settings, **fixed, design.axis: at}
                self.row(settings, seed, None, value)

    def series(self, design):
        """The cause wanders, shared by all seeds; the outcome follows it or wanders itself."""
        steps = [100 * 2**i for i in range(self.points or CHECKPOINTS)]
        cause, other = np.cumsum(self.generator.normal(size=(2, len(steps))), axis=1)
        outcome = self.effect * cause if self.effect else other
        for seed, (i, step) in product(range(self.seeds), enumerate(steps)):
            noisy = outcome[i] + self.noise * self.generator.normal()
            for arm, value in ((design.cause, cause[i]), (design.outcome, noisy)):
                settings = {**self.claim.where, **arm.settings, "step": step, "trajectory": "one"}
                self.row(settings, seed, None, value)

    def row(self, settings, seed, cluster, value):
        columns = COLUMNS[self.claim.table]
        found = dict.fromkeys(columns) | {name: place(v) for name, v in settings.items()}
        found |= {"seed": seed, "value": value}
        if "cluster" in columns:
            found["cluster"] = cluster
        if found["measure"] is None:
            raise AssertionError(f"{self.claim.identifier} does not say of what")
        self.rows.append(found)


def place(value):
    if isinstance(value, tuple):
        return value[0]
    return PLACES[value.name.lower()] if isinstance(value, Extreme) else value


def judged(name, frame):
    one = alone(claim_named(name))
    return judge([one], {one.table: frame})[0]


def alone(claim):
    """A claim without what it presupposes, of which made-up rows say nothing."""
    return replace(claim, presupposes=None)
