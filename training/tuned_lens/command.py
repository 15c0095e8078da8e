r"""Train a tuned lens for a model, and see whether it beats the logit lens: `training.tuned_lens`.

Writes into `--out`:

- `translators.safetensors`, `translators.json`: the lens, which `probes.load_translators` reads and
  `python -m analysis.logit_lens --lens tuned` takes
- `tuned_lens.json`: KL divergences by layer of both lenses on held-out text, losses, provenance
- `tuned_lens.csv`: the divergences, one row per layer

What is fitted and how is defined in `training.tuned_lens.fit` (nats). Without `--heldout`,
every eighth document of the corpus is held out.

Example:
    $ python -m training.tuned_lens --model smollm2-135m-instruct-q4 \
          --corpus general-train --heldout general-heldout --out runs/tuned
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import Backend, RowLayout, SampleBy
from probes.cli import command_main, progress
from training.choices import TranslatorOptimizer

if TYPE_CHECKING:
    from probes.translators import Translators
    from training.tuned_lens.evaluation import LensComparison
    from training.tuned_lens.fit import TranslatorHistory

FILES = ("translators.safetensors", "translators.json", "tuned_lens.json", "tuned_lens.csv")


@dataclass(frozen=True, kw_only=True)
class TunedLensArguments:
    """Train the translators of a tuned lens, and compare it with the logit lens by layer."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    corpus: str
    """Text to learn from: built-in corpus, file of texts or token ids, folder, quoted pattern or
    hub data set."""
    out: Path
    """Folder for the lens and the results; made if it is not there."""
    heldout: str | None = None
    """Text to compare the lenses on; every eighth document of the corpus, which is then left out
    of what is learnt from."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    layout: RowLayout = RowLayout.PACKED
    """packed: documents end to end in full rows; document: one document a row, padded."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    sequence_length: int = 128
    """Tokens of a row."""
    batch_size: int = 1
    """Rows run in a step."""
    rows_per_step: int = 32
    """Positions of those rows to learn from; each costs an unembedding at every layer, which is
    most of the work."""
    steps: int = 150
    """Steps to take; 150 take a small model a few minutes on two CPU cores."""
    max_tokens: int | None = None
    """Tokens of the corpus to learn from, again and again if need be; as many as there are."""
    heldout_tokens: int = 1024
    """Tokens of held-out text to run; the lenses are read at --rows-per-step positions of each
    batch of them."""
    optimizer: TranslatorOptimizer = TranslatorOptimizer.ADAM
    """adam, or sgd with Nesterov momentum, which wants far larger steps."""
    learning_rate: float | None = None
    """Of the first step, falling to 0 in a straight line; 0.001 for adam, 1 for sgd."""
    validate_every: int | None = None
    """Steps between looks at the held-out text, recorded in the results; none."""
    seed: int = 0
    """Of the draw of positions."""
    backend: Backend = Backend.NATIVE
    """What runs the model; native is the fastest."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own. Translators are float32."""
    dry_run: bool = False
    """Try what the run needs on a model that is here, texts and files, and stop."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: TunedLensArguments, _words: Sequence[str]) -> None:
    import probes
    from probes.cli import output_folder, refuse_existing
    from training.start_models import why_not_here
    from training.tuned_lens.evaluation import compare_lenses, learning_and_heldout
    from training.tuned_lens.files import save_comparison
    from training.tuned_lens.trial import try_lens

    if arguments.dry_run and (why := why_not_here(arguments.model)) is not None:
        print(f"not tried: {why}")
        return
    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    corpora = learning_and_heldout(
        arguments.corpus,
        arguments.heldout,
        column=arguments.column,
        sample_by=arguments.sample_by,
    )
    model = probes.load_model(
        arguments.model,
        revision=arguments.revision,
        device=arguments.device,
        dtype=arguments.dtype,
        backend=arguments.backend,
    )
    batches = _batches(arguments, model, corpora.learning, arguments.max_tokens)
    heldout = _batches(arguments, model, corpora.heldout, arguments.heldout_tokens)
    try_lens(
        model,
        batches,
        heldout,
        steps=arguments.steps,
        validate_every=arguments.validate_every,
        out=arguments.out,
    )
    if arguments.dry_run:
        print(f"{arguments.steps:,} steps; tried on the model, a lens read back: all fits")
        return
    heldout = heldout.kept()
    translators, history = _train(arguments, model, batches, heldout)
    with progress("held-out batches", len(heldout.batches)) as advance:
        found = compare_lenses(
            model,
            heldout,
            translators,
            rows_per_batch=arguments.rows_per_step,
            on_batch=advance,
        )
    with output_folder(arguments.out) as folder:
        translators.save(folder)
        save_comparison(folder, model, found, history, heldout, translators.training)
    _print(arguments, found, history)


def _batches(arguments: TunedLensArguments, model: Any, corpus: Any, most: int | None) -> Any:
    import probes

    return probes.token_batches(
        corpus,
        model.tokenizer,
        sequence_length=arguments.sequence_length,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
        prepend_bos=arguments.prepend_bos,
        max_tokens=most,
    )


def _train(
    arguments: TunedLensArguments, model: Any, batches: Any, heldout: Any
) -> "tuple[Translators, TranslatorHistory]":
    from training.tuned_lens.fit import train_translators

    with progress(f"{batches.corpus.name}, steps", arguments.steps) as advance:
        return train_translators(
            model,
            batches,
            steps=arguments.steps,
            rows_per_step=arguments.rows_per_step,
            optimizer=arguments.optimizer,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            validation=None if arguments.validate_every is None else heldout,
            validate_every=arguments.validate_every,
            on_step=advance,
        )


def _print(
    arguments: TunedLensArguments, found: "LensComparison", history: "TranslatorHistory"
) -> None:
    from training.tuned_lens.files import print_comparison

    print_comparison(found, history)
    # Not through rich, which would break a long path between lines.
    print(f"lens: {arguments.out}")


main = command_main(TunedLensArguments, _run, program="training.tuned_lens")
