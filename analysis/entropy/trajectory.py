"""What `analysis.entropy` does with several checkpoints: measure all, tabulate, draw.

Writes into `--out`: `sweep.json`, a folder of results per checkpoint, `trajectory.csv` and
`trajectory.html`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from analysis.checkpoints import Checkpoint, checkpoints
from analysis.entropy.sweep import Measured, Origin, begin, sweep
from analysis.origin import origin_of
from probes.results import EntropyResult

if TYPE_CHECKING:
    from analysis.entropy.command import EntropyArguments

PAGE, TABLE = "trajectory.html", "trajectory.csv"
# Where results go, or how they are shown; nothing in them depends on these.
_NOT_OF_THE_RESULT = ("out", "overwrite", "debug", "revision", "revisions", "batch_size")


def run_trajectory(arguments: "EntropyArguments", folders: Sequence[str], rank: int) -> None:
    """Measure every checkpoint that has no results yet, and draw all of them."""
    from analysis.entropy import command as entropy

    if arguments.overwrite:
        raise ValueError(
            "--overwrite is for single results; a sweep goes on where it stopped, or give "
            "another --out"
        )
    revisions = [name for part in arguments.revisions for name in part.split(",") if name]
    todo = checkpoints(arguments.model, revisions)
    opened = entropy.open_corpora(arguments)
    if rank == 0:
        begin(arguments.out, _settings(arguments))
    _wait_for_all()
    tokenised = _OncePerTokenizer(arguments, opened)

    def load(checkpoint: Checkpoint) -> Any:
        return entropy.load(arguments, checkpoint.model, checkpoint.revision)

    def measure(checkpoint: Checkpoint, model: Any) -> list[EntropyResult]:
        return [
            entropy.measure(arguments, model, tokens, checkpoint.label)
            for tokens in tokenised(model)
        ]

    def origins(model: Any) -> list[Origin]:
        return [origin_of(model, corpus=tokens.content_hash) for tokens in tokenised(model)]

    measured = sweep(todo, folders, arguments.out, load, measure, origins, writes=rank == 0)
    if rank == 0:
        _write(measured, arguments)


def _wait_for_all() -> None:
    from torch import distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _settings(arguments: "EntropyArguments") -> dict[str, Any]:
    """What every result of the sweep depends on, as plain values."""
    import json

    kept = {k: v for k, v in asdict(arguments).items() if k not in _NOT_OF_THE_RESULT}
    return json.loads(json.dumps(kept, default=str))


class _OncePerTokenizer:
    """Batches of all corpora, tokenised once for checkpoints that share a tokenizer."""

    def __init__(self, arguments: "EntropyArguments", corpora: Sequence[Any]) -> None:
        self._arguments, self._corpora = arguments, corpora
        self._kept: dict[int, list[Any]] = {}

    def __call__(self, model: Any) -> list[Any]:
        from analysis.entropy import command as entropy

        tokenizer = model.tokenizer
        key = hash(frozenset(tokenizer.get_vocab().items())) if tokenizer is not None else 0
        if key not in self._kept:
            self._kept[key] = [
                entropy.batches(self._arguments, model, corpus).kept() for corpus in self._corpora
            ]
        return self._kept[key]


def _write(measured: Sequence[Measured], arguments: "EntropyArguments") -> None:
    from analysis.document import html, print_report
    from analysis.entropy.trajectory_report import trajectory_report
    from analysis.entropy.trajectory_tables import trajectory_table

    trajectory_table(measured).to_csv(arguments.out / TABLE, index=False)
    report = trajectory_report(measured)
    print_report(report)
    if len(measured) > 1:
        (arguments.out / PAGE).write_text(html(report), encoding="utf-8")
        print(f"page: {arguments.out / PAGE}")
