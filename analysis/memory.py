r"""Which memory vectors a prompt uses, and what is in them: `python -m analysis.memory`.

Finds the memory vectors that matter most at a position of a prompt, says which tokens each promotes
and suppresses, and goes through a corpus once for the texts in which each has its largest
coefficients (`probes.memory`). Writes into `--out`:

- `memory.html`: the vectors, their tokens and their contexts, one self-contained page
- `memory.csv`: one row per vector
- `contexts.csv`: one row per vector and context
- `memory.json`, `memory.md`: the same, with provenance

Example:
    $ python -m analysis.memory --model smollm2-135m-instruct-q4 \
          --prompt "The capital of France is" --token " Paris" --out runs/memory
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probes.choices import VectorOrder
from probes.cli import LoadingSettings, TextSettings, command_main, progress

if TYPE_CHECKING:
    from probes.corpus.token_batch import TokenBatch

NAME = "memory"
FILES = (*(f"{NAME}.{ending}" for ending in ("html", "csv", "json", "md")), "contexts.csv")


@dataclass(frozen=True, kw_only=True)
class MemoryArguments(TextSettings, LoadingSettings):
    """Find the memory vectors that a prompt uses most, what they write, and where else."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    prompt: str
    """The text whose last token, or that at --position, is looked at."""
    out: Path
    """Folder for the results; made if it is not there."""
    token: str | None = None
    """A token whose logit vectors add to, such as " Paris"; vectors are put in order by it."""
    by: VectorOrder | None = None
    """What vectors are put in order by; without it the logit of --token, or the contribution."""
    position: int = -1
    """Which token of the prompt, from 0; below 0 from the end."""
    vectors: int = 10
    """How many memory vectors."""
    top_k: int = 10
    """How many tokens that each promotes and suppresses."""
    corpus: str | None = "general"
    """Texts to look for contexts in: built-in corpus, file, folder or hub data set; None for no
    contexts."""
    contexts: int = 5
    """How many contexts of each vector."""
    max_tokens: int | None = 50_000
    """Tokens of the corpus to go through, None for all; the default takes a model of 135M
    parameters a few minutes on two CPU cores."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: MemoryArguments, given: Sequence[str]) -> None:
    from analysis.document import save_report
    from analysis.memory_page import memory_report
    from analysis.numbers import command_line
    from probes import memory
    from probes.cli import refuse_existing
    from probes.results import provenance_of

    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    corpus = None if arguments.corpus is None else arguments.corpus_of(arguments.corpus)
    model = arguments.load(arguments.model)
    top = memory.top_vectors(
        model,
        arguments.prompt,
        position=arguments.position,
        n=arguments.vectors,
        by=arguments.by,
        token=arguments.token,
        k=arguments.top_k,
        prepend_bos=arguments.prepend_bos,
    )
    found = batches = None
    if corpus is not None:
        batches = arguments.batches_of(model, corpus, arguments.max_tokens)
        with progress("contexts, tokens", arguments.max_tokens) as advance:
            counted = (_counted(batch, advance) for batch in batches)
            found = memory.top_contexts(model, counted, top, k=arguments.contexts)
    origin = provenance_of(
        model,
        asdict(arguments) | {"out": str(arguments.out)},
        documents=0 if found is None else found.documents,
        rows=1,
        tokens=0 if found is None else found.tokens,
        corpus=None if corpus is None else corpus.name,
        corpus_licence=None if corpus is None else corpus.licence,
        corpus_sha256=None if batches is None else batches.content_hash,
    )
    command = command_line("analysis.memory", given)
    tables = {NAME: top.to_dataframe()}
    if found is not None:
        tables["contexts"] = found.to_dataframe()
    content = {
        "command": command,
        "prompt": list(top.prompt),
        "position": top.position,
        "order": str(top.order),
        "vectors": tables[NAME].to_dict(orient="records"),
        "contexts": [] if found is None else tables["contexts"].to_dict(orient="records"),
        "provenance": asdict(origin),
    }
    report = memory_report(top, found, origin, command)
    save_report(report, arguments.out, NAME, content=content, tables=tables)


def _counted(batch: "TokenBatch", advance: Callable[[int], None]) -> "TokenBatch":
    """The same batch, whose tokens the progress bar has seen."""
    advance(int(batch.attention_mask.sum()))
    return batch


main = command_main(MemoryArguments, _run, program="analysis.memory")

if __name__ == "__main__":
    sys.exit(main())
