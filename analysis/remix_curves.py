"""Curves over the stages: what was known, and the loss on each source, while training went on.

Arms take different numbers of updates (a mix makes an epoch longer, and rules end stages early), so
curves run over the **place**: 0 to 1 is stage A from its first to its last update, 1 to 2 stage B,
and so on. Of several seeds there is the mean, with the least and the most; a seed that was not
looked at in a place is interpolated linearly between its neighbours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from torch import Tensor

import probes
from analysis.arms import UNEDITED_NAME, RemixArm, base_of, edit_label
from analysis.depth import DepthChange, checkpoint_ranks, depth_change, depth_table
from analysis.remix_measures import LOG_PROB, SHARE
from analysis.runs import TOKENS, Chain, Moment, StageRun
from probes.cli import progress
from probes.hooked_model import HookedModel
from training.choices import Replay
from training.forgetting_terms import alignment, delta_1, delta_2
from training.recipes import from_json
from training.relearning import Relearned
from training.remix.config import NO_MIX, RemixConfig
from training.remix.items import stage_items
from training.remix.looks import MIX_SAMPLE
from training.runs.directory import CHECKPOINTS_FOLDER
from training.runs.records import GradientAlignmentRecord, StepRecord, records_of
from training.start_models import find_start

_POINTS = 40
"""Of a curve of losses in a stage: each is the mean over a stretch of updates."""
_CURVE = ("arm", "stage", "place", "step", "value", "low", "high")
Curves = Mapping[tuple[str, ...], pd.Series]
"""By what they are of, values by step."""


def recall_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How much of every list was known, at every look."""
    return _curves(arms, _recalls, ("items", "measure"))


def source_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """The training loss on every source, in nats a token."""
    return _curves(arms, _sources, ("source",))


def alignment_curves(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Cosines between the gradients of samples, at every look."""
    return _curves(arms, _cosines, ("pair",))


def sign_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """In how many looks the sign of a product of gradients could be told, and which it was."""
    rows = []
    for arm in arms:
        for stage in arm.stages:
            records = [
                record
                for chain in arm.runs
                for record in records_of(chain.stages[stage].run.path, GradientAlignmentRecord)
            ]
            for first, second in _pairs(records):
                found = [alignment(r, first, second) for r in records]
                signs = [one.sign for one in found]
                cosines = [one.cosine for one in found if one.cosine is not None]
                counts = (len(found), signs.count(1), signs.count(-1), signs.count(None))
                mean = float(np.mean(cosines)) if cosines else None
                rows.append((arm.name, stage, f"{first} and {second}", *counts, mean))
    columns = ["arm", "stage", "pair", "looks", "positive", "negative", "untold", "cosine"]
    return pd.DataFrame(rows, columns=columns)


def _recalls(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    for (items, match), looks in stage.recalls.items():
        if match == TOKENS:
            yield (items, SHARE), looks.correct.mean(axis=1)
            if looks.log_probs is not None:
                yield (items, LOG_PROB), looks.log_probs.mean(axis=1)


def _sources(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    records = records_of(stage.run.path, StepRecord)
    losses = pd.DataFrame([r.loss_by_source for r in records], [r.step for r in records])
    stretch = -(-len(losses) // _POINTS)
    for source in losses.columns:
        # A batch need not have all sources.
        there = losses[source].dropna()
        means = there.groupby((there.index - 1) // stretch).mean()
        middles = (np.asarray(means.index) + 0.5) * stretch
        yield (str(source),), pd.Series(means.to_numpy(), np.minimum(middles, len(losses)))


def _cosines(stage: StageRun) -> Iterator[tuple[tuple[str, ...], pd.Series]]:
    records = records_of(stage.run.path, GradientAlignmentRecord)
    for first, second in _pairs(records):
        cosines = {r.step: alignment(r, first, second).cosine for r in records}
        there = {step: cosine for step, cosine in cosines.items() if cosine is not None}
        if there:
            yield (f"{first} and {second}",), pd.Series(there, dtype=float)


def _pairs(records: Sequence[GradientAlignmentRecord]) -> list[tuple[str, str]]:
    """The pairs of different samples that all records have."""
    if not records:
        return []
    names = [name for name in records[0].samples if all(name in r.samples for r in records)]
    return [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]


def _curves(
    arms: Sequence[RemixArm],
    look: Callable[[StageRun], Iterator[tuple[tuple[str, ...], pd.Series]]],
    keys: tuple[str, ...],
) -> pd.DataFrame:
    tables = [
        pd.DataFrame(
            dict(zip(keys, key, strict=True)) | {"arm": arm.name, "stage": name}, [0]
        ).merge(_mean_over_seeds(seeds, place), how="cross")
        for arm in arms
        for place, name in enumerate(arm.stages)
        for key, seeds in _by_key(arm, name, look).items()
    ]
    columns = [_CURVE[0], *keys, *_CURVE[1:]]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return found[columns]


def _by_key(
    arm: RemixArm,
    name: str,
    look: Callable[[StageRun], Iterator[tuple[tuple[str, ...], pd.Series]]],
) -> dict[tuple[str, ...], list[tuple[int, pd.Series]]]:
    found: dict[tuple[str, ...], list[tuple[int, pd.Series]]] = {}
    for chain in arm.runs:
        stage = chain.stages[name]
        for key, values in look(stage):
            found.setdefault(key, []).append((int(stage.outcome["steps"]), values))
    return found


def _mean_over_seeds(seeds: Sequence[tuple[int, pd.Series]], place: int) -> pd.DataFrame:
    """Mean, least and most of several series, on all places that any has."""
    parts = [np.asarray(values.index, dtype=float) / steps for steps, values in seeds]
    grid = np.unique(np.concatenate(parts).round(9))
    drawn = np.stack(
        [np.interp(grid, part, values) for part, (_, values) in zip(parts, seeds, strict=True)]
    )
    steps = np.mean([steps for steps, _ in seeds])
    return pd.DataFrame(
        {
            "place": place + grid,
            "step": grid * steps,
            "value": drawn.mean(axis=0),
            "low": drawn.min(axis=0),
            "high": drawn.max(axis=0),
        }
    )


_TERMS = (
    *("arm", "seed", "mix_share", "delta_1", "delta_2", "low", "high", "sign"),
    "near_zero",
)


def term_table(arms: Sequence[RemixArm], base: RemixArm | None = None) -> pd.DataFrame:
    """Both terms of every run that mixes."""
    rows = [
        (arm.name, chain.seed, *found)
        for arm in arms
        if (plain := base_of(arm, arms, base)) is not None
        for chain in arm.runs
        for other in plain.runs
        if other.seed == chain.seed
        for found in _terms(chain, other)
    ]
    return pd.DataFrame(rows, columns=list(_TERMS)).astype({"sign": "Int64"})


def loss_share(chain: Chain, stage: str, source: str) -> float:
    """Which share of the loss of a stage one of its sources makes up."""
    records = records_of(chain.stages[stage].run.path, StepRecord)
    losses = pd.DataFrame([record.loss_by_source for record in records])
    whole = losses.notna().all(axis=1)
    values = losses[whole].to_numpy()
    loss = np.array([record.loss for record in records])[whole.to_numpy()]
    # The shares sum to 1: the last one is what the others leave.
    others = values[:, :-1] - values[:, -1:]
    found = np.linalg.lstsq(others, loss - values[:, -1], rcond=None)[0]
    shares = dict(zip(losses.columns, [*found, 1 - found.sum()], strict=True))
    return float(np.clip(shares[source], 0.0, 1.0))


def _terms(chain: Chain, plain: Chain) -> Iterator[tuple[Any, ...]]:
    if chain.configuration["replay"] != Replay.NONE or "B" not in chain.stages:
        return
    alone, mixed = _first(plain), _first(chain)
    if alone is None or mixed is None:
        return
    at_a, at_b = (_mix(chain, stage) for stage in ("A", "B"))
    share = 0.0
    if at_b is not None and MIX_SAMPLE in mixed.samples:
        share = loss_share(chain, "B", at_b)
    if at_a is None and not share:
        return
    start = alone if at_a is not None else mixed
    found = delta_2(start, mixed, mix_share=share)
    first = delta_1(alone, mixed) if at_a is not None else 0.0
    yield (
        *(share, first, found.value, found.interval.low, found.interval.high, found.sign),
        ", ".join(found.near_zero),
    )


def _first(chain: Chain) -> GradientAlignmentRecord | None:
    """What was seen at the start of stage B."""
    if "B" not in chain.stages:
        return None
    records = records_of(chain.stages["B"].run.path, GradientAlignmentRecord)
    return next((record for record in records if record.step == 0), None)


def _mix(chain: Chain, stage: str) -> str | None:
    """What is mixed into a stage; None for nothing, or where a control leaves it out."""
    configuration = chain.configuration
    names = configuration["mix"]
    name = names[0] if len(names) == 1 else names[list(chain.stages).index(stage)]
    return None if name == NO_MIX or configuration["no_mix_control"] is not None else str(name)


_CURVES = ("arm", "of", "measure", "step", "value", "low", "high", "seeds")
_SPILLS = (
    *("arm", "again_before", "again", "other_before", "other", "never_taught_before"),
    *("never_taught", "spill_over", "low", "high", "seeds"),
)


def relearning_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What was right before the first step of relearning and after each, mean over seeds."""
    rows = [
        (arm.name, group, measure, step, values.mean(), values.min(), values.max(), len(values))
        for arm in arms
        for measure, key in ((SHARE, "exact_match"), (LOG_PROB, "log_prob"))
        for group, looks in _by_group(arm, key).items()
        for step, values in enumerate(np.array(looks).T)
    ]
    return pd.DataFrame(rows, columns=list(_CURVES))


def spill_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What relearning brought back in the end."""
    rows = []
    for arm in arms:
        by_group = _by_group(arm, "exact_match")
        if not by_group:
            continue
        spills = [float(chain.relearning["spill_over"]) for chain in arm.runs if chain.relearning]
        row: dict[str, Any] = {"arm": arm.name, "seeds": len(spills)}
        for group, looks in by_group.items():
            name = group.replace(" ", "_")
            row[f"{name}_before"], row[name] = np.mean([(run[0], run[-1]) for run in looks], axis=0)
        rows.append(row | {"spill_over": np.mean(spills), "low": min(spills), "high": max(spills)})
    return pd.DataFrame(rows, columns=list(_SPILLS))


def _by_group(arm: RemixArm, key: str) -> dict[str, list[list[float]]]:
    """The looks of every run that has them, by the kind of items."""
    runs = [chain.relearning[key] for chain in arm.runs if chain.relearning is not None]
    return {
        str(group): [run[group] for run in runs]
        for group in Relearned
        if runs and all(group in run for run in runs)
    }


TOP_K = 10
"""An answer is readable where its first token is among so many top tokens: the paper's."""
STAGES, BASE = "stages", "base"
"""What is compared: a stage of a run with what came before it, or a run with that of its base."""
_CHANGES = (
    *("arm", "seed", "compared", "before", "after", "found_in_both", "depth", "spread"),
    *("test", "effect", "low", "high", "p_value", "items"),
)
Pairs = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class _Read:
    """Ranks of answers in one model."""

    ranks: Int64[Tensor, "layer item"]
    d_vocab: int


def depth_tables(
    arms: Sequence[RemixArm],
    items: int,
    base: RemixArm | None = None,
    *,
    device: str | None = None,
    k: int = TOP_K,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Where items are readable, and how that moved."""
    read = ranks_by_model(arms, items, device)
    tables, rows = [], []
    told: set[tuple[int, int]] = set()
    for arm in arms:
        # Checkpoints of hooked arms lack the edit: what was trained is another model.
        for chain in () if is_hooked(arm) else arm.runs:
            ours = {moment: read[key] for moment, key in model_keys(chain).items()}
            d_vocab = next(iter(ours.values())).d_vocab
            found = depth_table({m: r.ranks for m, r in ours.items()}, k=k, d_vocab=d_vocab)
            tables.append(found.assign(arm=arm.name, seed=chain.seed))
            other = _other(chain, base_of(arm, arms, base))
            for compared, names, pair in _compared(chain, ours, other, read):
                # What a shared stage did is said once.
                if compared == STAGES and (id(pair[0]), id(pair[1])) in told:
                    continue
                told.add((id(pair[0]), id(pair[1])))
                change = depth_change(
                    *(one.ranks for one in pair), k=k, d_vocab=d_vocab, seed=0, names=names
                )
                rows += [(arm.name, chain.seed, compared, *row) for row in _rows(change)]
    depths = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return depths, pd.DataFrame(rows, columns=list(_CHANGES))


def ranks_by_model(arms: Sequence[RemixArm], items: int, device: str | None) -> dict[str, _Read]:
    """Ranks in every model that a chain has, by where it is; each is loaded once."""
    users: dict[str, Chain] = {}
    for arm in arms:
        if not is_hooked(arm):
            for chain in arm.runs:
                for key in model_keys(chain).values():
                    users.setdefault(key, chain)
    read = {}
    known: dict[str, Pairs] = {}
    with progress("localization, models", len(users)) as advance:
        for key, chain in users.items():
            model = probes.load_model(key, device=device, dtype="float32")
            # A chain's start comes first among its models, and may decide which items are learnt.
            name = chain.manifest["inputs"]["stages"]["A"]["data"]["content_hash"]
            if name not in known:
                known[name] = _items(chain, model, name)
            ranks = checkpoint_ranks({key: model}, known[name][:items])
            read[key] = _Read(ranks[key], model.d_vocab)
            advance(1)
    return read


def is_hooked(arm: RemixArm) -> bool:
    """Whether the runs of an arm are edited by hooks, which their checkpoints do not have."""
    configuration = arm.runs[0].configuration
    return edit_label(configuration) != UNEDITED_NAME and configuration["edit_form"] == "hooks"


def model_keys(chain: Chain) -> dict[str, str]:
    """The folder or name of every model of a chain, by its moment."""
    configuration = chain.configuration
    start = find_start(configuration["model"], configuration["revision"])
    found: dict[str, str] = {Moment.START: start.model}
    for moment, stage in zip(chain.moments[1:], chain.stages.values(), strict=True):
        path = stage.run.path / CHECKPOINTS_FOLDER / str(stage.outcome["checkpoint"])
        found[moment] = str(Path(path).resolve())
    return found


def _items(chain: Chain, start: HookedModel, content_hash: str) -> Pairs:
    """Prompts and answers of stage A as tokens, as they were learnt."""
    stored = {**chain.configuration, **chain.manifest["execution"]}
    config = from_json(RemixConfig, stored)
    found = stage_items(config, replace(config.stages[0], mix=None), start)
    if found.inputs["data"]["content_hash"] != content_hash:
        raise ValueError(
            f"the items of {config.data[0]} are others now than {chain.path} learnt; report it "
            "without --localization, or with the data that it had"
        )
    return [
        (list(row.prompt_ids), list(row.answer_ids))
        for row in found.rows.items[: config.stages[0].items]
    ]


def _other(chain: Chain, base: RemixArm | None) -> Chain | None:
    """The run of the same seed in the base of an arm."""
    if base is None:
        return None
    return next((other for other in base.runs if other.seed == chain.seed), None)


def _compared(
    chain: Chain, ours: Mapping[str, _Read], other: Chain | None, read: Mapping[str, _Read]
) -> Iterator[tuple[str, tuple[str, str], tuple[_Read, _Read]]]:
    """What is compared, the names of the two, and their ranks."""
    moments = [moment for moment in chain.moments if moment in ours]
    for one, later in pairwise(moments):
        yield STAGES, (one, later), (ours[one], ours[later])
    last = chain.moments[-1]
    if other is not None and last in (theirs := model_keys(other)) and theirs[last] in read:
        yield BASE, (f"base {last}", last), (read[theirs[last]], ours[last])


def _rows(change: DepthChange) -> Iterator[tuple[object, ...]]:
    told = (*change.names, change.found_in_both, str(change.depth), str(change.spread))
    for name, test in change.tests.items():
        numbers = (test.effect, test.interval.low, test.interval.high, test.p_value, test.n)
        yield (*told, name, *numbers)
