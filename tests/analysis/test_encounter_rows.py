"""Rows of encounters: planted ones by hand, drawn ones by loops; and claims judged on the table."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from analysis.claims import CLAIMS, claim_named, judge
from analysis.encounter_measures import curve_tables, forgetting_curves
from analysis.measurements import Table
from analysis.runs import TrainingRun, read_run
from interventions.choices import ResuscitationSite
from tests.analysis.ckl_runs import BASE, ENCOUNTERS, KINDS, MET, STEPS, arms_from, make_run
from tests.analysis.test_ckl_rows import picked, table_of, value
from training.options import Control

PER_PASSAGE = ("effectivity", "rise", "fall", "net gain")
NO_MOMENT = {"moment": None, "against": None}


def scored(run, log_probs, every=1):
    """A run with other scores of probes, at every so many steps; `log_probs` are `[step probe]`."""
    run = run if isinstance(run, TrainingRun) else read_run(run)
    scores = run.scores["knowledge"]
    # Moments are looked at whatever the cadence.
    steps = np.array(sorted({*range(0, STEPS + 1, every), 20, 30, STEPS}))
    found = replace(scores, steps=steps, log_probs=log_probs[steps])
    return replace(run, scores={**run.scores, "knowledge": found})


def draws_that_fade():
    """One nat that all passages have gained with the last encounter, gone after 13 steps."""
    steps = np.arange(STEPS + 1)
    fading = np.where(steps >= 20, 1 - 0.9 * np.log10(np.maximum(steps - 20, 1)), 0)
    return np.tile(np.repeat(BASE, 3), (STEPS + 1, 1)) + fading[:, None]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def test_planted_gains(run):
    table = table_of(run)
    of = {"kind": "all", "cluster": "passage 1", **NO_MOMENT}
    # Each encounter adds 1 at once, which stays until the next.
    for exposure in ("met", "paraphrase"):
        assert value(table, "effectivity", exposure=exposure, **of) == pytest.approx(1)
        assert value(table, "rise", exposure=exposure, **of) == pytest.approx(1)
        assert value(table, "fall", exposure=exposure, **of) == pytest.approx(0)
        # Ten steps after the batch of the last encounter, nine after its update.
        left = 2 * (1 - 0.25 * np.log10(9))
        assert value(table, "net gain", exposure=exposure, **of) == pytest.approx(left)
    once = {**of, "cluster": "passage 7", "exposure": "once"}
    assert value(table, "rise", **once) == pytest.approx(1)
    assert picked(table, "fall", **once).empty
    for measure in PER_PASSAGE:
        assert "held_out" not in set(picked(table, measure)["exposure"])
    assert set(picked(table, "rise")["kind"]) == {"all", *KINDS}


@pytest.mark.parametrize("every", [1, 3])
def test_drawn_gains_by_loops(every, tmp_path):
    draws = np.random.default_rng(every).normal(-6, 1, (STEPS + 1, 3 * len(BASE)))
    run = scored(make_run(tmp_path / "run", probe_every=every), draws, every)
    table = table_of(run)
    # A round every 10 steps: so many whole looks fit in between.
    window = 10 // every
    for passage in range(MET):
        met = [step for step, some in ENCOUNTERS.items() if passage in some]
        for number, kind in enumerate(KINDS):
            curve = draws[:, 3 * passage + number]
            rises, gains, falls = [], [], []
            for i, step in enumerate(met):
                before = step - step % every
                rises.append(curve[before + every] - curve[before])
                best = max(curve[before + n * every] for n in range(1, window + 1))
                gains.append(best - curve[before])
                if i + 1 < len(met):
                    falls.append(curve[met[i + 1] - met[i + 1] % every] - best)
            last = met[-1] + 10
            left = curve[last - last % every] - curve[met[0] - met[0] % every]
            expected = {"effectivity": np.mean(gains), "rise": np.mean(rises), "net gain": left}
            if falls:
                expected["fall"] = np.mean(falls)
            for measure in PER_PASSAGE:
                rows = picked(table, measure, kind=kind, cluster=f"passage {passage}", **NO_MOMENT)
                wanted = [expected[measure]] * 2 if measure in expected else []
                assert rows["value"].tolist() == pytest.approx(wanted)
        of_kinds = picked(table, "rise", cluster=f"passage {passage}", exposure="met")
        by_kind = of_kinds.set_index("kind")["value"]
        assert by_kind["all"] == pytest.approx(np.mean([by_kind[kind] for kind in KINDS]))


def test_looks_too_far_apart_leave_all_of_it_out(tmp_path):
    every = 7
    run = make_run(tmp_path / "run", probe_every=every)
    draws = np.random.default_rng(0).normal(-6, 1, (STEPS + 1, 3 * len(BASE)))
    found = set(table_of(scored(run, draws, every))["measure"])
    assert not found & {*PER_PASSAGE, "slope", "AIC over power", "AIC over exponential"}
    assert {"K", "A", "P", "F"} <= found


def test_a_run_that_ends_before_another_encounter_would_come_has_no_net_gain(tmp_path):
    """The last encounter is 41 steps before the end."""
    for interval, has_one in ((41, True), (42, False)):
        run = make_run(tmp_path / str(interval), injection_interval=interval, steps=999)
        found = table_of(run)
        assert len(picked(found, "net gain")) == has_one * MET * 4 * 2
        assert len(picked(found, "rise"))


def test_curves_are_those_of_the_report(run):
    """And of all that was met one is fitted to passages that were met once and twice."""
    table = table_of(run)
    _, curves, _, _ = curve_tables(arms_from(run))
    slopes = curves[curves["kind"] == "all"].set_index("exposure")["slope"]
    assert set(slopes.index) == {"paraphrase", "duplication", "once"}
    pooled = forgetting_curves(read_run(run))["met"]
    assert slopes.min() < pooled.slope < slopes.max()
    of = {"kind": "all", "cluster": None, **NO_MOMENT}
    for exposure, slope in {**slopes, "met": pooled.slope}.items():
        assert value(table, "slope", exposure=exposure, **of) == pytest.approx(slope)
        for shape in ("power", "exponential"):
            # Planted curves are lines to rounding, whose logarithm is noise: only which is larger.
            assert value(table, f"AIC over {shape}", exposure=exposure, **of) > 10
    line = pooled.fits["log_linear"].aic
    power = value(table, "AIC over power", exposure="met", **of)
    assert power == pytest.approx(pooled.fits["power"].aic - line)


def test_spacing_is_told_by_the_curve_of_the_shortest_interval(tmp_path):
    """Gains that fade by 0.9 a decade are gone after 13 steps: 10 is within, 14 beyond."""
    draws = draws_that_fade()
    steps = np.arange(STEPS + 1)
    flat = np.tile(np.repeat(BASE, 3), (STEPS + 1, 1)) + (steps >= 20)[:, None]
    short, long = (
        scored(make_run(tmp_path / f"run-{n}", injection_interval=n), draws) for n in (10, 14)
    )
    other = scored(make_run(tmp_path / "seed", seed=1, injection_interval=14), draws)
    # Of its own curve, which never falls, 14 would be within.
    never = replace(long, scores=scored(long, flat).scores)
    found = picked(table_of(never, short, other), "net gain", kind="all", exposure="met")
    by_run = found.groupby(["seed", "interval"])["spacing"].unique().map(list).to_dict()
    assert by_run == {(0, 10): ["within"], (0, 14): ["beyond"], (1, 14): [None]}


def test_spacing_is_said_of_net_gains_only(tmp_path):
    runs = [make_run(tmp_path / f"run-{n}", injection_interval=n) for n in (10, 14)]
    told = table_of(*runs).dropna(subset="spacing")
    assert set(told["measure"]) == {"net gain"}
    assert set(told["spacing"]) == {"within"}


AGES = tuple(range(100, 1000, 100))
SEEDS = 3


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Nine checkpoints with three seeds, of which the last one is edited and spaced as well.

    With age gains fall by a tenth a checkpoint, and entropy by one nat and more.
    """
    folder = tmp_path_factory.mktemp("runs")
    up = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
    preserving = {**up, "resuscitation_site": ResuscitationSite.PRESERVING}
    rates = {**up, "control": Control.ROW_LEARNING_RATES}
    runs = []
    for seed in range(SEEDS):
        make = partial(make_run, seed=seed, model="tiny", generate_every=None)
        for place, step in enumerate(AGES):
            runs.append(
                make(
                    folder / f"{step}-{seed}",
                    gain=1 - 0.1 * place + 0.01 * seed,
                    right=(30, 25 - place - (place % 3)),
                    entropy=30 - place - 0.1 * place * (place % 3),
                    start=f"{place:02x}",
                    revision=f"step-{step:06d}",
                )
            )
        last = {"start": f"{len(AGES) - 1:02x}", "revision": f"step-{AGES[-1]:06d}"}
        for name, edit, gain in (("up", up, 1.5), ("kept", preserving, 0.7), ("rates", rates, 0.5)):
            edited = {"edit": edit, "unedited": True, "entropy": 40.0, "gain": gain}
            runs.append(make(folder / f"{name}-{seed}", **edited, **last))
        spaced = make(folder / f"spaced-{seed}", injection_interval=14, **last)
        runs.append(scored(spaced, draws_that_fade()))
        # The same at the shorter interval, in the place of the run of the last checkpoint.
        runs[-5] = scored(runs[-5], draws_that_fade())
    return table_of(*runs)


@pytest.fixture(scope="module")
def findings(table):
    claims = [claim for claim in CLAIMS.values() if claim.table is Table.ACQUISITION]
    return {one.claim: one for one in judge(claims, {Table.ACQUISITION: table})}


@pytest.mark.parametrize(
    ("claim", "n"),
    [
        ("acquisition-falls-with-age", len(AGES)),
        ("acquisition-follows-entropy", len(AGES)),
        ("encounters-raise", 10),
        ("memorization-gains-most", 10),
        ("later-checkpoints-acquire-no-more", 10),
        ("very-early-pretraining", 10),
        ("middle-checkpoint-knows-most", 10),
        ("middle-checkpoint-keeps-most", 60),
        ("forgetting-rises-with-age", len(AGES)),
        ("once-ends-below-its-start", SEEDS),
        ("resuscitation-raises-entropy", SEEDS),
        ("preserving-resuscitation-gain", 10),
        ("preserving-resuscitation-damage", 60),
        ("resuscitation-against-row-rates", 10),
        ("preserving-against-row-rates", 10),
        ("forgetting-is-linear-in-log-steps", SEEDS),
        ("duplication-forgets-faster", SEEDS),
        ("encounters-within-the-threshold-add-up", 10),
        ("encounters-beyond-the-threshold-leave-nothing", 10),
    ],
)
def test_claims_find_what_they_are_about(claim, n, findings):
    assert findings[claim].n == n, findings[claim].test
    assert findings[claim].seeds == SEEDS


def test_effects_are_those_that_were_planted(findings):
    # From a gain of 1 to one of 0.2: 1.5 and 0.3 of 6.
    assert findings["encounters-raise"].verdict == "supported"
    assert findings["acquisition-falls-with-age"].verdict == "supported"
    assert findings["resuscitation-raises-entropy"].effect == pytest.approx(
        40 - (30 - 8 - 0.1 * 8 * 2)
    )
    assert findings["resuscitation-against-row-rates"].effect == pytest.approx(1.5 * (1.5 - 0.5))
    assert findings["preserving-against-row-rates"].effect == pytest.approx(1.5 * (0.7 - 0.5))


def test_spacing_on_all_rows_would_keep_claims_from_their_rows(table):
    """Why net gains alone say it: a claim about the last checkpoint loses what it compares."""
    everywhere = table.copy()
    told = everywhere["step"].eq(AGES[-1]) & everywhere["site"].isna()
    everywhere.loc[told, "spacing"] = "within"
    claim = claim_named("preserving-resuscitation-gain")
    found = judge([claim], {Table.ACQUISITION: everywhere})[0]
    assert found.verdict == "not tested at this scale"
