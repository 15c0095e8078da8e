r"""The entropies of a model over one or several corpora: `python -m analysis.entropy`.

Writes, for one corpus, into `--out`:

- `entropy.html`: findings and interactive figures, one self-contained page
- `entropy.json`: every number, with intervals and provenance
- `entropy.csv`: one row per layer
- `mean_coefficients.safetensors`: `[layer, d_mlp]`, which edits start from

and, for several corpora, the last three into a folder for each and one page that compares them.

Of several checkpoints (`--revisions`, a quoted pattern of folders, or a run directory) it makes a
sweep: a folder of results for each, `trajectory.csv`, and `trajectory.html` with curves over
training. Run again with the same arguments, a sweep that was stopped goes on where it was.

Under `torchrun` the batches are shared out over processes. What is measured is defined in
`probes.entropy` (nats).

Example:
    $ python -m analysis.entropy --model smollm2-135m-instruct-q4 \
          --corpus general biomedical --max-tokens 16384 --out runs/entropy
    $ python -m analysis.entropy --model EleutherAI/pythia-160m \
          --revisions step1000 step16000 step143000 --corpus general --out runs/sweep
    $ torchrun --nproc-per-node 2 -m analysis.entropy --model ... --corpus ... --out ...
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import (
    Backend,
    Coefficient,
    Compat,
    EntropyKind,
    IntervalMethod,
    RowLayout,
    SampleBy,
    Weighting,
)
from probes.cli import command_main, progress

if TYPE_CHECKING:
    from probes.results import EntropyResult

PAGE = "entropy.html"
FILES = (PAGE, "entropy.json", "entropy.csv", "mean_coefficients.safetensors")


@dataclass(frozen=True, kw_only=True)
class EntropyArguments:
    """Measure knowledge, attention and next-token entropy of a model over corpora."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file; a quoted pattern of folders or a
    run directory for all its checkpoints."""
    corpus: tuple[str, ...]
    """Built-in corpus, file of texts or token ids, folder, quoted pattern or hub data set;
    several are compared."""
    out: Path
    """Folder for the results; made if it is not there."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    revisions: tuple[str, ...] = ()
    """Several of them, or checkpoints of a run directory, for a sweep over training; separated by
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
    batch_size: int = 8
    """Rows run at once."""
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
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: EntropyArguments, _words: Sequence[str]) -> None:
    from analysis.checkpoints import is_series
    from analysis.processes import process_group

    with process_group() as rank:
        if is_series(arguments.model, arguments.revisions):
            from analysis.entropy.trajectory import run_trajectory

            run_trajectory(arguments, _folders(arguments.corpus), rank)
        else:
            _run_one(arguments, rank)


def _run_one(arguments: EntropyArguments, rank: int) -> None:
    from probes.cli import refuse_existing

    folders = _folders(arguments.corpus)
    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    opened = open_corpora(arguments)
    model = load(arguments, arguments.model, arguments.revision)
    results = [measure(arguments, model, batches(arguments, model, c)) for c in opened]
    if rank:
        return
    _write(results, folders, arguments.out)
    # Not through rich, which would break a long path between lines.
    print(f"page: {arguments.out / PAGE}")


def _folders(corpora: Sequence[str]) -> list[str]:
    if not corpora:
        raise ValueError("--corpus is empty; name at least one, for example: --corpus general")
    twice = next((name for name in corpora if list(corpora).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--corpus has {twice!r} twice; a corpus is compared with others only")
    if len(corpora) == 1:
        return ["."]
    slugs: list[str] = []
    for name in corpora:
        slug = corpus_slug(name)
        numbered = (f"{slug}-{number}" for number in count(2))
        slugs.append(slug if slug not in slugs else next(n for n in numbered if n not in slugs))
    return slugs


def corpus_slug(name: str) -> str:
    """A folder name for a corpus: of a path its last part, of a data set the whole id."""
    stem = Path(name).stem if Path(name).exists() else name
    return re.sub(r"[^\w.-]+", "-", stem.lower()).strip("-.") or "corpus"


def open_corpora(arguments: EntropyArguments) -> list[Any]:
    """The corpora to measure over."""
    import probes

    return [
        probes.load_corpus(
            name,
            column=arguments.column,
            sample_by=arguments.sample_by,
            max_documents=arguments.max_documents,
        )
        for name in arguments.corpus
    ]


def load(arguments: EntropyArguments, model: str, revision: str | None) -> Any:
    """One model, hooked."""
    import probes

    return probes.load_model(
        model,
        revision=revision,
        device=arguments.device,
        dtype=arguments.dtype,
        backend=arguments.backend,
    )


def batches(arguments: EntropyArguments, model: Any, corpus: Any) -> Any:
    """The token batches of a corpus for a model's tokenizer."""
    import probes

    return probes.token_batches(
        corpus,
        model.tokenizer,
        sequence_length=arguments.sequence_length,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
        prepend_bos=arguments.prepend_bos,
        max_tokens=arguments.max_tokens,
    )


def measure(
    arguments: EntropyArguments, model: Any, tokens: Any, label: str | None = None
) -> "EntropyResult":
    """One result, behind a progress bar."""
    import probes
    from analysis.processes import is_shared, is_watched

    name = " ".join(filter(None, (label, tokens.corpus.name)))
    with progress(f"{name}, tokens", arguments.max_tokens, shown=is_watched()) as advance:
        return probes.measure_entropy(
            model,
            tokens,
            arguments.kinds,
            coefficient=arguments.coefficient,
            variants=arguments.variants,
            weighting=arguments.weighting,
            compat=arguments.compat,
            interval=arguments.interval,
            blocks=arguments.blocks,
            until_interval=arguments.until_interval,
            distributed=is_shared(),
            on_batch=advance,
        )


def _write(results: "Sequence[EntropyResult]", folders: Sequence[str], out: Path) -> None:
    from analysis.document import html, print_report
    from analysis.entropy.report import entropy_report
    from probes.cli import output_folder

    report = entropy_report(results)
    with output_folder(out) as folder:
        for result, name in zip(results, folders, strict=True):
            result.save(folder / name)
        (folder / PAGE).write_text(html(report), encoding="utf-8")
    print_report(report)


main = command_main(EntropyArguments, _run, program="analysis.entropy")
