r"""Train a tuned lens for a model, and see whether it beats the logit lens: `training.tuned_lens`.

Writes the lens (`translators.safetensors`, `translators.json`; `probes.load_translators` reads it)
and `tuned_lens.json` and `.csv`: KL divergences by layer of both lenses on held-out text, and
losses, in nats.

Example:
    $ python -m training.tuned_lens --model smollm2-135m-instruct-q4 \
          --corpus general-train --held-out general-heldout --out runs/tuned
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.choices import Backend
from probes.cli import LoadingSettings, TextSettings, command_main
from training.choices import TranslatorOptimizer


@dataclass(frozen=True, kw_only=True)
class LensFitSettings:
    """The model, the text that it is fitted on, and the folder of the result."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    corpus: str
    """Text to learn from: built-in corpus, file of texts or token ids, folder, quoted pattern or
    hub data set."""
    out: Path
    """Folder for the lens and the results; made if it is not there."""
    held_out: str | None = None
    """Text to compare the lenses on; every eighth document of the corpus, which is then left out
    of what is learnt from."""
    held_out_tokens: int = 1024
    """Tokens of held-out text to run; the lenses are read at some positions of every batch."""
    resume: bool = False
    """Go on with a fit in --out that was stopped; it is kept there every half minute."""
    dry_run: bool = False
    """Try what the fit needs on a model that is here, texts and files, say what it costs, and
    stop."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class TunedLensArguments(TextSettings, LoadingSettings, LensFitSettings):
    """Train the translators of a tuned lens, and compare it with the logit lens by layer."""

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
    optimizer: TranslatorOptimizer = TranslatorOptimizer.ADAM
    """adam, or sgd with Nesterov momentum, which wants far larger steps."""
    learning_rate: float | None = None
    """Learning rate of the first step, falling to 0 in a line; 0.001 for adam, 1 for sgd."""
    validate_every: int | None = None
    """Steps between evaluations on the held-out text, recorded in the results; none."""
    seed: int = 0
    """Seed of the draw of positions."""
    backend: Backend = Backend.NATIVE
    """What runs the model; native is the fastest."""


def _run(arguments: TunedLensArguments, _words: Sequence[str]) -> None:
    from training.lens_run import TunedLens, run_lens_fit

    run_lens_fit(arguments, TunedLens(arguments))


main = command_main(TunedLensArguments, _run, program="training.tuned_lens")


if __name__ == "__main__":
    sys.exit(main())
