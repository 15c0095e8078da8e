"""Arms: runs of continual memorization that differ in nothing but their seed.

An arm is called by what tells it from plain training of one stage after the other: what is mixed in
and where, what is shown again, how the start was edited; then by whatever else differs among the
runs of a report. The base of an arm is the one that has none of that and agrees in all else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.ckl_report.arms import Start, start_named
from analysis.edit_names import EDIT_FIELDS, UNEDITED_NAME, edit_label
from analysis.numbers import shown_value
from analysis.remix_report.chains import TOKENS, Chain
from training.choices import Replay
from training.remix.config import NO_MIX, MixFields

PLAIN_NAME = "no mixing"
_NOT_SETTINGS = ("seed", "from_stage_a", "familiarity_cache")
_START_FIELDS = ("model", "revision")
_BY_STAGE = ("items", "mix", "mix_ratio", "epochs", "stop", "stage_learning_rates")
"""Of which one value stands for all stages."""
_MIX_FIELDS = tuple(field.name for field in fields(MixFields))
_ARM_FIELDS = (*_MIX_FIELDS, *EDIT_FIELDS, "edit_before")
"""What an arm may differ in from its base."""
_OF_A_MIX = tuple(name for name in _MIX_FIELDS if name not in ("mix", "replay", "replay_ratio"))
"""Settings that do nothing where nothing is mixed in."""
_NAMED = ("mix", "no_mix_control", "replay", "replay_ratio", *EDIT_FIELDS, "edit_before")
"""What the name of an arm says anyway."""


@dataclass(frozen=True)
class RemixArm:
    """Runs of one configuration and one start, by growing seed.

    Attributes:
        name: what tells it from the other arms of a report.
        chains: one a seed.
        start: the model that they began from.
    """

    name: str
    chains: tuple[Chain, ...]
    start: Start

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(chain.seed for chain in self.chains)

    @property
    def stages(self) -> tuple[str, ...]:
        """Their letters."""
        return tuple(self.chains[0].stages)

    @property
    def moments(self) -> tuple[str, ...]:
        """When items are asked for."""
        return self.chains[0].moments

    @property
    def is_plain(self) -> bool:
        """Whether it trains one stage after the other, and nothing else."""
        return not _parts(self.chains[0])

    @property
    def base_key(self) -> str:
        """The same for all arms that differ in what arms may differ in."""
        kept = {k: v for k, v in _settings(self.chains[0]).items() if k not in _ARM_FIELDS}
        return f"{self.chains[0].start_sha256} {sorted(kept.items())}"

    def answers(
        self, items: str, moment: str, match: str = TOKENS, *, log_probs: bool = False
    ) -> dict[int, pd.Series]:
        """What every seed made of a list at a moment; see `Chain.answers`."""
        found = {
            chain.seed: chain.answers(items, moment, match, log_probs=log_probs)
            for chain in self.chains
        }
        asked = {seed: values for seed, values in found.items() if values is not None}
        return asked if len(asked) == len(found) else {}


def arms_of(chains: Sequence[Chain]) -> list[RemixArm]:
    """Runs as arms, in the order of their first runs."""
    if not chains:
        raise ValueError("a report needs at least one run, found none; give run directories")
    grouped: dict[str, list[Chain]] = {}
    for chain in chains:
        key = f"{chain.start_sha256} {sorted(_settings(chain).items())}"
        grouped.setdefault(key, []).append(chain)
    sets = [sorted(found, key=lambda chain: chain.seed) for found in grouped.values()]
    for one, other in (pair for found in sets for pair in pairwise(found)):
        if one.seed == other.seed:
            raise ValueError(f"{one.path} and {other.path} are the same run; give one of them")
    firsts = [found[0] for found in sets]
    return [
        RemixArm(name, tuple(found), _start(found[0]))
        for name, found in zip(_names(firsts), sets, strict=True)
    ]


def base_of(arm: RemixArm, arms: Sequence[RemixArm], named: RemixArm | None) -> RemixArm | None:
    """The arm that one is compared with; None where there is none, or it is the one itself."""
    if named is not None:
        return None if arm is named else named
    if arm.is_plain:
        return None
    return next((one for one in arms if one.is_plain and one.base_key == arm.base_key), None)


def _settings(chain: Chain) -> dict[str, Any]:
    """The configuration without seed and start, and without settings that do nothing."""
    left_out = (*_NOT_SETTINGS, *_START_FIELDS)
    found = {name: value for name, value in chain.configuration.items() if name not in left_out}
    count = len(found["data"])
    found |= {name: found[name] * count for name in _BY_STAGE if len(found[name]) == 1}
    pairs = zip(found["mix"], found["mix_ratio"], strict=True)
    ratios = [ratio for mix, ratio in pairs if mix != NO_MIX]
    found["mix_ratio"] = ratios[:1] if len(set(ratios)) == 1 else ratios
    idle = () if found["mix_ratio"] else _OF_A_MIX
    if found["replay"] == Replay.NONE:
        idle = (*idle, "replay_ratio")
    return {name: value for name, value in found.items() if name not in idle}


def _start(chain: Chain) -> Start:
    configuration = chain.configuration
    return start_named(configuration["model"], configuration["revision"], chain.start_sha256)


def _names(chains: Sequence[Chain]) -> list[str]:
    starts = [_start(chain).label for chain in chains]
    several = len(set(starts)) > 1
    found = [
        [label] * several + (_parts(chain) or [PLAIN_NAME])
        for label, chain in zip(starts, chains, strict=True)
    ]
    names = [
        ", ".join([*mine, *_different(chain, chains)])
        for mine, chain in zip(found, chains, strict=True)
    ]
    return [
        f"{name}, weights {chain.start_sha256[:8]}" if names.count(name) > 1 else name
        for name, chain in zip(names, chains, strict=True)
    ]


def _parts(chain: Chain) -> list[str]:
    """What is done beside plain training, each in a few words."""
    configuration = chain.configuration
    parts = list(_mixes(chain))
    ratio = f"{100 * configuration['replay_ratio']:g} %"
    if configuration["replay"] == Replay.ITEMS:
        parts.append(f"replay of {ratio}")
    elif configuration["replay"] == Replay.SELF:
        parts.append(f"self-generated replay of {ratio}")
    if (edit := edit_label(configuration)) != UNEDITED_NAME:
        parts.append(f"{edit} before {configuration['edit_before']}")
    return parts


def _mixes(chain: Chain) -> Iterator[str]:
    configuration = chain.configuration
    pairs = zip(chain.stages, _settings(chain)["mix"], strict=True)
    mixed = [f"{name} at {stage}" for stage, name in pairs if name != NO_MIX]
    if mixed and configuration["no_mix_control"] is not None:
        control = configuration["no_mix_control"]
        yield f"{PLAIN_NAME}, as many {control} as with {' and '.join(mixed)}"
    else:
        yield from mixed


def _different(chain: Chain, chains: Sequence[Chain]) -> Iterator[str]:
    """The settings that no name says yet, and in which some of the runs differ."""
    all_settings = [_settings(other) for other in chains]
    for name, value in _settings(chain).items():
        if name not in _NAMED and any(other.get(name, value) != value for other in all_settings):
            yield f"{name.replace('_', ' ')} {shown_value(value)}"
