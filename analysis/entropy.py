r"""The entropies of a model over one or several corpora: `python -m analysis.entropy`.

Writes into `--out` the page `entropy.html`, all numbers (`entropy.json`, `entropy.csv` with a row
per layer) and `mean_coefficients.safetensors`, `[layer, d_mlp]`, which edits start from; of several
corpora each has a folder. Of several checkpoints it makes a sweep: a folder for each,
`trajectory.csv` and `trajectory.html`; run again with the same arguments, a sweep that was stopped
goes on where it was. Under `torchrun` the batches are shared out over processes.

Example:
    $ python -m analysis.entropy --model smollm2-135m-instruct-q4 \
          --corpus general biomedical --max-tokens 16384 --out runs/entropy
    $ python -m analysis.entropy --model EleutherAI/pythia-160m \
          --revisions step1000 step16000 step143000 --corpus general --out runs/sweep
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import Backend, Coefficient, Compat, EntropyKind, IntervalMethod, Weighting
from probes.cli import LoadingSettings, TextSettings, command_main, progress

if TYPE_CHECKING:
    from probes.results import EntropyResult

PAGE = "entropy.html"
FILES = (PAGE, "entropy.json", "entropy.csv", "mean_coefficients.safetensors")
# Where results go, or how they are shown; nothing in them depends on these.
_NOT_OF_THE_RESULT = ("out", "overwrite", "debug", "revision", "revisions", "batch_size")


@dataclass(frozen=True, kw_only=True)
class EntropyArguments(TextSettings, LoadingSettings):
    """Measure knowledge, attention and next-token entropy of a model over corpora."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file; a quoted pattern of folders or a
    run directory for all its checkpoints."""
    corpus: tuple[str, ...]
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set;
    several are compared."""
    out: Path
    """Folder for the results; made if it is not there."""
    revisions: tuple[str, ...] = ()
    """Several of them, or checkpoints of a run directory, for a sweep over training; separated by
    spaces or commas."""
    max_tokens: int | None = 16384
    """Tokens of each corpus to read, None for all; 16384 take a small model about a minute on two
    CPU cores."""
    max_documents: int | None = None
    """Documents of each corpus to read; all, as far as --max-tokens allows."""
    kinds: tuple[EntropyKind, ...] = tuple(EntropyKind)
    """Which entropies to measure."""
    coefficient: Coefficient = Coefficient.ABS
    """How coefficients become weights: |c|, max(c, 0), |max(gate, 0) up|, or |c| times the norm
    of the memory vector."""
    variants: tuple[Coefficient, ...] = ()
    """Further ways, measured in the same pass."""
    weighting: Weighting = Weighting.INSTANCE
    """What counts the same in a mean: every row, or every token."""
    compat: Compat | None = None
    """official: the paper's released code, number for number; knowledge entropy only."""
    interval: IntervalMethod = IntervalMethod.JACKKNIFE
    """How intervals are made from blocks of documents; bootstrap wants many --blocks."""
    blocks: int = 10
    """Blocks that the documents are dealt into."""
    until_interval: float | None = None
    """Stop as soon as every interval is at most this wide, in nats."""
    backend: Backend = Backend.NATIVE
    """What runs the model; native is the fastest."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: EntropyArguments, _words: Sequence[str]) -> None:
    from analysis.checkpoints import is_series
    from training.processes import joined_processes

    folders = _folders(arguments.corpus)
    with joined_processes() as here:
        if is_series(arguments.model, arguments.revisions):
            _run_series(arguments, folders, writes=here.is_first)
        else:
            _run_one(arguments, folders, writes=here.is_first)


def _folders(corpora: Sequence[str]) -> list[str]:
    """A folder for each corpus: of a path its last part, of a data set the whole id."""
    if not corpora:
        raise ValueError("--corpus is empty; name at least one, for example: --corpus general")
    twice = next((name for name in corpora if list(corpora).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--corpus has {twice!r} twice; a corpus is compared with others only")
    if len(corpora) == 1:
        return ["."]
    slugs: list[str] = []
    for name in corpora:
        stem = Path(name).stem if Path(name).exists() else name
        slug = re.sub(r"[^\w.-]+", "-", stem.lower()).strip("-.") or "corpus"
        names = (slug, *(f"{slug}-{number}" for number in range(2, len(corpora) + 2)))
        slugs.append(next(one for one in names if one not in slugs))
    return slugs


def _run_one(arguments: EntropyArguments, folders: Sequence[str], *, writes: bool) -> None:
    from analysis.document import html, print_report
    from analysis.entropy_page import entropy_report
    from probes.cli import output_folder, refuse_existing

    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    corpora = [arguments.corpus_of(name, arguments.max_documents) for name in arguments.corpus]
    model = arguments.load(arguments.model, backend=arguments.backend)
    batches = [arguments.batches_of(model, one, arguments.max_tokens) for one in corpora]
    results = [measure(arguments, model, tokens) for tokens in batches]
    if not writes:
        return
    report = entropy_report(results)
    with output_folder(arguments.out) as folder:
        for result, name in zip(results, folders, strict=True):
            result.save(folder / name)
        (folder / PAGE).write_text(html(report), encoding="utf-8")
    print_report(report)
    # Not through rich, which would break a long path between lines.
    print(f"page: {arguments.out / PAGE}")


def _run_series(arguments: EntropyArguments, folders: Sequence[str], *, writes: bool) -> None:
    from analysis.checkpoints import begin, checkpoints, origin_of, plain_settings
    from analysis.trajectory import measure_checkpoints, write_trajectory
    from training.processes import this_process

    if arguments.overwrite:
        raise ValueError(
            "--overwrite is for single results; a sweep goes on where it stopped, or give "
            "another --out"
        )
    todo = checkpoints(arguments.model, arguments.revisions)
    corpora = [arguments.corpus_of(name, arguments.max_documents) for name in arguments.corpus]
    if writes:
        begin(arguments.out, plain_settings(arguments, _NOT_OF_THE_RESULT))
    this_process().wait_for_all()
    kept: dict[int, list[Any]] = {}

    def tokenised(model: Any) -> list[Any]:
        """Batches of all corpora, made once for checkpoints that share a tokenizer."""
        words = model.tokenizer.get_vocab() if model.tokenizer is not None else {}
        key = hash(frozenset(words.items()))
        if key not in kept:
            batches = [arguments.batches_of(model, one, arguments.max_tokens) for one in corpora]
            kept[key] = [tokens.kept() for tokens in batches]
        return kept[key]

    measured = measure_checkpoints(
        todo,
        folders,
        arguments.out,
        load=lambda one: arguments.load(one.model, one.revision, backend=arguments.backend),
        measure=lambda one, model: [
            measure(arguments, model, tokens, one.label) for tokens in tokenised(model)
        ],
        origins=lambda model: [
            origin_of(model, corpus=tokens.content_hash) for tokens in tokenised(model)
        ],
        writes=writes,
    )
    if writes:
        write_trajectory(measured, arguments.out)


def measure(
    arguments: EntropyArguments, model: Any, tokens: Any, label: str | None = None
) -> "EntropyResult":
    """One result, behind a progress bar."""
    import probes
    from training.processes import this_process

    here = this_process()
    name = " ".join(filter(None, (label, tokens.corpus.name)))
    weighed = ("kinds", "coefficient", "variants", "weighting", "compat")
    estimated = ("interval", "blocks", "until_interval")
    settings = {each: getattr(arguments, each) for each in (*weighed, *estimated)}
    with progress(f"{name}, tokens", arguments.max_tokens, shown=here.is_first) as advance:
        return probes.measure_entropy(
            model, tokens, **settings, distributed=not here.is_alone, on_batch=advance
        )


main = command_main(EntropyArguments, _run, program="analysis.entropy")

if __name__ == "__main__":
    sys.exit(main())
