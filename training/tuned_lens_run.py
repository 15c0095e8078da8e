"""What `training.tuned_lens` does: try, train, compare, save as JSON and CSV, and print."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from probes.cli import output_folder, progress, refuse_existing
from probes.corpus.batching import KeptBatches
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from probes.results import provenance_of
from probes.tables import Table, print_tables
from probes.translators import Translators, identity_translators, load_translators
from training.runs.durable_files import one_line_for_disk_errors
from training.settings import Misfits
from training.start_models import why_not_here
from training.start_or_resume import existing_folder
from training.tuned_lens_fit import (
    LensComparison,
    TranslatorHistory,
    compare_lenses,
    learning_and_heldout,
    train_translators,
)

JSON_FILE = "tuned_lens.json"
TABLE_FILE = "tuned_lens.csv"
FILES = ("translators.safetensors", "translators.json", JSON_FILE, TABLE_FILE)


def run_tuned_lens(arguments: Any) -> None:
    """Train a tuned lens, compare it, and save both."""
    if arguments.dry_run and (why := why_not_here(arguments.model)) is not None:
        print(f"not tried: {why}")
        return
    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    how = {"column": arguments.column, "sample_by": arguments.sample_by}
    corpora = learning_and_heldout(arguments.corpus, arguments.held_out, **how)
    model = arguments.load(arguments.model, backend=arguments.backend)
    batches = arguments.batches_of(model, corpora[0], arguments.max_tokens)
    heldout = arguments.batches_of(model, corpora[1], arguments.held_out_tokens)
    _try_lens(model, batches, heldout, arguments)
    if arguments.dry_run:
        print(f"{arguments.steps:,} steps; tried on the model, a lens read back: all fits")
        return
    kept = heldout.kept()
    with progress(f"{batches.corpus.name}, steps", arguments.steps) as advance:
        translators, history = train_translators(
            model,
            batches,
            steps=arguments.steps,
            rows_per_step=arguments.rows_per_step,
            optimizer=arguments.optimizer,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            validation=None if arguments.validate_every is None else kept,
            validate_every=arguments.validate_every,
            on_step=advance,
        )
    with progress("held-out batches", len(kept.batches)) as advance:
        rows = arguments.rows_per_step
        found = compare_lenses(model, kept, translators, rows_per_batch=rows, on_batch=advance)
    with output_folder(arguments.out) as folder:
        translators.save(folder)
        _save_comparison(folder, model, found, history, kept, translators)
    _print_comparison(found, history)
    print(f"lens: {arguments.out}")


def _save_comparison(
    folder: Path,
    model: HookedModel,
    found: LensComparison,
    history: TranslatorHistory,
    heldout: KeptBatches,
    translators: Translators,
) -> None:
    """Write `tuned_lens.json` and `tuned_lens.csv`."""
    training = dict(translators.training)
    provenance = provenance_of(
        model,
        {"backend": model.backend, "heldout": heldout.configuration, "training": training},
        documents=int(max(batch.segment_ids.max() for batch in heldout)) + 1,
        rows=sum(len(batch.input_ids) for batch in heldout),
        tokens=heldout.tokens,
        corpus=heldout.corpus.name,
        corpus_licence=heldout.corpus.licence,
        corpus_sha256=heldout.content_hash,
    )
    content = {
        **found.to_dict(),
        "history": {
            "kl": history.kl.tolist(),
            "positions": history.positions,
            "passes": history.passes,
            "validation": [
                {"steps": steps, **seen.to_dict()} for steps, seen in history.validation.items()
            ],
        },
        "provenance": asdict(provenance),
    }
    text = json_text(content, f"{folder / JSON_FILE}", indent=2)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    found.to_dataframe().to_csv(folder / TABLE_FILE, index=False)


def _print_comparison(found: LensComparison, history: TranslatorHistory) -> None:
    """Print the divergences by layer, and at how many layers the tuned lens is nearer."""
    difference = found.tuned - found.logit
    columns = (found.logit, found.tuned, difference, found.difference_error)
    table = Table.of_rows(
        "KL divergence of the model's output from each lens, held-out text, in nats",
        ("layer", "logit lens", "tuned lens", "difference", "standard error"),
        (
            (label, *(f"{float(cell):.3f}" for cell in cells))
            for label, *cells in zip(found.layer_labels, *columns, strict=True)
        ),
    )
    n_layers, nearer = len(found.layer_labels), found.layers_nearer
    sentences = [
        f"The tuned lens is nearer to the model's output at {nearer} of {n_layers} layers, over "
        f"{found.positions} positions; it learnt from {history.positions}."
    ]
    if nearer < n_layers:
        behind = found.layer_labels[int(difference.argmax())]
        advice = "give it more --steps or a smaller --learning-rate"
        sentences.append(f"It is furthest behind at layer {behind}: {advice}.")
    print_tables([table], sentences)


def _try_lens(
    model: HookedModel,
    batches: Iterable[Mapping[str, Tensor]],
    heldout: Iterable[Mapping[str, Tensor]],
    arguments: Any,
) -> None:
    """Read a batch of either text, evaluate on the held-out one, and write and read a lens."""
    initial, out = identity_translators(model), arguments.out
    steps, validate_every = arguments.steps, arguments.validate_every

    def first(texts: Iterable[Mapping[str, Tensor]], option: str) -> Mapping[str, Tensor]:
        found = next(iter(texts), None)
        if found is None:
            raise ValueError(f"{option} fills no row; give more text, or shorter rows")
        return found

    def compare() -> None:
        compare_lenses(model, [first(heldout, "--held-out")], initial, rows_per_batch=1)

    def refuse_late() -> None:
        if validate_every is not None and validate_every > steps:
            raise ValueError(
                f"--validate-every {validate_every} is never reached in {steps} steps; give "
                f"{steps} at most, or as many --steps"
            )

    def write_and_read() -> None:
        with (
            one_line_for_disk_errors(f"trying to write a lens for {out}"),
            tempfile.TemporaryDirectory(prefix=".trial-", dir=existing_folder(out)) as folder,
        ):
            initial.save(folder)
            load_translators(folder, model)

    Misfits().check(lambda: first(batches, "--corpus"), compare, refuse_late, write_and_read)
