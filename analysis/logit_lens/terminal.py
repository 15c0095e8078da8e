"""Lens results on a terminal: a table of layers, and the findings.

Example:
    >>> print_lenses([result], [], None, k=10)                                  # doctest: +SKIP
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.logit_lens.causal_text import causal_findings
from analysis.logit_lens.findings import FEW, lens_findings
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import read_target
from analysis.theme import nats, percent, shorten
from probes.causal_result import CausalResult

MOST_LAYERS = 40
"""A deeper model's table shows every second layer, or every third."""


def print_lenses(
    results: Sequence[LensResult],
    further: Sequence[str],
    causal: CausalResult | None,
    *,
    k: int,
    console: Console | None = None,
) -> None:
    """Print a table per model, and what the numbers say.

    Args:
        results: one, or two of the same items.
        further: sentences on the two.
        causal: of the first.
        k: a target is readable where it is among so many top tokens.
        console: where to; None for the standard output.
    """
    console = console or Console()
    for result in results:
        console.print(layers_table(result, k=k))
        for sentence in [*lens_findings(result, k=k), *result.notes]:
            console.print(Text(f"- {sentence}"))
    of_check = [] if causal is None else causal_findings(causal, results[0], k)
    for sentence in [*further, *of_check]:
        console.print(Text(f"- {sentence}"))


def layers_table(result: LensResult, *, k: int) -> Table:
    """Rank and log-probability of a few items by layer, or shares and means of many."""
    few = len(result.items) <= FEW
    table = Table(title=Text(_title(result)), title_justify="left")
    table.add_column("layer", justify="right")
    columns = _columns_of_few(result) if few else _columns_of_many(result, k)
    for name in columns:
        table.add_column(Text(name), justify="right")
    step = -(-len(result.layer_labels) // MOST_LAYERS)
    for layer in range((len(result.layer_labels) - 1) % step, len(result.layer_labels), step):
        cells = [values[layer] for values in columns.values()]
        table.add_row(result.layer_labels[layer], *map(Text, cells))
    return table


def _title(result: LensResult) -> str:
    origin = result.provenance
    items = origin.corpus or "prompts"
    return f"{origin.model}: {len(result.items)} {items}, {origin.configuration['lens']} lens"


def _columns_of_few(result: LensResult) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    best = result.per_token.readout.top_ids[:, result.first_rows, 0]
    for index in range(len(result.items)):
        target = read_target(result, index)
        name = f"{index + 1}: " * (len(result.items) > 1) + shorten(target.strip(), 40)
        columns[f"{name}, rank"] = [f"{int(rank):,}" for rank in result.rank[:, index]]
        columns[f"{name}, log-prob"] = [nats(float(value)) for value in result.log_prob[:, index]]
        columns[f"{name}, top token"] = [
            shorten(result.text(int(token)).strip() or "·", 16) for token in best[:, index]
        ]
    return columns


def _columns_of_many(result: LensResult, k: int) -> dict[str, list[str]]:
    found = (result.rank < k).double().mean(dim=1)
    first = result.localization(k).first_histogram
    return {
        f"in top {k}": [percent(float(share)) for share in found],
        "first here": [percent(float(share)) for share in first],
        "median rank": [f"{int(r):,}" for r in result.rank.median(dim=1).values],
        "log-prob, nats": [nats(float(v)) for v in result.log_prob.mean(dim=1)],
        "entropy": [nats(float(v)) for v in result.entropy.mean(dim=1)],
        "KL to final": [nats(float(v)) for v in result.kl.mean(dim=1)],
    }
