r"""What edits do to a model, many of them: `python -m analysis.edit_sweep`.

Tries resuscitation at every site the model has, with several factors at one ratio and several
ratios at one factor, and several attention temperatures. Coefficients are measured once, on the
unedited model; every edit is then made by hooks, measured and taken off. Writes into `--out`:

- `edits.md`: the findings and the table, with the command that makes it
- `edits.csv`, `edits.json`: the same numbers, all of them
- `edits.html`: findings, tables and interactive figures, one self-contained page
- `unedited/`, `rows/`: what was measured, one file per edit

Run again with the same arguments, a sweep that was stopped goes on where it was. Entropies and
losses are in nats; what edits do is defined in `interventions`.

Example:
    $ python -m analysis.edit_sweep --model smollm2-135m-instruct-q4 --corpus general \
          --out runs/edits
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interventions.choices import ResuscitationSite
from probes.choices import RowLayout, SampleBy
from probes.cli import command_main, progress

if TYPE_CHECKING:
    from analysis.edit_sweep.measurements import EditSetting, EditSweep

NAME = "edits"
_NOT_OF_THE_RESULT = ("out", "debug", "sites", "factors", "ratios", "temperatures")


@dataclass(frozen=True, kw_only=True)
class EditSweepArguments:
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
    """Where to resuscitate; without any, at all sites that the model has."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Amplifying factors to try, at ratio 0.5."""
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    """Resuscitation ratios to try, at factor 1."""
    temperatures: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Attention temperatures to try."""
    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    layout: RowLayout = RowLayout.PACKED
    """packed: documents end to end in full rows; document: one document a row, padded."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    sequence_length: int = 256
    """Tokens of a row."""
    batch_size: int = 8
    """Rows run at once."""
    max_tokens: int | None = 6144
    """Tokens to measure on, None for all; with as many held out, all edits take a model of 135M
    parameters about 20 minutes on two CPU cores."""
    held_out_tokens: int | None = 6144
    """Held-out tokens to measure the loss on, None for all."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: EditSweepArguments, given: Sequence[str]) -> None:
    import probes
    from analysis.edit_sweep.measurements import sites_of
    from analysis.entropy.trajectory import begin
    from analysis.numbers import command_line
    from interventions.effects import keep_tokens, open_texts

    # What is wrong with the arguments is found out before a model is loaded.
    _edits(arguments, arguments.sites or (ResuscitationSite.UP,))
    _refuse_folder(arguments.out)
    texts = open_texts(arguments.corpus, arguments.held_out, arguments.column, arguments.sample_by)
    model = probes.load_model(
        arguments.model,
        revision=arguments.revision,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    settings = _edits(arguments, sites_of(model, arguments.sites))
    kept = keep_tokens(
        texts,
        model.tokenizer,
        sequence_length=arguments.sequence_length,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
        max_tokens=arguments.max_tokens,
        held_out_tokens=arguments.held_out_tokens,
        prepend_bos=arguments.prepend_bos,
    )
    begin(arguments.out, _settings(arguments))
    command = command_line("analysis.edit_sweep", given)
    _write(_sweep(model, settings, arguments.out, *kept), command, arguments.out)


def _edits(
    arguments: EditSweepArguments, sites: Sequence[ResuscitationSite]
) -> "list[EditSetting]":
    from analysis.edit_sweep.measurements import edit_settings

    return edit_settings(
        sites,
        factors=arguments.factors,
        ratios=arguments.ratios,
        temperatures=arguments.temperatures,
    )


def _refuse_folder(out: Path) -> None:
    """Refuse a folder that no sweep can be written to, before a model is loaded."""
    from analysis.entropy.trajectory import MANIFEST
    from probes.cli import refuse_existing

    if (out / MANIFEST).is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no sweep; give another folder")
    refuse_existing(out, overwrite=False, known=())


def _sweep(
    model: Any, settings: "list[EditSetting]", out: Path, batches: Any, held_out: Any
) -> "EditSweep":
    """All rows, behind one progress bar for what is left to do."""
    from analysis.edit_sweep.measurements import passes_left, sweep_edits

    passes = passes_left(settings, out)
    total = passes * (batches.tokens + held_out.tokens)
    with progress(f"{len(settings)} edits, tokens", total, shown=passes > 0) as advance:
        return sweep_edits(model, settings, out, batches, held_out, on_batch=advance)


def _settings(given: EditSweepArguments) -> dict[str, Any]:
    """What every row depends on; which edits are tried may change from run to run."""
    import json

    kept = {name: v for name, v in asdict(given).items() if name not in _NOT_OF_THE_RESULT}
    return json.loads(json.dumps(kept, default=str))


def _write(sweep: "EditSweep", command: str, out: Path) -> None:
    from analysis.document import save_report
    from analysis.edit_sweep.findings import edit_records, edit_table
    from analysis.edit_sweep.report import edit_report

    content = {
        "command": command,
        "units": "nats",
        "provenance": asdict(sweep.result.provenance),
        "held_out": asdict(sweep.held_out),
        "edits": edit_records(sweep),
    }
    report = edit_report(sweep, command)
    save_report(report, out, NAME, content=content, tables={NAME: edit_table(sweep)})


main = command_main(EditSweepArguments, _run, program="analysis.edit_sweep")
