"""The plan of a study: which runs of continual memorization, and which of them share stage A.

A study is a list of arms; an arm is a few settings that differ from plain training of one stage
after the other. Every arm is run with several seeds. Runs that agree in all that stage A is made
from need it once: the first of them trains it, the others go on from there. All runs of the first
seed come first, so that a study that is stopped early has something of everything.

| study            | arms                                                                       |
|------------------|----------------------------------------------------------------------------|
| `arms`           | mixes at A, later, and both; replay, self-replay; as many steps; edited    |
| `main-table`     | mixes at A, later, and both, for every pair of --first-sets and later ones |
| `replay-ratios`  | 1, 5 and 10 % of the earlier items shown again, beside REMIX               |
| `mix-ratios`     | mixes of half, as many, twice and four times the items, at A and later     |
| `mix-lengths`    | mixes of a half, once, twice and four times the words                      |
| `three-stages`   | no mix, at A, later, and both, over three stages                           |
| `familiar`       | factoids that the start knew, while a later stage has each mix             |

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: Tables 1
to 6, Figures 6 to 8.

Example:
    >>> from training.remix.recipes import smoke
    >>> [one.name for one in plan_study(smoke(), Study.REPLAY_RATIOS, seeds=1)][:3]
    ['no-mixing-seed-0', 'replay-0.01-seed-0', 'replay-0.05-seed-0']
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from analysis.command_words import configured
from analysis.remix_study.choices import Study, StudySettings
from training.choices import NoMixControl, Replay
from training.remix.config import NO_MIX, RemixConfig

RATIO, FACTOR = 0.5, 2.0
"""Of the resuscitation, where nothing else is asked for."""
REPLAY_RATIOS = (0.01, 0.05, 0.1)
MIX_RATIOS = (0.5, 1.0, 2.0, 4.0)
LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Of mixes, over that of the recipe."""
FAMILIARITY_ITEMS = 500
"""That the start is asked, where the recipe does not say."""
PLAIN = "no-mixing"
Changes = dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study.

    Attributes:
        name: of its folder.
        config: all of it, but for the run that it goes on from.
        place: in the order of arms and seeds, which sharing stage A changes.
        stage_a_of: name of the run that trains its stage A; None where it does so itself.
    """

    name: str
    config: RemixConfig
    place: int
    stage_a_of: str | None = None

    def final(self, folder: Path) -> RemixConfig:
        """Its configuration, in a folder of runs."""
        if self.stage_a_of is None:
            return self.config
        return replace(self.config, from_stage_a=folder / self.stage_a_of)

    def words(self, recipe: RemixConfig, recipe_name: str, folder: Path) -> list[str]:
        """The arguments of `python -m training.remix` that make it, or go on with it."""
        words = configured(self.final(folder), recipe, recipe_name)
        return [*words, "--out", str(folder / self.name), "--resume"]


def plan_study(
    config: RemixConfig,
    study: Study = Study.ARMS,
    settings: StudySettings | None = None,
    *,
    seeds: int,
) -> list[PlannedRun]:
    """All runs, in the order in which they are to be made."""
    if seeds < 1:
        raise ValueError(f"a study needs 1 or more --seeds, found {seeds}")
    settings = settings or StudySettings()
    arms = _chosen(dict(_arms(config, study, settings)), settings.arms)
    seeded = product(range(config.seed, config.seed + seeds), arms.items())
    return sharing_stage_a(
        [
            PlannedRun(f"{name}-seed-{seed}", replace(config, seed=seed, **changes), place)
            for place, (seed, (name, changes)) in enumerate(seeded)
        ]
    )


def groups_of(plan: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs that must be made one after the other, since they share stage A."""
    groups: dict[str, list[PlannedRun]] = {}
    for one in plan:
        groups.setdefault(one.stage_a_of or one.name, []).append(one)
    return list(groups.values())


def _chosen(arms: dict[str, Changes], names: Sequence[str]) -> dict[str, Changes]:
    for name in names:
        if name not in arms:
            nearest = get_close_matches(name, arms, n=1, cutoff=0)[0]
            raise ValueError(
                f"the study has no arm {name!r}; did you mean {nearest}? It has {', '.join(arms)}"
            )
    return {name: changes for name, changes in arms.items() if name in names or not names}


def sharing_stage_a(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs that say whose stage A they go on from; those with the same one stand together."""
    groups: dict[Any, list[PlannedRun]] = {}
    for one in runs:
        # An edit before stage A is measured in the run that makes it.
        edited = one.config.is_edited and one.config.edit_before == one.config.names[0]
        alone = edited or len(one.config.data) < 2
        groups.setdefault(one.name if alone else one.config.stage_a(), []).append(one)
    return [
        one if one is first else replace(one, stage_a_of=first.name)
        for first, *others in groups.values()
        for one in (first, *others)
    ]


def _arms(
    config: RemixConfig, study: Study, settings: StudySettings
) -> Iterator[tuple[str, Changes]]:
    """The arms of a study, by the names of their folders."""
    first, later = settings.first_mix, settings.later_mix
    count = len(config.data)
    both = {"mix": _mix(count, first, later)}
    if study is Study.ARMS:
        yield from _placements(count, first, later).items()
        yield "replay", {"replay": Replay.ITEMS}
        yield "self-replay", {"replay": Replay.SELF}
        yield "as-many-steps", {**both, "no_mix_control": NoMixControl.STEPS}
        yield "resuscitated", {"resuscitation_ratio": RATIO, "resuscitation_factor": FACTOR}
    elif study is Study.MAIN_TABLE:
        for one, other in product(settings.first_sets, settings.later_sets):
            for name, changes in _placements(2, first, later).items():
                yield f"{_name(one)}-{_name(other)}-{name}", {"data": (one, other), **changes}
    elif study is Study.REPLAY_RATIOS:
        yield PLAIN, {}
        for ratio in REPLAY_RATIOS:
            yield f"replay-{ratio:g}", {"replay": Replay.ITEMS, "replay_ratio": ratio}
        yield "both", both
    elif study is Study.THREE_STAGES:
        data = config.data if count > 2 else (*config.data, config.data[-1])
        for name, changes in _placements(len(data), first, later, few=True).items():
            yield name, {"data": data, **changes}
    elif study is Study.FAMILIAR:
        yield PLAIN, _familiar(config)
        for mix in settings.familiar_mixes:
            changes = {"mix": _mix(count, NO_MIX, mix)}
            yield f"{_name(mix)}-later", {**_familiar(config), **changes}
    else:
        yield from _sizes(config, study, settings)


def _sizes(
    config: RemixConfig, study: Study, settings: StudySettings
) -> Iterator[tuple[str, Changes]]:
    """Mixes of several sizes, at A and later, one at a time."""
    count = len(config.data)
    yield PLAIN, {}
    for place, mix in (
        ("at-a", _mix(count, settings.first_mix, NO_MIX)),
        ("later", _mix(count, NO_MIX, settings.later_mix)),
    ):
        for size in MIX_RATIOS if study is Study.MIX_RATIOS else LENGTHS:
            if study is Study.MIX_RATIOS:
                yield f"{place}-ratio-{size:g}", {"mix": mix, "mix_ratio": (size,)}
            else:
                words = max(1, round(config.mix_words * size))
                yield f"{place}-{words}-words", {"mix": mix, "mix_words": words}


def _placements(count: int, first: str, later: str, *, few: bool = False) -> dict[str, Changes]:
    """No mix, each mix at A and later, and the one at A with the other later."""
    mixes = {PLAIN: (NO_MIX, NO_MIX), f"{_name(first)}-at-a": (first, NO_MIX)}
    if not few and first != later:
        mixes[f"{_name(later)}-at-a"] = (later, NO_MIX)
        mixes[f"{_name(first)}-later"] = (NO_MIX, first)
    mixes[f"{_name(later)}-later"] = (NO_MIX, later)
    mixes["both"] = (first, later)
    return {name: {"mix": _mix(count, *pair)} for name, pair in mixes.items()}


def _mix(count: int, first: str, later: str) -> tuple[str, ...]:
    found = (first, *[later] * (count - 1))
    return (first,) if set(found) == {first} else found


def _familiar(config: RemixConfig) -> Changes:
    return {"familiarity_items": config.familiarity_items or FAMILIARITY_ITEMS}


def _name(text: str) -> str:
    """A set or a mix as a part of a folder's name; of a file its stem."""
    return Path(text).stem
