r"""Do updates of memory vectors follow their coefficients? `python -m analysis.memory_updates`.

For each checkpoint and layer: over memory vectors, how the norms of their gradients, and of their
updates under Adam, follow their mean coefficients (`analysis.memory_updates.measurement`). Writes
into `--out`:

- `updates.json`: every correlation, with provenance
- `updates.csv`: one row per checkpoint and layer
- `updates.html`: findings, figures and a table, one self-contained page
- a folder per checkpoint; run again with the same arguments, what was stopped goes on where it was

Example:
    $ python -m analysis.memory_updates --model runs/tiny --corpus general --out runs/updates
    $ python -m analysis.memory_updates --model EleutherAI/pythia-160m \
          --revisions step1000 step143000 --corpus general --out runs/updates
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import RowLayout, SampleBy
from probes.cli import command_main, progress
from training.settings import OptimizerSettings

if TYPE_CHECKING:
    from analysis.checkpoints import Checkpoint

_NOT_OF_THE_RESULT = ("out", "debug", "revision", "revisions")
_ADAM = OptimizerSettings()

NAME = "updates"
"""What its files are called."""


@dataclass(frozen=True, kw_only=True)
class UpdatesArguments:
    """Correlate gradients and updates of memory vectors with their coefficients."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file; a quoted pattern of folders or a
    run directory for all its checkpoints."""
    corpus: str
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set."""
    out: Path
    """Folder for the results; made if it is not there."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    revisions: tuple[str, ...] = ()
    """Several of them, or checkpoints of a run directory, for a series over training; separated by
    spaces or commas."""
    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    layout: RowLayout = RowLayout.PACKED
    """packed: documents end to end in full rows; document: one document a row, padded."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    sequence_length: int = 512
    """Tokens of a row."""
    batch_size: int = 4
    """Rows of a batch, which is a step of Adam."""
    batches: int = 8
    """Batches to take gradients of; with the defaults they take a model of 135M parameters about
    three minutes on two CPU cores."""
    betas: tuple[float, float] = _ADAM.betas
    """Adam's, of the mean gradient and of the mean squared one; those of training."""
    eps: float = _ADAM.eps
    """Adam's; that of training."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: UpdatesArguments, given: Sequence[str]) -> None:
    import probes
    from analysis.entropy.trajectory import begin
    from analysis.numbers import command_line

    _check(arguments)
    todo = _checkpoints(arguments)
    corpus = probes.load_corpus(
        arguments.corpus, column=arguments.column, sample_by=arguments.sample_by
    )
    begin(arguments.out, _settings(arguments))
    found = [_measured(arguments, one, corpus) for one in todo]
    _write(arguments, found, command_line("analysis.memory_updates", given))


def _check(arguments: UpdatesArguments) -> None:
    """Find out what is wrong with numbers before a model is loaded."""
    if arguments.batches < 1:
        raise ValueError(f"--batches must be 1 or more, found {arguments.batches}")
    OptimizerSettings(betas=arguments.betas, eps=arguments.eps)


def _checkpoints(arguments: UpdatesArguments) -> "list[Checkpoint]":
    from analysis.checkpoints import Checkpoint, checkpoints, is_series, step_of

    model, revision = arguments.model, arguments.revision
    if is_series(model, arguments.revisions):
        names = [name for part in arguments.revisions for name in part.split(",") if name]
        return checkpoints(model, names)
    label = revision or Path(model).name
    return [Checkpoint(model, revision, label, step_of(label))]


def _measured(arguments: UpdatesArguments, checkpoint: "Checkpoint", corpus: Any) -> dict[str, Any]:
    """The result of a checkpoint, from its folder if it is there and of these weights and texts."""
    import probes
    from analysis.checkpoints import origin_of
    from analysis.memory_updates.measurement import checkpoint_result, first_batches, measured_once

    model = probes.load_model(
        checkpoint.model,
        revision=checkpoint.revision,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    tokens = probes.token_batches(
        corpus,
        model.tokenizer,
        sequence_length=arguments.sequence_length,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
        prepend_bos=arguments.prepend_bos,
    )
    batches = first_batches(tokens, arguments.batches)
    total = sum(int(batch.attention_mask.sum()) for batch in batches)
    settings = OptimizerSettings(betas=arguments.betas, eps=arguments.eps)

    def measure() -> dict[str, Any]:
        with progress(f"{checkpoint.label}, tokens", total) as advance:
            return checkpoint_result(checkpoint, model, tokens, batches, settings, on_batch=advance)

    origin = origin_of(model, corpus=tokens.content_hash)
    return measured_once(arguments.out / checkpoint.slug, origin, measure)


def _settings(arguments: UpdatesArguments) -> dict[str, Any]:
    """What every number depends on, but for the checkpoint, as plain values."""
    import json

    kept = {k: v for k, v in asdict(arguments).items() if k not in _NOT_OF_THE_RESULT}
    return json.loads(json.dumps(kept, default=str))


def _write(arguments: UpdatesArguments, found: Sequence[dict[str, Any]], command: str) -> None:
    from analysis.document import save_report
    from analysis.memory_updates.report import update_table, updates_report

    content = {
        "model": arguments.model,
        "revision": arguments.revision,
        "corpus": found[0]["provenance"]["corpus"],
        "tokens": found[0]["provenance"]["tokens"],
        "units": "Spearman's rank correlation",
        "batches": arguments.batches,
        "configuration": _settings(arguments),
        "checkpoints": list(found),
    }
    report = updates_report(content, command)
    tables = {NAME: update_table(found)}
    save_report(report, arguments.out, NAME, content=content, tables=tables)


main = command_main(UpdatesArguments, _run, program="analysis.memory_updates")
