"""What `analysis.entropy` does with several checkpoints: measure all, tabulate, draw.

Writes into `--out`: `sweep.json`, a folder of results per checkpoint, `trajectory.csv` and
`trajectory.html`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.checkpoints import Checkpoint, checkpoints, origin_in, origin_of, refuse_another
from probes.cli import output_folder
from probes.json_text import json_text
from probes.results import RESULT_FILE, EntropyResult, load_result

if TYPE_CHECKING:
    from analysis.entropy.command import EntropyArguments


MANIFEST = "sweep.json"
Origin = Mapping[str, str | None]
"""What a result belongs to (`analysis.checkpoints`)."""


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave, over every corpus."""

    checkpoint: Checkpoint
    results: list[EntropyResult]


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Start a sweep in a folder, or go on with the one that is there."""
    manifest = out / MANIFEST
    if manifest.is_file():
        before = json.loads(manifest.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        # A sweep that failed before its first result binds nobody to its settings.
        if changed and any(path.is_dir() for path in out.glob("[!.]*")):
            name = changed[0]
            raise ValueError(
                f"--out {out} holds a sweep with {name} {before.get(name)!r}, not "
                f"{settings[name]!r}; give another folder, or the same settings to go on"
            )
        if not changed:
            return
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and holds no sweep; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{MANIFEST}.partial"
    partial.write_text(json_text(settings, f"{manifest}", indent=2) + "\n", encoding="utf-8")
    partial.rename(manifest)


def sweep(
    todo: Sequence[Checkpoint],
    folders: Sequence[str],
    out: Path,
    load: Callable[[Checkpoint], Any],
    measure: Callable[[Checkpoint, Any], list[EntropyResult]],
    origins: Callable[[Any], Sequence[Origin]],
    *,
    writes: bool = True,
) -> list[Measured]:
    """Measure every checkpoint that has no results yet."""
    done = [c for c in todo if _is_done(out / c.slug, folders)]
    waiting = [c for c in todo if c not in done]
    found: dict[Checkpoint, list[EntropyResult]] = {}
    for checkpoint, model in _loaded_ahead([*done, *waiting], load):
        folder = out / checkpoint.slug
        if checkpoint in done:
            places = [folder / name for name in folders]
            found[checkpoint] = list(map(_unchanged, places, origins(model)))
            continue
        found[checkpoint] = measure(checkpoint, model)
        if writes:
            with output_folder(folder) as partial:
                for result, name in zip(found[checkpoint], folders, strict=True):
                    result.save(partial / name)
    return [Measured(checkpoint, found[checkpoint]) for checkpoint in todo]


def _unchanged(folder: Path, origin: Origin) -> EntropyResult:
    """A finished result, refused if it belongs to something else."""
    kept = load_result(folder)
    refuse_another(folder, origin_in(kept.provenance), origin)
    return kept


def _is_done(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name / RESULT_FILE).is_file() for name in names)


def _loaded_ahead(
    todo: Sequence[Checkpoint], load: Callable[[Checkpoint], Any]
) -> Iterator[tuple[Checkpoint, Any]]:
    """Each checkpoint with its model; the next one loads while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(load, todo[0]) if todo else None
        for place, checkpoint in enumerate(todo):
            assert coming is not None
            model = coming.result()
            following = todo[place + 1 : place + 2]
            coming = pool.submit(load, following[0]) if following else None
            yield checkpoint, model
            # Not before the caller is done with it: two models at a time, never three.
            del model


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
