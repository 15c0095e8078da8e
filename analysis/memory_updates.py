r"""Do updates of memory vectors follow their coefficients? `python -m analysis.memory_updates`.

For each checkpoint and layer: over memory vectors, how the norms of their gradients, and of their
updates under Adam, follow their mean coefficients (`analysis.update_measures`). Writes
`updates.html`, `.json` and `.csv` (a row per checkpoint and layer) into `--out`, and a folder per
checkpoint: run again with the same arguments, what was stopped goes on where it was.

Example:
    $ python -m analysis.memory_updates --model runs/tiny --corpus general --out runs/updates
    $ python -m analysis.memory_updates --model EleutherAI/pythia-160m \
          --revisions step1000 step143000 --corpus general --out runs/updates
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import document
from analysis.numbers import command_line, count, shown_path, signed_nats
from probes.cli import LoadingSettings, TextSettings, command_main, progress
from training.settings import OptimizerSettings

if TYPE_CHECKING:
    import pandas as pd

    from analysis.checkpoints import Checkpoint

MEASURES = {"gradients": "gradients", "updates": "updates under Adam"}
"""What is correlated with mean coefficients, and what a reader calls it."""
NAME = "updates"  # what its files are called
HOW_TO_READ = (
    "Spearman's correlation over the memory vectors of a layer: of the norm of what each would be "
    "changed by with its mean |c|, c being what it is multiplied by, over the same tokens. "
    "Gradients are of the mean loss; updates are what Adam would do after all batches, with the "
    "weights held still."
)
_NOT_OF_THE_RESULT = ("out", "debug", "revision", "revisions")
_ADAM = OptimizerSettings()


@dataclass(frozen=True, kw_only=True)
class UpdatesArguments(TextSettings, LoadingSettings):
    """Correlate gradients and updates of memory vectors with their coefficients."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file; a quoted pattern of folders or a
    run directory for all its checkpoints."""
    corpus: str
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set."""
    out: Path
    """Folder for the results; made if it is not there."""
    revisions: tuple[str, ...] = ()
    """Several of them, or checkpoints of a run directory, for a series over training; separated by
    spaces or commas."""
    batch_size: int = 4
    """Rows of a batch, which is a step of Adam."""
    batches: int = 8
    """Batches to take gradients of; with the defaults they take a model of 135M parameters about
    three minutes on two CPU cores."""
    betas: tuple[float, float] = _ADAM.betas
    """Adam's, of the mean gradient and of the mean squared one; those of training."""
    eps: float = _ADAM.eps
    """Adam's; that of training."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: UpdatesArguments, given: Sequence[str]) -> None:
    from analysis.checkpoints import (
        Checkpoint,
        begin,
        checkpoints,
        is_series,
        plain_settings,
        step_of,
    )
    from analysis.document import save_report

    # What is wrong with numbers is found out before a model is loaded.
    if arguments.batches < 1:
        raise ValueError(f"--batches must be 1 or more, found {arguments.batches}")
    OptimizerSettings(betas=arguments.betas, eps=arguments.eps)
    model, revision = arguments.model, arguments.revision
    label = revision or Path(model).name
    todo = [Checkpoint(model, revision, label, step_of(label))]
    if is_series(model, arguments.revisions):
        todo = checkpoints(model, arguments.revisions)
    corpus = arguments.corpus_of(arguments.corpus)
    settings = plain_settings(arguments, _NOT_OF_THE_RESULT)
    begin(arguments.out, settings)
    found = [_measured(arguments, one, corpus) for one in todo]
    content = {
        "model": arguments.model,
        "revision": arguments.revision,
        "corpus": found[0]["provenance"]["corpus"],
        "tokens": found[0]["provenance"]["tokens"],
        "units": "Spearman's rank correlation",
        "batches": arguments.batches,
        "configuration": settings,
        "checkpoints": found,
    }
    report = updates_report(content, command_line("analysis.memory_updates", given))
    tables = {NAME: update_table(found)}
    save_report(report, arguments.out, NAME, content=content, tables=tables)


def _measured(arguments: UpdatesArguments, checkpoint: "Checkpoint", corpus: Any) -> dict[str, Any]:
    """The result of a checkpoint, from its folder if it is there and of these weights and texts."""
    from analysis.checkpoints import origin_of
    from analysis.update_measures import checkpoint_result, first_batches, measured_once

    model = arguments.load(checkpoint.model, checkpoint.revision)
    tokens = arguments.batches_of(model, corpus)
    batches = first_batches(tokens, arguments.batches)
    total = sum(int(batch.attention_mask.sum()) for batch in batches)
    settings = OptimizerSettings(betas=arguments.betas, eps=arguments.eps)

    def measure() -> dict[str, Any]:
        with progress(f"{checkpoint.label}, tokens", total) as advance:
            return checkpoint_result(checkpoint, model, tokens, batches, settings, on_batch=advance)

    origin = origin_of(model, corpus=tokens.content_hash)
    return measured_once(arguments.out / checkpoint.slug, origin, measure)


def updates_report(content: Mapping[str, Any], command: str) -> document.Report:
    """What was found."""
    from analysis.figures import heatmap

    tidy, model = update_table(content["checkpoints"]), shown_path(content["model"])
    panels = [
        document.Panel(
            heatmap(
                tidy,
                "checkpoint",
                "layer",
                measure,
                unit="rank correlation",
                hover=f"layer {{layer}}, {{checkpoint}}: <b>{{{measure}:+.3f}}</b>",
                titles=("checkpoint", "layer"),
                signed=True,
                limits=(-1, 1),
            ),
            what,
        )
        for measure, what in MEASURES.items()
    ]
    drawn = document.Figure(
        "Rank correlation with mean coefficients, by layer.", HOW_TO_READ, panels
    )
    said = f"{content['batches']} batches, so many steps of Adam."
    settings = document.Fold("All settings and hashes", [document.Settings(dict(content))])
    return document.Report(
        title=f"Updates of the memory vectors of {model}",
        heading=("Do updates of memory vectors of ", model, " follow coefficients?"),
        kicker="mnemoscope · memory updates",
        deck=f"{len(content['checkpoints'])} checkpoints, {count(content['tokens'])} tokens of "
        f"{shown_path(content['corpus'])}.",
        findings=findings(tidy),
        command=command,
        sections=[
            document.Section("The numbers", [drawn, _summary_table(tidy)]),
            document.Section("Provenance", [document.Code(command), said, settings]),
        ],
    )


def update_table(checkpoints: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A row for each checkpoint and layer: `checkpoint`, `step`, `layer` and the correlations."""
    import pandas as pd

    rows = [
        {"checkpoint": one["checkpoint"], "step": one["step"], **layer}
        for one in checkpoints
        for layer in one["layers"]
    ]
    table = pd.DataFrame(rows, columns=["checkpoint", "step", "layer", *MEASURES])
    return table.astype({"step": "Int64", **dict.fromkeys(MEASURES, float)})


def _summary_table(tidy: "pd.DataFrame") -> document.Table:
    over = {
        f"{end}{measure}": (measure, how)
        for measure in MEASURES
        for end, how in (("", "mean"), ("low_", "min"), ("high_", "max"))
    }
    columns = {what: f"{{{measure}:+nats~_{measure}}}" for measure, what in MEASURES.items()}
    return document.table_of(
        "Rank correlation with mean coefficients, mean over layers",
        tidy.groupby("checkpoint", sort=False).agg(**over).reset_index(),
        {"checkpoint": "{checkpoint}", **columns},
        f"{HOW_TO_READ} Means over layers, with the least and the most of them.",
        where=document.Where.EVERYWHERE,
    )


def findings(table: "pd.DataFrame") -> list[str]:
    """What the correlations say of the last checkpoint, in plain sentences."""
    last = table[table["checkpoint"] == table["checkpoint"].iloc[-1]]
    name, layers = last["checkpoint"].iloc[0], len(last)
    closer = int((last["updates"] < last["gradients"]).sum())
    return [
        *(
            f"At {name}, {what} are larger for memory vectors with larger coefficients in "
            f"{int((last[measure] > 0).sum())} of {layers} layers; the mean rank correlation is "
            f"{signed_nats(last[measure].mean())}."
            for measure, what in MEASURES.items()
        ),
        f"In {closer} of {layers} layers updates follow coefficients less closely than gradients "
        "do.",
    ]


main = command_main(UpdatesArguments, _run, program="analysis.memory_updates")

if __name__ == "__main__":
    sys.exit(main())
