"""Where in depth the items of stage A become readable, before and after every stage.

The models of the start and of the end of every stage are loaded, one at a time, and the first
tokens of answers are read through the lens (`analysis.fact_depth`). Compared are every stage of a
run with what came before it, and every arm with its base after the last stage, seed by seed. An arm
whose edits are hooks is left out: its checkpoints hold the weights without them.

Example:
    >>> depths, changes = depth_tables(arms, 64)                             # doctest: +SKIP
    >>> changes[["arm", "seed", "before", "after", "depth", "spread"]]       # doctest: +SKIP
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
from jaxtyping import Int64
from torch import Tensor

import probes
from analysis.checkpoint_depth import checkpoint_ranks, depth_table
from analysis.edit_names import UNEDITED_NAME, edit_label
from analysis.fact_depth import DepthChange, depth_change
from analysis.remix_report.arms import RemixArm, base_of
from analysis.remix_report.chains import START, Chain
from probes.cli import progress
from probes.hooked_model import HookedModel
from training.commands.recipes import from_json
from training.remix.config import RemixConfig
from training.remix.items import stage_items
from training.runs.directory import CHECKPOINTS_FOLDER
from training.start_models import find_start

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
    """Where items are readable, and how that moved.

    Args:
        arms: the runs; their checkpoints must be where they were written.
        items: of stage A to look at, the first ones.
        base: that all other arms are compared with; None for the plain arm of each.
        device: cpu or cuda; None for cuda where there is one.
        k: how near the top an answer counts as readable.

    Returns:
        A table with a row for each arm, seed and moment (`checkpoint`), as
        `analysis.checkpoint_depth.depth_table`; and one with a row for each test of each change:
        `arm`, `seed`, `compared` (`stages`, or `base`), `before`, `after`, `found_in_both`,
        `depth`, `spread`, `test`, `effect`, `low`, `high`, `p_value` (Holm's over the tests of a
        change), `items`.

    Raises:
        ValueError: a checkpoint is not there, or the items of stage A are others than were learnt.
    """
    read = ranks_by_model(arms, items, device)
    tables, rows = [], []
    told: set[tuple[int, int]] = set()
    for arm in arms:
        # Checkpoints of hooked arms lack the edit: what was trained is another model.
        for chain in () if is_hooked(arm) else arm.chains:
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
            for chain in arm.chains:
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
    configuration = arm.chains[0].configuration
    return edit_label(configuration) != UNEDITED_NAME and configuration["edit_form"] == "hooks"


def model_keys(chain: Chain) -> dict[str, str]:
    """The folder or name of every model of a chain, by its moment."""
    configuration = chain.configuration
    found = {START: find_start(configuration["model"], configuration["revision"]).model}
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
    return next((other for other in base.chains if other.seed == chain.seed), None)


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
