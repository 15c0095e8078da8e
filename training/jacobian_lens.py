r"""Fit a Jacobian lens of a model, and compare it with the logit lens: `training.jacobian_lens`.

Writes the lens (`translators.safetensors`, `translators.json`; `probes.load_translators` reads it)
and `jacobian_lens.json` and `.csv`: KL divergences by layer of both lenses on held-out text.

Example:
    $ python -m training.jacobian_lens --model EleutherAI/pythia-14m \
          --corpus general-train --held-out general-heldout --out runs/jacobian
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from probes.cli import LoadingSettings, TextSettings, command_main
from training.tuned_lens import LensFitSettings


@dataclass(frozen=True, kw_only=True)
class JacobianLensArguments(TextSettings, LoadingSettings, LensFitSettings):
    """Fit the mean Jacobian of every layer, and compare this lens with the logit lens by layer."""

    sequence_length: int = 128
    """Tokens of a row."""
    batch_size: int = 4
    """Rows run at once; more of them need fewer passes and more memory."""
    max_tokens: int | None = 12_800
    """Tokens of the corpus to learn from; 100 rows of 128 give a usable lens, and published ones
    have up to 1000."""
    skip_first: int = 16
    """Positions at the start of every row that are left out, since their streams are unlike
    others."""


def _run(arguments: JacobianLensArguments, _words: Sequence[str]) -> None:
    from training.lens_run import JacobianLens, run_lens_fit

    run_lens_fit(arguments, JacobianLens(arguments))


main = command_main(JacobianLensArguments, _run, program="training.jacobian_lens")


if __name__ == "__main__":
    sys.exit(main())
