r"""What edits do to a model, many of them: `python -m analysis.edit_sweep`.

Tries resuscitation at every site of the model, with several factors and ratios, and several
attention temperatures; each is made by hooks, measured and taken off. Writes `edits.md`, `.html`,
`.csv` and `.json` into `--out`, and what was measured of each edit into `unedited/` and `rows/`:
run again with the same arguments, a sweep that was stopped goes on where it was. Numbers are in
nats.

Example:
    $ python -m analysis.edit_sweep --model smollm2-135m-instruct-q4 --corpus general \
          --out runs/edits
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interventions.choices import ResuscitationSite
from probes.cli import LoadingSettings, TextSettings, command_main, progress

NAME = "edits"


@dataclass(frozen=True, kw_only=True)
class EditSweepArguments(TextSettings, LoadingSettings):
    """Make many edits of a model, one after the other, and measure what each does."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    corpus: str
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set."""
    out: Path
    """Folder for the results; made if it is not there."""
    held_out: str | None = None
    """Corpus for the held-out loss; without one, every fifth document of --corpus, which is then
    not measured on."""
    sites: tuple[ResuscitationSite, ...] = ()
    """Sites to resuscitate at; without any, all that the model has."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Amplifying factors to try, at ratio 0.5."""
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    """Resuscitation ratios to try, at factor 1."""
    temperatures: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Attention temperatures to try."""
    edit: tuple[str, ...] = ()
    """Edits of your own to try, each as module:object (my_edits:half say): an edit, or a function
    that makes one of the model. They are measured in the weights where those can express them."""
    sequence_length: int = 256
    """Tokens of a row."""
    max_tokens: int | None = 6144
    """Tokens to measure on, None for all; with as many held out, all edits take a model of 135M
    parameters about 20 minutes on two CPU cores."""
    held_out_tokens: int | None = 6144
    """Held-out tokens to measure the loss on, None for all."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: EditSweepArguments, given: Sequence[str]) -> None:
    from analysis.checkpoints import MANIFEST, begin, plain_settings
    from analysis.document import save_report
    from analysis.edit_measures import edit_settings, passes_left, sites_of, sweep_edits
    from analysis.edit_sweep_page import edit_report
    from analysis.numbers import command_line
    from interventions.patch_run import keep_tokens, open_texts
    from probes.cli import refuse_foreign

    out, tried = arguments.out, ("factors", "ratios", "temperatures")
    grid: dict[str, Any] = {name: getattr(arguments, name) for name in tried}
    # What is wrong with the arguments is found out before a model is loaded.
    grid["own"] = arguments.edit
    edit_settings(arguments.sites or (ResuscitationSite.UP,), **grid)
    refuse_foreign(out, MANIFEST, "sweep")
    texts = open_texts(arguments, arguments.corpus, arguments.held_out)
    model = arguments.load(arguments.model)
    settings = edit_settings(sites_of(model, arguments.sites), **grid)
    batches, held_out = keep_tokens(
        arguments, model, texts, arguments.max_tokens, arguments.held_out_tokens
    )
    # Which edits are tried may change from run to run.
    begin(out, plain_settings(arguments, ("out", "debug", "sites", "edit", *tried)))
    passes = passes_left(settings, out)
    total = passes * (batches.tokens + held_out.tokens)
    with progress(f"{len(settings)} edits, tokens", total, shown=passes > 0) as advance:
        sweep = sweep_edits(model, settings, out, batches, held_out, on_batch=advance)
    command = command_line("analysis.edit_sweep", given)
    content = {
        "command": command,
        "units": "nats",
        "provenance": asdict(sweep.result.provenance),
        "held_out": asdict(sweep.held_out),
        "edits": sweep.records(),
    }
    report = edit_report(sweep, command)
    save_report(report, out, NAME, content=content, tables={NAME: sweep.table})


main = command_main(EditSweepArguments, _run, program="analysis.edit_sweep")

if __name__ == "__main__":
    sys.exit(main())
