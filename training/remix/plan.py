"""The plan of a chain of stages.

Made from the configuration alone, so that a set whose size only its files know is taken to be as
large as it is asked for.

Example:
    >>> from training.remix.recipes import paper_llama3_8b
    >>> remix_plan(paper_llama3_8b()).value("stage B", "updates")
    '3,750: 20 epochs of 6,000 examples in batches of 32'
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from training.choices import NoMixControl, Replay, StopWhen
from training.commands.edit_settings import EditFields
from training.commands.plan import Plan, Section, shown_task, training_section, with_changes
from training.data.items import share_of
from training.remix.config import RemixConfig, StageConfig
from training.remix.items import StageItems
from training.runs.records import (
    EntropyRecord,
    PerplexityRecord,
    RecallRecord,
    Record,
    ScoresRecord,
    TaskRecord,
    read_records,
)
from training.runs.tables import Row, items_of, nats, observed, share, shown_table
from training.stages import ChainResult, ReadyStage, stage_folder
from training.start_models import CLOZE


def remix_plan(config: RemixConfig, recipe: RemixConfig | None = None) -> Plan:
    """What a chain of stages would do."""
    at = f" at {config.revision}" if config.revision else ""
    edits = "; ".join(_edits(config))
    sections: list[Section] = [("model", (("start", f"{config.model}{at}"), ("edits", edits)))]
    sections += [_stage_section(config, place) for place in range(len(config.stages))]
    sections += [
        _showing_section(config),
        _optimizer_section(config),
        ("looked at", tuple(_looks(config))),
    ]
    return Plan("continual memorization", with_changes(sections, config, recipe))


def _stage_section(config: RemixConfig, place: int) -> Section:
    stage = config.stages[place]
    if place == 0 and config.from_stage_a is not None:
        return f"stage {stage.name}", (("taken from", str(config.from_stage_a)),)
    mixed = 0 if stage.mix is None else share_of(stage.items, stage.mix_ratio, "the mix ratio")
    again = _again(config, place)
    after = f", after the first {stage.offset:,}" * bool(stage.offset)
    lines = [
        ("learns", f"{stage.items:,} items of {stage.data}{after}"),
        ("mix", _mix(config, stage, mixed)),
        ("shown again", f"{again:,} earlier items, {stage.replay}" if again else "nothing"),
        ("updates", _updates(config, stage, mixed, again)),
        ("ends", _ends(config, stage)),
        ("learning rate", f"{stage.learning_rate:g} at its peak, optimizer {stage.optimizer}"),
    ]
    return f"stage {stage.name}", tuple(lines)


def _again(config: RemixConfig, place: int) -> int:
    """Earlier items that a stage shows again."""
    if config.stages[place].replay is Replay.NONE:
        return 0
    earlier = sum(stage.items for stage in config.stages[:place])
    return share_of(earlier, config.replay_ratio, "the replay ratio")


def _mix(config: RemixConfig, stage: StageConfig, mixed: int) -> str:
    if stage.mix is None:
        return "none"
    left_out = ", left out by the control" * (stage.control is not None)
    return f"{mixed:,} items of {stage.mix}, {config.mix_words} words, by {config.mixing}{left_out}"


def _updates(config: RemixConfig, stage: StageConfig, mixed: int, again: int) -> str:
    if stage.control is NoMixControl.TOKENS:
        return "as many trained tokens as with the mix"
    examples = stage.items + mixed + again
    steps = -(-examples * stage.epochs // config.batch_size)
    if stage.control is NoMixControl.STEPS:
        return f"{steps:,}, as with the mix"
    epochs = "1 epoch" if stage.epochs == 1 else f"{stage.epochs} epochs"
    return f"{steps:,}: {epochs} of {examples:,} examples in batches of {config.batch_size}"


def _ends(config: RemixConfig, stage: StageConfig) -> str:
    loss = f"loss of its own items below {config.loss_threshold:g} nats"
    match = f"exact match of {config.exact_match:g} of them"
    if stage.control is not None or stage.stop is StopWhen.EPOCHS:
        return "after its last update"
    if stage.stop is StopWhen.RELEASED:
        return "when ten losses were below 1e-4, or after its last update"
    what = {
        StopWhen.LOSS: loss,
        StopWhen.EXACT_MATCH: match,
        StopWhen.LOSS_AND_EXACT_MATCH: f"{loss} and {match}",
    }[stage.stop]
    times = "" if config.patience == 1 else f", {config.patience} times in a row"
    return f"at {what}{times}, or after its last update"


def _showing_section(config: RemixConfig) -> Section:
    return "items are shown", (
        ("template", str(config.template)),
        ("rows", f"{config.packing}, at most {config.max_length:,} tokens"),
        ("loss", f"mean over {config.loss_normalisation}s"),
        ("as", "the released trainer" if config.compat else "defined"),
    )


def _optimizer_section(config: RemixConfig) -> Section:
    name, lines = training_section(config, None, config.max_length)
    return name, tuple(line for line in lines if line[0] != "tokens")


def _edits(config: RemixConfig) -> list[str]:
    fields: EditFields = config
    found = []
    if fields.resuscitates:
        kind = f"control {fields.control} of a resuscitation" if fields.control else "resuscitation"
        found.append(
            f"{kind}: ratio {fields.resuscitation_ratio:g}, factor "
            f"{fields.resuscitation_factor:g}, at {fields.resuscitation_site}"
        )
    if fields.attention_temperature is not None:
        found.append(
            f"attention temperature {fields.attention_temperature:g}, {fields.temperature_schedule}"
        )
    where = f"as {fields.edit_form}, before stage {config.edit_before}"
    return [*found, where] if found else ["none"]


def _looks(config: RemixConfig) -> list[tuple[str, str]]:
    others = [
        f"loss on {config.evaluation_tokens:,} tokens of {name}"
        for name in config.evaluation_corpora
    ]
    others += [shown_task(name, config.task_limit) for name in config.tasks]
    if config.entropy_tokens is not None:
        others.append(f"three entropies on {config.entropy_tokens:,} tokens")
    if config.cloze is not None:
        others.append("cloze items of earlier facts" + (", if any" * (config.cloze == "auto")))
    found = [
        ("recall", f"of the items of every stage, {_when(config.recall_every)}"),
        ("others", f"{'; '.join(others) or 'nothing'}, {_when(config.evaluate_every)}"),
    ]
    if config.gradient_every is not None:
        of = f"of {config.gradient_items} items of each"
        found.append(("gradients", f"{of}, {_when(config.gradient_every)}"))
    if config.relearning_steps is not None:
        few = f"{config.relearning_items} items of stage A, on a copy"
        found.append(("relearning", f"{config.relearning_steps} steps of {few}"))
    return found


def _when(every: int | None) -> str:
    between = "" if every is None else f"every {'epoch' if every == 1 else f'{every} epochs'}, "
    return f"{between}at the beginning and the end of a stage"


Overlap = Mapping[str, Mapping[str, Mapping[str, int]]]
TOKENS = "tokens"
"""The match of recall by teacher forcing."""
_RECALL = "items answered exactly, and log-probability of whole answers in nats"
_OTHERS = "everything else: losses and entropies in nats"
_LOOKS = (RecallRecord, PerplexityRecord, TaskRecord, ScoresRecord, EntropyRecord)


def print_beginning(
    config: RemixConfig, model: str, items: Sequence[StageItems], overlap: Overlap
) -> None:
    """Say what is about to be trained, and which of it the mixes hold."""
    print(f"model: {model}")
    for stage, one in zip(config.stages, items, strict=True):
        mix = "" if one.mix is None else f"; {one.mix.name}: {len(one.mix_rows):,} items"
        left_out = len(one.rows.too_long)
        too_long = f" ({left_out} too long and left out)" if left_out else ""
        print(f"stage {stage.name}: {len(one.rows):,} items of {stage.data}{too_long}{mix}")

    for name, found in overlap.items():
        for learnt, counts in found.items():
            if counts["answers"]:
                print(
                    f"the mix of stage {name} holds {counts['answers']} of the "
                    f"{counts['factoids']:,} answers of D_{learnt}, {counts['pairs']} of them "
                    "beside their subject"
                )


def print_stage(name: str, ready: ReadyStage) -> None:
    """Say that a stage begins."""
    most = "" if ready.stop is None else "at most "
    print(f"stage {name}: {most}{ready.settings.steps:,} steps")


def print_remix(
    out: Path, names: Sequence[str], result: ChainResult, console: Console | None = None
) -> None:
    """Print what was answered and scored after every stage, how each ended, and where it all is."""
    console = console or Console()
    folders = {outcome.name: outcome.folder for outcome in result.outcomes}
    columns = {0: "start", **{n: f"after {name}" for n, name in enumerate(folders, start=1)}}
    if result.unfinished is not None and result.unfinished[1]:
        name = result.unfinished[0]
        columns[len(columns)] = f"in {name}"
        folders[name] = stage_folder(out, name)
    seen = [record for n, path in enumerate(folders.values()) for record in _moved(path, n)]
    console.print(shown_table(_recall_rows(seen, names), columns, _RECALL))
    items = items_of(next(iter(folders.values())), seen, [CLOZE])
    if rows := observed(seen, items):
        console.print(shown_table(rows, columns, _OTHERS))
    for outcome in result.outcomes:
        print(outcome.sentence)
    if result.unfinished is not None:
        name, steps = result.unfinished
        print(f"stopped in stage {name} after {steps:,} steps; go on with --resume")
    print(f"run: {out}")


def _moved(folder: Path, place: int) -> Iterator[Record]:
    """What was seen at the end of a stage, at the place after its own, and
    of the first its start.
    """
    seen = [record for record in read_records(folder) if isinstance(record, _LOOKS)]
    last = max(record.step for record in seen)
    for record in seen:
        if record.step == 0 and place == 0:
            yield replace(record, step=0)
        if record.step == last:
            yield replace(record, step=place + 1)


def _recall_rows(seen: Iterable[Record], names: Sequence[str]) -> list[Row]:
    """Exact match, by teacher forcing and otherwise, and log-probabilities of every list."""
    rows: dict[str, Row] = {}
    for record in seen:
        if not isinstance(record, RecallRecord):
            continue
        what = f"D_{record.items}" if record.items in names else record.items
        about = what if record.match == TOKENS else f"  {what}, {record.match}"
        rows.setdefault(about, Row(about, share)).values[record.step] = fmean(record.correct)
        if record.log_probs is not None:
            row = rows.setdefault(f"{what} log p", Row("  log p", nats))
            row.values[record.step] = fmean(record.log_probs)
    return list(rows.values())
