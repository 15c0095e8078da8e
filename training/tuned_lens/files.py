"""What a tuned lens was worth, as JSON, CSV and a table on the terminal."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.corpus.batching import KeptBatches
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from probes.results import provenance_of
from training.tuned_lens.evaluation import LensComparison
from training.tuned_lens.fit import TranslatorHistory

if TYPE_CHECKING:
    from rich.console import Console

JSON_FILE = "tuned_lens.json"
TABLE_FILE = "tuned_lens.csv"


def save_comparison(
    folder: Path,
    model: HookedModel,
    found: LensComparison,
    history: TranslatorHistory,
    heldout: KeptBatches,
    training: Mapping[str, Any],
) -> None:
    """Write `tuned_lens.json` and `tuned_lens.csv`."""
    provenance = provenance_of(
        model,
        {"backend": model.backend, "heldout": heldout.configuration, "training": dict(training)},
        documents=int(max(batch.segment_ids.max() for batch in heldout)) + 1,
        rows=sum(len(batch.input_ids) for batch in heldout),
        tokens=heldout.tokens,
        corpus=heldout.corpus.name,
        corpus_licence=heldout.corpus.licence,
        corpus_sha256=heldout.content_hash,
    )
    content = {
        **comparison_dict(found),
        "history": {
            "kl": history.kl.tolist(),
            "positions": history.positions,
            "passes": history.passes,
            "validation": [
                {"steps": steps, **comparison_dict(seen)}
                for steps, seen in history.validation.items()
            ],
        },
        "provenance": asdict(provenance),
    }
    text = json_text(content, f"{folder / JSON_FILE}", indent=2)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    found.to_dataframe().to_csv(folder / TABLE_FILE, index=False)


def comparison_dict(found: LensComparison) -> dict[str, Any]:
    """A comparison as plain values."""
    return {
        "layer_labels": list(found.layer_labels),
        "logit_kl": found.logit.tolist(),
        "tuned_kl": found.tuned.tolist(),
        "difference_standard_error": found.difference_error.tolist(),
        "positions": found.positions,
        "layers_nearer": found.layers_nearer,
    }


def print_comparison(
    found: LensComparison, history: TranslatorHistory, console: "Console | None" = None
) -> None:
    """Print the divergences by layer, and at how many layers the tuned lens is nearer."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = "KL divergence of the model's output from each lens, held-out text, in nats"
    table = Table(title=Text(title), title_justify="left")
    for name in ("layer", "logit lens", "tuned lens", "difference", "standard error"):
        table.add_column(name, justify="right")
    difference = found.tuned - found.logit
    columns = (found.logit, found.tuned, difference, found.difference_error)
    for label, *cells in zip(found.layer_labels, *columns, strict=True):
        table.add_row(label, *(f"{float(cell):.3f}" for cell in cells))
    console = console or Console()
    console.print(table)
    n_layers, nearer = len(found.layer_labels), found.layers_nearer
    sentence = (
        f"The tuned lens is nearer to the model's output at {nearer} of {n_layers} layers, over "
        f"{found.positions} positions; it learnt from {history.positions}."
    )
    console.print(Text(sentence))
    if nearer < n_layers:
        behind = found.layer_labels[int(difference.argmax())]
        advice = "give it more --steps or a smaller --learning-rate"
        console.print(Text(f"It is furthest behind at layer {behind}: {advice}."))
