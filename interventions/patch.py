r"""Edit a model and save it: `python -m interventions.patch`.

Measures mean coefficients over a corpus (or reads them), writes the edits that they call for into
the weights, and saves an ordinary Hugging Face folder with `edits.json` beside the weights. Prints
entropies in nats, and perplexity on documents that no coefficient was measured on, before and after
(and as predicted). `--dry-run` does the same and writes nothing. What the edits do is defined in
`interventions.resuscitation` and `interventions.attention_temperature`.

Example:
    $ python -m interventions.patch --model smollm2-135m-instruct-q4 --corpus general \
          --resuscitation-ratio 0.5 --resuscitation-factor 2 --site preserving --out runs/patched
    $ python -m interventions.patch --model smollm2-135m-instruct-q4 --corpus general \
          --attention-temperature 1.5 --dry-run
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interventions.choices import ResuscitationSite, Selection, named_object
from probes.choices import Compat
from probes.cli import LoadingSettings, TextSettings, command_main


@dataclass(frozen=True, kw_only=True)
class PatchArguments(TextSettings, LoadingSettings):
    """Edit a model, say what that does to it, and save it as an ordinary checkpoint."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    out: Path | None = None
    """Folder for the edited checkpoint; made if it is not there, and not needed to --dry-run."""
    corpus: str | None = None
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set: what
    coefficients and entropies are measured on. Without one nothing is measured, which needs
    --coefficients to resuscitate."""
    held_out: str | None = None
    """Corpus for perplexity; every fifth document of --corpus, which is then not measured on."""
    coefficients: Path | None = None
    """Folder of an entropy result of this model, to take the mean coefficients from."""
    resuscitation_ratio: float | None = None
    """Share of the neurons of a layer, the least active ones, that are resuscitated: 0 to 1."""
    resuscitation_factor: float | None = None
    """What their mean coefficients are to become, in means of their layer."""
    target_entropy: float | None = None
    """Instead of the factor: the knowledge entropy to reach, in nats, summed over layers."""
    site: ResuscitationSite = ResuscitationSite.UP
    """What is multiplied: up rows (the paper's), memory vectors (down), both so that the model
    computes the same (preserving), gate rows, or up rows before a nonlinearity."""
    layers: tuple[int, ...] = ()
    """In which layers; all."""
    selection: Selection = Selection.QUANTILE
    """quantile: at or below it, ties included; exact: exactly so many neurons."""
    max_multiplier: float | None = None
    """No neuron is multiplied by more; no cap."""
    sequential: bool = False
    """Measure each layer with all earlier ones edited: one pass a layer."""
    compat: Compat | None = None
    """official: multipliers as the paper's released code computes them."""
    attention_temperature: float | None = None
    """Divide attention scores by this, in every layer."""
    edit: tuple[str, ...] = ()
    """Edits of your own, after those above, each as module:object (my_edits:half say): an edit, or
    a function that makes one of the model."""
    max_tokens: int | None = 16384
    """Tokens to measure on, None for all; 16384 take a small model some minutes on two CPU cores,
    since everything is measured before and after."""
    held_out_tokens: int | None = 8192
    """Held-out tokens to read, None for all."""
    max_shard_size: str = "5GB"
    """How large a weights file may be."""
    dry_run: bool = False
    """Do everything but save."""
    overwrite: bool = False
    """Replace an earlier edited checkpoint in --out."""
    debug: bool = False
    """Show the traceback of an error."""

    @property
    def resuscitates(self) -> bool:
        """Whether neurons are to be resuscitated."""
        return self.resuscitation_ratio is not None


def _run(arguments: PatchArguments, _words: Sequence[str]) -> None:
    _refuse_contradictions(arguments)
    from interventions.patch_run import run_patch

    run_patch(arguments)


def _refuse_contradictions(given: PatchArguments) -> None:
    """Refuse arguments that do not go together, before anything is loaded."""
    factor, target = given.resuscitation_factor, given.target_entropy
    says_how_much = factor is not None or target is not None
    for name in given.edit:
        named_object(name)
    others = given.attention_temperature is not None or given.edit
    if not given.resuscitates and not says_how_much and not others:
        raise ValueError(
            "there is nothing to do; give --resuscitation-ratio and --resuscitation-factor, "
            "--attention-temperature or --edit"
        )
    if given.resuscitates != says_how_much:
        raise ValueError(
            "--resuscitation-ratio says which neurons, --resuscitation-factor or --target-entropy "
            "how much; give both"
        )
    if not given.resuscitates and (unused := _of_resuscitation(given)):
        raise ValueError(f"{unused} is for resuscitation; give --resuscitation-ratio too")
    if factor is not None and target is not None:
        raise ValueError("--target-entropy solves for the factor; leave one of the two out")
    if given.resuscitates and given.corpus is None and given.coefficients is None:
        raise ValueError("resuscitation needs mean coefficients; give --corpus or --coefficients")
    if given.sequential and (given.coefficients, target, given.compat) != (None, None, None):
        raise ValueError(
            "--sequential measures coefficients layer by layer; leave out --coefficients, "
            "--target-entropy and --compat"
        )
    if given.out is None and not given.dry_run:
        raise ValueError("--out is missing; give a folder for the checkpoint, or --dry-run")


def _of_resuscitation(given: PatchArguments) -> str | None:
    """The first option given that does nothing without a resuscitation."""
    plain = PatchArguments(model=given.model)
    settings = ("coefficients", "site", "layers", "selection", "max_multiplier", "sequential")
    for name in (*settings, "compat"):
        if getattr(given, name) != getattr(plain, name):
            return f"--{name.replace('_', '-')}"
    return None


main = command_main(PatchArguments, _run, program="interventions.patch")

if __name__ == "__main__":
    sys.exit(main())
