"""What `interventions.patch` prints: entropies and perplexity, rows changed, warnings.

Example:
    >>> print_patch(found, None)                                               # doctest: +SKIP
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from interventions.choices import ResuscitationSite
from interventions.edits import Edit, TensorChange

if TYPE_CHECKING:
    from interventions.patch_run import Patched

ROWS = {
    "knowledge_entropy": "knowledge entropy, |c|",
    "contribution_entropy": "  by contribution, |c| · ‖v‖",
    "attention_entropy": "attention entropy",
    "next_token_entropy": "next-token entropy",
    "loss": "loss on the same text",
    "held_out_loss": "loss on held-out text",
    "held_out_perplexity": "perplexity on held-out text",
}

# How many times its perplexity before makes a model a damaged one.
_MUCH_WORSE = 2.0


def print_patch(found: "Patched", saved_to: Path | None, console: Console | None = None) -> None:
    """Print what was found out.

    Args:
        found: what was measured and changed.
        saved_to: the checkpoint; None where nothing was written.
        console: where to; None for the standard output.
    """
    console = console or Console()
    console.print(totals_table(found))
    for sentence in [*rows_changed(found.report.changes), *_warnings(found)]:
        console.print(Text(f"- {sentence}"))
    # Not through rich, which would break a long path between lines.
    print("dry run: nothing was written" if saved_to is None else f"checkpoint: {saved_to}")


def totals_table(found: "Patched") -> Table:
    """Entropies and perplexity before the edit, as predicted, and after it."""
    title = f"{found.model.name}: {'; '.join(map(named, found.edits))}; in nats"
    table = Table(title=Text(title), title_justify="left")
    table.add_column()
    columns = {"before": found.before, "predicted": found.predicted, "after": found.after}
    for name in columns:
        table.add_column(name, justify="right")
    for key, label in ROWS.items():
        digits = 2 if key == "held_out_perplexity" else 4
        cells = [_number(values.get(key), digits) for values in columns.values()]
        if any(cells):
            table.add_row(label, *cells)
    if not any((*found.before.values(), *found.predicted.values())):
        table.add_row("not measured, without --corpus", "", "", "")
    return table


def named(edit: Edit) -> str:
    """An edit in a few words."""
    described = edit.describe()
    match described["kind"]:
        case "resuscitation":
            return (
                f"resuscitation at {described['site']}, ratio {described['ratio']:g}, "
                f"factor {described['factor']:.4g}"
            )
        case "attention_temperature" if isinstance(described["temperature"], float | int):
            return f"attention temperature {described['temperature']:g}"
    return described["kind"].replace("_", " ")


def rows_changed(changes: Sequence[TensorChange]) -> Iterator[str]:
    """A line for each kind of weight, the same weights of all layers together."""
    kinds: dict[str, list[TensorChange]] = {}
    for change in changes:
        kinds.setdefault(re.sub(r"\d+", "*", change.parameter), []).append(change)
    for kind, found in kinds.items():
        rows = sum(change.rows_changed for change in found)
        moved = sorted({f"{change.relative_change:.3g}" for change in found}, key=float)
        yield (
            f"{kind}: {rows:,} of {sum(change.rows for change in found):,} rows changed in "
            f"{len(found)} tensors; norm of the change {' to '.join(moved[:1] + moved[1:][-1:])} "
            "times the tensor's."
        )


def _warnings(found: "Patched") -> Iterator[str]:
    if found.resuscitation is not None:
        yield from found.resuscitation.warnings()
    if found.predicted and len(found.edits) > 1:
        yield "Predicted is what the resuscitation does alone."
    before, after = (part.get("knowledge_entropy") for part in (found.before, found.after))
    if before is not None and after is not None and after < before:
        yield f"As measured, the edit lowers knowledge entropy by {before - after:.4f} nats."
    yield from _damage(found)


def _damage(found: "Patched") -> Iterator[str]:
    """A line where the model has become much worse at text."""
    before, after = (part.get("held_out_perplexity") for part in (found.before, found.after))
    if before is None or after is None or after < _MUCH_WORSE * before:
        return
    instead = ""
    if found.resuscitation is not None and found.resuscitation.at is ResuscitationSite.UP:
        instead = "; --site preserving leaves what the model computes as it is"
    yield (
        f"The edit damages the model: perplexity on held-out text is {after / before:,.1f} times "
        f"what it was{instead}."
    )


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"
