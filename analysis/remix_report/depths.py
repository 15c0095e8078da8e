"""Where in depth the items of stage A become readable, before and after every stage.

The models of the start and of the end of every stage are loaded, one at a time, and the first
tokens of answers are read through the lens (`analysis.depth`). Compared are every stage of a
run with what came before it, and every arm with its base after the last stage, seed by seed. An arm
whose edits are hooks is left out: its checkpoints hold the weights without them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Int64
from torch import Tensor

import probes
from analysis.arm_figures import dots_by_arm
from analysis.arms import UNEDITED_NAME, RemixArm, base_of, edit_label
from analysis.checkpoint_depth import checkpoint_ranks, depth_table
from analysis.depth import Depth, DepthChange, Spread, depth_change
from analysis.document import Figure, Panel, Section, titled
from analysis.numbers import share
from analysis.remix_report.summary import RemixSummary
from analysis.runs import Chain, Moment
from analysis.theme import nats
from probes.cli import progress
from probes.hooked_model import HookedModel
from probes.tables import Table
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


_TESTS = {
    "found": "readable",
    "first_layer": "first layer",
    "effective_layers": "effective layers",
    "rank_area": "rank area",
}


def depth_text_tables(summary: RemixSummary) -> Iterator[Table]:
    """The tables; none where depth was not asked for."""
    if summary.depths.empty:
        return
    yield _level_table(summary)
    yield _change_table(summary)


def depth_findings(summary: RemixSummary) -> Iterator[str]:
    """What stages did to depth, over all arms and seeds, and what arms have beside their bases."""
    if summary.depth_changes.empty:
        return
    for (compared, before, after), rows in _changes(summary).groupby(
        ["compared", "before", "after"], sort=False
    ):
        what = f"From {before} to {after}" if compared == STAGES else f"Against the base, {after}"
        if (rows["depth"] == str(Depth.NOT_SHOWN)).all() and (
            rows["spread"] == str(Spread.NOT_SHOWN)
        ).all():
            yield f"{what}, no move of the answers of A in depth is shown in {len(rows)} runs."
            continue
        yield (
            f"{what}, the answers of A become readable earlier in "
            f"{_count(rows['depth'], Depth.EARLIER)} and later in "
            f"{_count(rows['depth'], Depth.LATER)} of {len(rows)} runs, in more layers in "
            f"{_count(rows['spread'], Spread.MORE_LAYERS)} and in fewer in "
            f"{_count(rows['spread'], Spread.FEWER_LAYERS)}; in the others no move is shown."
        )


def _changes(summary: RemixSummary) -> pd.DataFrame:
    """One row for every change, whatever the number of its tests."""
    keys = ["arm", "seed", "compared", "before", "after"]
    return summary.depth_changes.drop_duplicates(keys)


def _count(values: pd.Series, wanted: str) -> int:
    return int((values == str(wanted)).sum())


def _level_table(summary: RemixSummary) -> Table:
    grouped = summary.depths.groupby(["arm", "checkpoint"], sort=False)
    rows = [
        (
            f"{arm}: {moment}",
            share(found["share_found"].mean()),
            _number(found["mean_first_layer"].mean()),
            _number(found["effective_layers"].mean()),
            share(found["rank_area"].mean()),
        )
        for (arm, moment), found in grouped
    ]
    return Table.of_rows(
        "Where answers become readable",
        ("", "readable", "first layer", "effective layers", "rank area"),
        rows,
        note="By the lens: the share of answers whose first token is among the ten top tokens at "
        "some layer; of these the mean first layer, and the effective number of layers that "
        "first layers lie in; and the rank area, over all answers. Means over seeds. Arms "
        "whose edits are hooks are left out.",
    )


def _change_table(summary: RemixSummary) -> Table:
    rows = []
    keys = ["arm", "compared", "before", "after"]
    for (arm, _, before, after), found in summary.depth_changes.groupby(keys, sort=False):
        effects = found.groupby("test")["effect"].mean()
        runs = found.drop_duplicates("seed")
        rows.append(
            (
                f"{arm}: {before} to {after}",
                *(_number(effects.get(name), sign=True) for name in _TESTS),
                ", ".join(runs["depth"].astype(str)),
                ", ".join(runs["spread"].astype(str)),
            )
        )
    return Table.of_rows(
        "Whether answers moved",
        ("", *_TESTS.values(), "depth", "spread"),
        rows,
        note="Changes, mean over seeds: in the share that is readable, in layers (of answers "
        "readable before and after), in the effective number of these layers, in rank area. "
        "The verdicts are those of single seeds, with p-values adjusted over the four tests.",
    )


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:+.2f}" if sign else nats(value)


_MEASURES = (
    ("share_found", "share readable at some layer", ".1%"),
    ("mean_first_layer", "mean first layer", ".2f"),
    ("effective_layers", "effective number of first layers", ".2f"),
)


def depth_section(
    summary: RemixSummary, colours: dict[str, str], tables: Mapping[str, Table]
) -> Iterator[Section]:
    """The section; nothing where depth was not asked for."""
    if summary.depths.empty:
        return
    yield Section(
        "Where in depth",
        [
            Figure(
                "Where the answers of stage A become readable.",
                "Full dots: after the last stage, mean over seeds; faint dots: single seeds; "
                "open dots: after stage A. An answer is readable where its first token is among "
                "the ten top tokens of the lens; first layers are of answers that are.",
                [
                    Panel(_panel(summary, colours, measure, form), title)
                    for measure, title, form in _MEASURES
                    if summary.depths[measure].notna().any()
                ],
            ),
            *titled(tables, "Where answers", "Whether answers"),
        ],
    )


def _panel(summary: RemixSummary, colours: dict[str, str], measure: str, form: str) -> go.Figure:
    depths = summary.depths.rename(columns={measure: "value"})
    last = depths[(depths["checkpoint"] == summary.last_moment) & depths["value"].notna()]
    first = depths[depths["checkpoint"] == summary.arms[0].moments[1]]
    return dots_by_arm(
        _means(last),
        colours,
        "",
        seeds=last,
        controls=_means(first),
        control_name=summary.arms[0].moments[1],
        form=form,
    )


def _means(table: pd.DataFrame) -> pd.DataFrame:
    means = table.groupby("arm", sort=False, as_index=False)["value"].mean().dropna()
    return means.assign(low=float("nan"), high=float("nan"))
