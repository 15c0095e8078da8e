"""What happened while stages were trained: what was known, losses by source, gradients, relearning.

Arms take different numbers of updates (a mix makes an epoch longer, and rules end stages early), so
curves run over the **place**: 0 to 1 is stage A from its first to its last update, 1 to 2 stage B,
and so on. Of several seeds there is the mean, with the least and the most; a seed that was not
evaluated in a place is interpolated linearly between its neighbours.

Where in depth the items of stage A become readable is seen in the models of the start and of the
end of every stage, through the lens (`analysis.depth`). Compared are every stage of a run with what
came before it, and every arm with its base after the last stage, seed by seed. An arm whose edits
are hooks is left out: its checkpoints hold the weights without them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from torch import Tensor

import probes
from analysis.arms import RemixArm, base_of, edit_form
from analysis.depth import checkpoint_ranks, depth_change, depth_table
from analysis.remix_measures import LOG_PROB, SHARE
from analysis.runs import TOKENS, Chain, Moment, StageRun
from probes.cli import progress
from probes.hooked_model import HookedModel
from training.choices import Replay
from training.forgetting_terms import alignment, delta_1, delta_2
from training.options import EditForm
from training.recipes import from_json
from training.relearning import Relearned
from training.remix_config import MIX_SAMPLE, NO_MIX, RemixConfig
from training.remix_items import stage_items
from training.runs.directory import CHECKPOINTS_FOLDER
from training.runs.records import GradientAlignmentRecord, StepRecord, records_of
from training.start_or_resume import find_start

_POINTS = 40  # points of a stage's curve of losses, means over a stretch of updates each
_CURVE = ("stage", "place", "step", "value", "low", "high")
_TERMS = "arm seed mix_share delta_1 delta_2 low high sign near_zero"
_RELEARNING = "arm of measure step value low high seeds"
_SPILLS = (
    "arm again_before again other_before other never_taught_before never_taught spill_over low "
    "high seeds"
)
TOP_K = 10  # an answer is readable where its first token is among so many top tokens: the paper's
STAGES, BASE = "stages", "base"
"""What is compared: a stage of a run with what came before it, or a run with that of its base."""
DEPTH_KEYS = ("compared", "before", "after")
_DEPTH_CHANGES = (
    "arm seed compared before after found_in_both depth spread test effect low high p_value items"
)
_Items = list[tuple[list[int], list[int]]]
Series = Iterator[tuple[tuple[str, ...], pd.Series]]  # values by step, and what they are of


def curves_of(
    arms: Sequence[RemixArm], read: Callable[[StageRun], Series], *keys: str
) -> pd.DataFrame:
    """What is read of stages, over their places; `keys` name what the series are of."""
    columns = ["arm", *keys, *_CURVE]
    tables = [pd.DataFrame(columns=columns)]
    for arm in arms:
        for place, name in enumerate(arm.stages):
            found: dict[tuple[str, ...], list[tuple[int, pd.Series]]] = {}
            for stage in (chain.stages[name] for chain in arm.runs):
                for key, values in read(stage):
                    found.setdefault(key, []).append((int(stage.outcome["steps"]), values))
            for key, seeds in found.items():
                what = {"arm": arm.name, "stage": name, **dict(zip(keys, key, strict=True))}
                tables.append(_mean_over_seeds(seeds, place).assign(**what)[columns])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _mean_over_seeds(seeds: Sequence[tuple[int, pd.Series]], place: int) -> pd.DataFrame:
    """Mean, least and most of several series, on all places that any has."""
    parts = [np.asarray(values.index, dtype=float) / steps for steps, values in seeds]
    grid = np.unique(np.concatenate(parts).round(9))
    drawn = np.stack(
        [np.interp(grid, part, values) for part, (_, values) in zip(parts, seeds, strict=True)]
    )
    at = {"place": place + grid, "step": grid * np.mean([steps for steps, _ in seeds])}
    spread = {"value": drawn.mean(axis=0), "low": drawn.min(axis=0), "high": drawn.max(axis=0)}
    return pd.DataFrame({**at, **spread})


def recalls(stage: StageRun) -> Series:
    """How much of every list was known, by `items` and `measure`."""
    for (items, match), asked in stage.recalls.items():
        if match == TOKENS:
            yield (items, SHARE), asked.correct.mean(axis=1)
            if asked.log_probs is not None:
                yield (items, LOG_PROB), asked.log_probs.mean(axis=1)


def losses_by_source(stage: StageRun) -> Series:
    """The training loss on every source, in nats a token."""
    records = records_of(stage.run.path, StepRecord)
    losses = pd.DataFrame([r.loss_by_source for r in records], [r.step for r in records])
    stretch = -(-len(losses) // _POINTS)
    for source in losses.columns:
        # A batch need not have all sources.
        there = losses[source].dropna()
        means = there.groupby((there.index - 1) // stretch).mean()
        middles = (np.asarray(means.index) + 0.5) * stretch
        yield (str(source),), pd.Series(means.to_numpy(), np.minimum(middles, len(losses)))


def gradient_cosines(stage: StageRun) -> Series:
    """Cosines between the gradients of pairs of samples."""
    records = records_of(stage.run.path, GradientAlignmentRecord)
    for first, second in _pairs(records):
        cosines = pd.Series(
            {r.step: alignment(r, first, second).cosine for r in records}, dtype=float
        )
        if cosines.notna().any():
            yield (f"{first} and {second}",), cosines.dropna()


def _pairs(records: Sequence[GradientAlignmentRecord]) -> list[tuple[str, str]]:
    samples = records[0].samples if records else ()
    return list(combinations([n for n in samples if all(n in r.samples for r in records)], 2))


def sign_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """At how many evaluations a product of gradients is positive, negative or neither clearly."""
    rows = []
    for arm, stage in [(one, stage) for one in arms for stage in one.stages]:
        paths = [chain.stages[stage].run.path for chain in arm.runs]
        records = [r for path in paths for r in records_of(path, GradientAlignmentRecord)]
        for first, second in _pairs(records):
            found = [alignment(r, first, second) for r in records]
            signs = [one.sign for one in found]
            counts = (len(found), signs.count(1), signs.count(-1), signs.count(None))
            cosines = [one.cosine for one in found if one.cosine is not None]
            mean = float(np.mean(cosines)) if cosines else None
            rows.append((arm.name, stage, f"{first} and {second}", *counts, mean))
    columns = ["arm", "stage", "pair", "looks", "positive", "negative", "untold", "cosine"]
    return pd.DataFrame(rows, columns=columns)


def term_table(arms: Sequence[RemixArm], base: RemixArm | None = None) -> pd.DataFrame:
    """What mixing does to the first step of stage B: both terms of every run that mixes."""
    rows = [
        (arm.name, chain.seed, *found)
        for arm in arms
        if (plain := base_of(arm, arms, base)) is not None
        for chain in arm.runs
        if (other := _of_seed(plain, chain.seed)) is not None
        if (found := _terms(chain, other)) is not None
    ]
    return pd.DataFrame(rows, columns=_TERMS.split()).astype({"sign": "Int64"})


def _of_seed(arm: RemixArm, seed: int) -> Chain | None:
    return next((chain for chain in arm.runs if chain.seed == seed), None)


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


def _terms(chain: Chain, plain: Chain) -> tuple[Any, ...] | None:
    alone, mixed = (_first(one) for one in (plain, chain))
    if chain.configuration["replay"] != Replay.NONE or alone is None or mixed is None:
        return None
    at_a, at_b = (_mix(chain, stage) for stage in ("A", "B"))
    share = 0.0
    if at_b is not None and MIX_SAMPLE in mixed.samples:
        share = loss_share(chain, "B", at_b)
    if at_a is None and not share:
        return None
    found = delta_2(mixed if at_a is None else alone, mixed, mix_share=share)
    first = 0.0 if at_a is None else delta_1(alone, mixed)
    near_zero = ", ".join(found.near_zero)
    return (share, first, found.value, *found.interval[:2], found.sign, near_zero)


def _first(chain: Chain) -> GradientAlignmentRecord | None:
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


def relearning_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What was right before the first step of relearning and after each, mean over seeds."""
    rows = [
        (arm.name, group, measure, step, values.mean(), values.min(), values.max(), len(values))
        for arm in arms
        for measure, key in ((SHARE, "exact_match"), (LOG_PROB, "log_prob"))
        for group, runs in _by_group(arm, key).items()
        for step, values in enumerate(np.array(runs).T)
    ]
    return pd.DataFrame(rows, columns=_RELEARNING.split())


def spill_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What relearning brought back in the end."""
    rows = []
    for arm in arms:
        row: dict[str, Any] = {}
        for group, runs in _by_group(arm, "exact_match").items():
            name = group.replace(" ", "_")
            row[f"{name}_before"], row[name] = np.mean([(run[0], run[-1]) for run in runs], axis=0)
        if row:
            spills = [float(c.relearning["spill_over"]) for c in arm.runs if c.relearning]
            row |= {"spill_over": np.mean(spills), "low": min(spills), "high": max(spills)}
            rows.append({"arm": arm.name, "seeds": len(spills), **row})
    return pd.DataFrame(rows, columns=_SPILLS.split())


def _by_group(arm: RemixArm, key: str) -> dict[str, list[list[float]]]:
    runs = [chain.relearning[key] for chain in arm.runs if chain.relearning is not None]
    there = [group for group in Relearned if runs and all(group in run for run in runs)]
    return {str(group): [run[group] for run in runs] for group in there}


def depth_tables(
    arms: Sequence[RemixArm], items: int, base: RemixArm | None = None, *, device: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The depths at which items are readable, and how they moved."""
    read = ranks_by_model(arms, items, device)
    tables, rows = [pd.DataFrame()], []
    seen: set[tuple[str, str]] = set()
    # Checkpoints of hooked arms lack the edit: what was trained is another model.
    for arm, chain in [(one, run) for one in arms if not is_hooked(one) for run in one.runs]:
        keys = model_keys(chain)
        _, d_vocab = read[keys[chain.moments[-1]]]
        ranks = {moment: read[key][0] for moment, key in keys.items()}
        found = depth_table(ranks, k=TOP_K, d_vocab=d_vocab)
        tables.append(found.assign(arm=arm.name, seed=chain.seed))
        pairs = [(STAGES, one, later, keys[one], keys[later]) for one, later in pairwise(keys)]
        # What a shared stage did is said once.
        pairs = [pair for pair in pairs if pair[3:] not in seen]
        last, plain = chain.moments[-1], base_of(arm, arms, base)
        other = None if plain is None else _of_seed(plain, chain.seed)
        theirs = {} if other is None else model_keys(other)
        if theirs.get(last) in read:
            pairs.append((BASE, f"base {last}", last, theirs[last], keys[last]))
        for compared, before, after, *models in pairs:
            seen.add((models[0], models[1]))
            both = [read[key][0] for key in models]
            change = depth_change(*both, k=TOP_K, d_vocab=d_vocab, seed=0, names=(before, after))
            what = (arm.name, chain.seed, compared, before, after, change.found_in_both)
            for name, test in change.tests.items():
                numbers = (test.effect, *test.interval[:2], test.p_value, test.n)
                rows.append((*what, str(change.depth), str(change.spread), name, *numbers))
    depths = pd.concat(tables[1:] or tables, ignore_index=True)
    return depths, pd.DataFrame(rows, columns=_DEPTH_CHANGES.split())


def ranks_by_model(
    arms: Sequence[RemixArm], items: int, device: str | None
) -> dict[str, tuple[Int64[Tensor, "layer item"], int]]:
    """Ranks in every model that a chain has, and over how many tokens; each is loaded once."""
    users: dict[str, Chain] = {}
    for chain in (chain for arm in arms if not is_hooked(arm) for chain in arm.runs):
        for key in model_keys(chain).values():
            users.setdefault(key, chain)
    read = {}
    known: dict[str, _Items] = {}
    with progress("localization, models", len(users)) as advance:
        for key, chain in users.items():
            model = probes.load_model(key, device=device, dtype="float32")
            # A chain's start comes first among its models, and may decide which items are learnt.
            name = chain.manifest["inputs"]["stages"]["A"]["data"]["content_hash"]
            if name not in known:
                known[name] = _items(chain, model, name)
            ranks = checkpoint_ranks({key: model}, known[name][:items])
            read[key] = ranks[key], model.d_vocab
            advance(1)
    return read


def is_hooked(arm: RemixArm) -> bool:
    """Whether the runs of an arm are edited by hooks, which their checkpoints do not have."""
    return edit_form(arm.runs[0].configuration) == EditForm.HOOKS


def model_keys(chain: Chain) -> dict[str, str]:
    """The folder or name of every model of a chain, by its moment."""
    configuration = chain.configuration
    start = find_start(configuration["model"], configuration["revision"])
    # The model that is there has no edit in its weights yet.
    edited = edit_form(configuration) is not None
    at_once = edited and configuration["edit_before"] == next(iter(chain.stages))
    found: dict[str, str] = {Moment.UNEDITED if at_once else Moment.START: start.model}
    for moment, stage in zip(chain.moments[1:], chain.stages.values(), strict=True):
        path = stage.run.path / CHECKPOINTS_FOLDER / str(stage.outcome["checkpoint"])
        found[moment] = str(Path(path).resolve())
    return found


def _items(chain: Chain, start: HookedModel, content_hash: str) -> _Items:
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
