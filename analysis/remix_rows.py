"""What runs of continual memorization kept, fact by fact, as the table `MEMORIZATION`.

A fact of stage A is right where every token of its answer is the most probable one after those
before it (teacher forcing, the match `tokens`): every run asks that, whether or not it also writes
answers. Facts that the start knew are asked for in a list of their own, `familiar`. The facts of
stage A are not familiar where that was tried (`--familiarity-items`) and for made-up key-value
pairs; of others it is not known, and `familiar` is missing.

A run whose edit was made before a later stage than A is left out: no column says that. Where mixed
stages have different ratios, `mix_ratio` is missing, and so with `mix_corpus`; where later stages
have different mixes, or some have none, `mix_later` names all ("generic+None"). A stage is called
by the name of its data, a file by its own; kinds of later stages are those of
`training.data.primary_sets`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from analysis.arms import remix_arms
from analysis.measurements import COLUMNS, SOURCE, Table, of_one_source_each
from analysis.remix_curves import TOP_K, is_hooked, model_keys, ranks_by_model
from analysis.run_settings import edit_settings
from analysis.runs import Chain
from probes.localization import NEVER, Localization, localize
from training.choices import Replay
from training.data.factoids import KEY_VALUE_RECALL
from training.data.mixes import MixName
from training.data.primary_sets import PrimaryKind
from training.recipes import from_json
from training.remix_config import FAMILIAR, RemixConfig, StageConfig

FIRST = "A"
RIGHT = "share right"
FIRST_LAYER, EFFECTIVE_LAYERS = "first layer", "effective layers"
_KINDS = {PrimaryKind.FACTOIDS: "factoid", PrimaryKind.INSTRUCTIONS: "non-factoid"}


def memorization_table(
    chains: Sequence[Chain], *, depths: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What runs kept of the facts of stage A, at every moment from the end of stage A on.

    With `depths` (`fact_depths`) also where they are readable. `cluster` is all that is known of a
    fact, as JSON, so that runs with the same facts pair up.
    """
    columns = list(COLUMNS[Table.MEMORIZATION])
    found = [rows for chain in chains for rows in _rows(chain, depths)]
    if not found:
        return pd.DataFrame(columns=columns)
    table = of_one_source_each(Table.MEMORIZATION, pd.concat(found, ignore_index=True))
    return table[columns]


def fact_depths(chains: Sequence[Chain], items: int, *, k: int = TOP_K) -> pd.DataFrame:
    """The layers in which so many facts of stage A are readable after each stage."""
    arms = [arm for arm in remix_arms(chains) if not is_hooked(arm)] if chains else []
    read = ranks_by_model(arms, items, None)
    rows = [
        (str(chain.path), moment, *found)
        for arm in arms
        for chain in arm.runs
        for moment, key in model_keys(chain).items()
        if moment in chain.moments[1:]
        for found in _depth_rows(chain, localize(read[key].ranks, k, read[key].d_vocab))
    ]
    return pd.DataFrame(rows, columns=["run", "moment", "measure", "cluster", "value"])


def _depth_rows(chain: Chain, found: Localization) -> Iterator[tuple[str, str | None, float]]:
    answers = chain.answers(FIRST, chain.moments[-1])
    assert answers is not None, "items of all stages are asked for at the end of each"
    for fact, layer in zip(answers.index, found.first_layer.tolist(), strict=False):
        if layer != NEVER:
            yield FIRST_LAYER, fact, float(layer)
    if (found.first_layer != NEVER).any():
        yield EFFECTIVE_LAYERS, None, found.effective_layers


def _rows(chain: Chain, depths: pd.DataFrame | None) -> Iterator[pd.DataFrame]:
    edit = edit_settings(chain.configuration)
    is_edited = any(value is not None for value in edit.values())
    if is_edited and chain.configuration["edit_before"] != FIRST:
        return
    settings = {**edit, **chain_settings(chain), **_amounts(chain), SOURCE: str(chain.path)}
    data = chain.manifest["inputs"]["stages"][FIRST]["data"]
    was_tried = data["name"] == KEY_VALUE_RECALL or "familiarity" in data
    known = False if was_tried else None
    for items, familiar in ((FIRST, known), (FAMILIAR, True)):
        for moment in chain.moments[1:]:
            answers = chain.answers(items, moment)
            if answers is not None:
                found = pd.DataFrame({"cluster": answers.index, "value": answers.to_numpy()})
                yield found.assign(**settings, measure=RIGHT, moment=moment, familiar=familiar)
    if depths is not None:
        ours = depths[depths["run"] == str(chain.path)].drop(columns="run")
        yield ours.assign(**settings, familiar=known)


def chain_settings(chain: Chain) -> dict[str, Any]:
    """What the columns say of a run, but for its edit, moment, fact and whether it was familiar."""
    config = from_json(RemixConfig, {**chain.configuration, **chain.manifest["execution"]})
    first, *later = config.stages
    replays = config.replay is not Replay.NONE
    mix_first, *mix_later = map(_mixed_in, config.stages)
    ratios = [stage.mix_ratio for stage in config.stages if _mixed_in(stage) is not None]
    texts = [
        PurePath(config.mix_corpus).name if stage.mix == MixName.GENERIC else stage.mix
        for stage in config.stages
        if _mixed_in(stage) == MixName.GENERIC
    ]
    return {
        "seed": chain.seed,
        "first": PurePath(first.data).name,
        "later": "+".join(PurePath(stage.data).name for stage in later) or None,
        "later_kind": _only(_kind(chain, stage) for stage in later),
        "stages": len(config.stages),
        "mix_first": mix_first,
        "mix_later": "+".join(dict.fromkeys(map(str, mix_later))) if any(mix_later) else None,
        "mix_ratio": _only(ratios),
        "mix_words": config.mix_words if ratios else None,
        "mix_corpus": _only(texts),
        "equal": None if config.no_mix_control is None else str(config.no_mix_control),
        "replay": str(config.replay) if replays else None,
        "replay_ratio": config.replay_ratio if replays else None,
    }


def _amounts(chain: Chain) -> dict[str, int]:
    """How much the stages of a run were trained."""
    first, *later = chain.stages.values()
    return {
        f"{what}_{place}": sum(int(number(stage)) for stage in stages)
        for place, stages in (("first", [first]), ("later", later))
        for what, number in (
            ("updates", lambda stage: stage.outcome["steps"]),
            ("tokens", lambda stage: stage.run.steps["trained_tokens"].sum()),
        )
    }


def _mixed_in(stage: StageConfig) -> str | None:
    """Random words, or passages of any text; None for nothing."""
    if stage.mix is None or stage.control is not None:
        return None
    return stage.mix if stage.mix == MixName.RANDOM else str(MixName.GENERIC)


def _kind(chain: Chain, stage: StageConfig) -> str:
    return _KINDS[PrimaryKind(chain.manifest["inputs"]["stages"][stage.name]["data"]["kind"])]


def _only(values: Iterable[Any]) -> Any:
    """The one value that there is; None where there are several, or none."""
    found = {*values}
    return found.pop() if len(found) == 1 else None
