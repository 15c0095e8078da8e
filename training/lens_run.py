"""What a command that fits a lens does: try, fit, compare, save as JSON and CSV, and print.

`TunedLens` and `JacobianLens` say what is different of each.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probes.choices import Backend, Lens
from probes.cli import output_folder, progress, refuse_existing
from probes.corpus.batching import KeptBatches
from probes.corpus.sources import Corpus, split_held_out
from probes.corpus.token_batch import as_token_batch
from probes.hooked_model import HookedModel
from probes.results import provenance_of
from probes.shown import Table, json_text, print_tables
from probes.translators import Translators, identity_translators, load_translators
from training.jacobian_lens_fit import fit_jacobian_lens, position_weights, summed_jacobians
from training.lens_fits import STATE_FILE, LensComparison, compare_lenses
from training.runs.records import one_line_for_disk_errors
from training.settings import Misfits
from training.start_or_resume import existing_folder, why_not_here
from training.tuned_lens_fit import train_translators

HELD_OUT_OF = 8  # one document in so many is held out
LENS_FILES = ("translators.safetensors", "translators.json", STATE_FILE)


class TunedLens:
    """Translators that are learnt step by step."""

    name, keeps_text = Lens.TUNED, False
    advice = "give it more --steps or a smaller --learning-rate"

    def __init__(self, arguments: Any) -> None:
        self._arguments, self.backend = arguments, arguments.backend
        self.positions = arguments.rows_per_step

    def steps(self, _batches: Any) -> int:
        return self._arguments.steps

    def cost(self, _model: HookedModel, _batches: Any) -> str:
        steps, validate_every = self._arguments.steps, self._arguments.validate_every
        if validate_every is not None and validate_every > steps:
            raise ValueError(
                f"--validate-every {validate_every} is never reached in {steps} steps; give "
                f"{steps} at most, or as many --steps"
            )
        return f"{steps:,} steps"

    def fitted(
        self, model: HookedModel, batches: Any, heldout: KeptBatches, **more: Any
    ) -> tuple[Translators, dict[str, Any], str]:
        names = ("steps", "rows_per_step", "optimizer", "learning_rate", "seed", "validate_every")
        settings = {name: getattr(self._arguments, name) for name in names}
        validation = None if self._arguments.validate_every is None else heldout
        lens, history = train_translators(
            model, batches, **settings, validation=validation, on_step=more.pop("advance"), **more
        )
        seen = [{"steps": steps, **one.to_dict()} for steps, one in history.validation.items()]
        counts = {"positions": history.positions, "passes": history.passes}
        happened = {"kl": history.kl.tolist(), **counts, "validation": seen}
        return lens, happened, f"{history.positions:,}"


class JacobianLens:
    """Mean Jacobians, from every batch once."""

    name, keeps_text, backend, positions = Lens.JACOBIAN, True, Backend.NATIVE, 64
    advice = "give it more text with --max-tokens, or read that layer through a tuned lens"

    def __init__(self, arguments: Any) -> None:
        self._skip_first = arguments.skip_first

    def steps(self, batches: Any) -> int:
        return len(batches.batches)

    def cost(self, model: HookedModel, batches: Any) -> str:
        begin, outputs = time.monotonic(), range(min(2, model.d_model))
        first = as_token_batch(batches.batches[0])
        weights = position_weights(first.attention_mask, self._skip_first)
        summed_jacobians(model, first, weights, outputs).cpu()
        count = self.steps(batches) * model.d_model
        minutes = count * (time.monotonic() - begin) / len(outputs) / 60
        took = f"about {minutes:.0f} minutes" if minutes >= 1 else "under a minute"
        rows = sum(len(batch.input_ids) for batch in batches)
        return (
            f"{rows:,} rows in {self.steps(batches):,} batches of {model.d_model:,} backward "
            f"passes: {count:,} of them, {took}"
        )

    def fitted(
        self, model: HookedModel, batches: Any, _heldout: KeptBatches, **more: Any
    ) -> tuple[Translators, dict[str, Any], str]:
        lens = fit_jacobian_lens(
            model, batches, skip_first=self._skip_first, on_batch=more.pop("advance"), **more
        )
        happened = {name: lens.training[name] for name in ("rows", "rows_too_short")}
        return lens, happened, f"{happened['rows']:,} rows"


def run_lens_fit(arguments: Any, kind: TunedLens | JacobianLens) -> None:
    """Fit a lens, compare it, and save both."""
    if arguments.dry_run and (why := why_not_here(arguments.model)) is not None:
        print(f"not tried: {why}")
        return
    if _begin(arguments, kind):
        print(f"complete: {arguments.out}")
        return
    corpora = learning_and_heldout(arguments)
    model = arguments.load(arguments.model, backend=kind.backend)
    batches: Any = arguments.batches_of(model, corpora[0], arguments.max_tokens)
    if kind.keeps_text:
        batches = batches.kept()
    heldout = arguments.batches_of(model, corpora[1], arguments.held_out_tokens)
    cost = _try_lens(model, batches, heldout, arguments, kind)
    if arguments.dry_run:
        print(f"{cost}; tried on the model, a lens read back: all fits")
        return
    print(cost, flush=True)
    kept = heldout.kept()
    with progress(f"{batches.corpus.name}, steps", kind.steps(batches)) as advance:
        state = arguments.out / STATE_FILE
        lens, happened, learnt = kind.fitted(model, batches, kept, kept_in=state, advance=advance)
    with progress("held-out batches", len(kept.batches)) as advance:
        rows = kind.positions
        found = compare_lenses(model, kept, lens, rows_per_batch=rows, on_batch=advance)
    with output_folder(arguments.out) as folder:
        lens.save(folder)
        _save_comparison(folder, model, found, happened, kept, lens)
    _print_comparison(found, learnt, kind.advice)
    print(f"lens: {arguments.out}")


def learning_and_heldout(arguments: Any) -> tuple[Corpus, Corpus]:
    """The text to learn from and the text to compare on."""
    name, held_out = arguments.corpus, arguments.held_out
    if held_out == name:
        raise ValueError(f"--held-out {name} is the corpus itself; give another, or leave it out")
    learning = arguments.corpus_of(name)
    if held_out is not None:
        return learning, arguments.corpus_of(held_out)
    if learning.open_texts is None:
        raise ValueError(
            f"{name} holds rows of token ids, of which none is known to be another document; "
            "name the text to judge on with --held-out"
        )
    return split_held_out(learning, HELD_OUT_OF)


def _save_comparison(
    folder: Path,
    model: HookedModel,
    found: LensComparison,
    history: Mapping[str, Any],
    heldout: KeptBatches,
    translators: Translators,
) -> None:
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
    content = {**found.to_dict(), "history": history, "provenance": asdict(provenance)}
    path = folder / f"{found.lens}_lens.json"
    text = json_text(content, f"{path}", indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    found.to_dataframe().to_csv(path.with_suffix(".csv"), index=False)


def _print_comparison(found: LensComparison, learnt: str, advice: str) -> None:
    difference = found.fitted - found.logit
    columns = (found.logit, found.fitted, difference, found.difference_error)
    table = Table.of_rows(
        "KL divergence of the model's output from each lens, held-out text, in nats",
        ("layer", "logit lens", found.lens.words, "difference", "standard error"),
        (
            (label, *(f"{float(cell):.3f}" for cell in cells))
            for label, *cells in zip(found.layer_labels, *columns, strict=True)
        ),
    )
    n_layers, nearer = len(found.layer_labels), found.layers_nearer
    sentences = [
        f"The {found.lens.words} is nearer to the model's output at {nearer} of {n_layers} layers, "
        f"over {found.positions} positions; it learnt from {learnt}."
    ]
    if nearer < n_layers:
        behind = found.layer_labels[int(difference.argmax())]
        sentences.append(f"It is furthest behind at layer {behind}: {advice}.")
    print_tables([table], sentences)


def _begin(arguments: Any, kind: TunedLens | JacobianLens) -> bool:
    """Refuse a folder that holds something else; whether the fit in it is over."""
    out, state = arguments.out, arguments.out / STATE_FILE
    results = [f"{kind.name}_lens.{end}" for end in ("json", "csv")]
    if arguments.resume and state.is_file():
        return False
    if arguments.resume and (out / results[0]).is_file():
        return True
    if state.is_file() and not arguments.overwrite:
        raise ValueError(
            f"--out {out} holds a fit that was stopped; go on with --resume, or begin again with "
            "--overwrite"
        )
    refuse_existing(out, overwrite=arguments.overwrite, known=(*LENS_FILES, *results))
    if not arguments.dry_run:
        state.unlink(missing_ok=True)
    return False


def _try_lens(
    model: HookedModel, batches: Any, heldout: Any, arguments: Any, kind: TunedLens | JacobianLens
) -> str:
    """Read a batch of either text, compare on the held-out one, and write and read a lens; cost."""
    initial, out = identity_translators(model), arguments.out
    cost: list[str] = []

    def compare() -> None:
        first = next(iter(heldout), None)
        if first is None:
            raise ValueError("--held-out fills no row; give more text, or shorter rows")
        compare_lenses(model, [first], initial, rows_per_batch=1)

    def learn() -> None:
        if next(iter(batches), None) is None:
            raise ValueError("--corpus fills no row; give more text, or shorter rows")
        cost.append(kind.cost(model, batches))

    def write_and_read() -> None:
        with (
            one_line_for_disk_errors(f"trying to write a lens for {out}"),
            tempfile.TemporaryDirectory(prefix=".trial-", dir=existing_folder(out)) as folder,
        ):
            initial.save(folder)
            load_translators(folder, model)

    Misfits().check(learn, compare, write_and_read)
    return cost[0]
