r"""Which memory vectors a prompt uses, and what is in them: `python -m analysis.memory`.

Finds the memory vectors that matter most at a position of a prompt, says which tokens each promotes
and suppresses, and goes through a corpus once for the texts in which each has its largest
coefficients (`probes.memory`). Writes `memory.html`, `.md`, `.json` and `.csv` (a row per vector)
into `--out`, and `contexts.csv`.

Example:
    $ python -m analysis.memory --model smollm2-135m-instruct-q4 \
          --prompt "The capital of France is" --token " Paris" --out runs/memory
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import document
from analysis.numbers import command_line, count, nats, signed_nats, visible
from probes.choices import VectorOrder
from probes.cli import LoadingSettings, TextSettings, command_main, progress

if TYPE_CHECKING:
    from probes.corpus.token_batch import TokenBatch
    from probes.memory.contexts import Context, TopContexts
    from probes.memory.vectors import TopVectors
    from probes.results import Provenance

NAME = "memory"
FILES = (*(f"{NAME}.{ending}" for ending in ("html", "csv", "json", "md")), "contexts.csv")
_DEFINITIONS = (
    "A memory vector is a row of an MLP's down projection. Its coefficient is what it is "
    "multiplied by at a position; its contribution is |coefficient| times its norm; its logit is "
    "what it adds to the logit of a token, with the scale of the final norm held as it is.",
    "The tokens that a vector promotes are those whose logits rise most when what it writes here "
    "(its sign counted in) is added to the stream, through the weight of the final norm and the "
    "unembedding; those that it suppresses fall most.",
    "A context is the place of a row of the corpus where the vector's absolute coefficient is "
    "largest, the first token of the row left out. Tokens are shaded by the vector's coefficient "
    "there: blue above zero, red below; its own token is outlined.",
)
_BRIEF_TOKENS = 4


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
    document.save_report(report, arguments.out, NAME, content=content, tables=tables)


def _counted(batch: "TokenBatch", advance: Callable[[int], None]) -> "TokenBatch":
    advance(int(batch.attention_mask.sum()))
    return batch


def memory_report(
    top: "TopVectors", found: "TopContexts | None", origin: "Provenance", command: str
) -> document.Report:
    """What memory vectors a prompt uses, and what is in them."""
    prompt = "".join(top.prompt[: top.position + 1])
    parts: list[document.Part] = [
        *_DEFINITIONS,
        _table(top),
        document.Template("memory", {"vectors": _vectors(top, found)}),
    ]
    used = ""
    if found is not None:
        parts.append(_contexts_table(found))
        used = f", and where {count(found.tokens)} tokens of {origin.corpus} use them"
    return document.Report(
        title=f"Memory vectors of {top.about}",
        heading=("Memory vectors of ", origin.model),
        kicker="mnemoscope · memory",
        deck=f"The {len(top.vectors)} memory vectors that matter most after "
        f"\u201c{prompt}\u201d{used}.",
        findings=_findings(top),
        definitions=_DEFINITIONS,
        command=command,
        provenance={"model": origin.about},
        sections=[
            document.Section("The vectors", parts),
            document.Section(
                "Provenance",
                [document.Code(command), document.origin_fold("All settings and hashes", origin)],
            ),
        ],
    )


def _findings(top: "TopVectors") -> list[str]:
    (layer, index), promoted = top.vectors[0], ", ".join(top.written.promoted[0][:3])
    first = f"Memory vector {index} of layer {layer} comes first by {top.order}"
    said = [f"{first}; it promotes {promoted}."]
    if top.token is not None:
        total = float(top.logit.sum())
        said.append(
            f"Together these {len(top.vectors)} vectors add {signed_nats(total)} to the logit of "
            f"\u201c{top.token.strip()}\u201d."
        )
    layers = sorted({layer for layer, _ in top.vectors})
    said.append(f"They lie in layers {', '.join(map(str, layers))}.")
    return said


def _table(top: "TopVectors") -> document.Table:
    frame = top.to_dataframe()
    for name in ("promoted", "suppressed"):
        frame[name] = [" ".join(map(visible, words[:_BRIEF_TOKENS])) for words in frame[name]]
    columns = {
        "vector": "layer {layer}, {index}",
        "coefficient": "{coefficient:+nats}",
        "contribution": "{contribution:nats}",
        **({} if top.token is None else {"logit": "{logit:+nats}"}),
        "promotes": "{promoted}",
        "suppresses": "{suppressed}",
    }
    where = document.Where.DOCUMENT | document.Where.TERMINAL
    title = f"Memory vectors by {top.order}"
    return document.table_of(title, frame, columns, where=where)


def _contexts_table(found: "TopContexts") -> document.Table:
    table = found.to_dataframe()
    columns = {
        "vector": "layer {layer}, {index}",
        "coefficient": "{coefficient:+nats}",
        "document": "{document:count}",
        "context": "{text}",
    }
    flat = table.assign(text=table["text"].str.split().str.join(" "))
    return document.table_of("Contexts", flat, columns, where=document.Where.DOCUMENT)


def _vectors(top: "TopVectors", found: "TopContexts | None") -> list[dict[str, Any]]:
    contexts = {} if found is None else dict(zip(found.vectors, found.contexts, strict=True))
    shown = []
    for place, (layer, index) in enumerate(top.vectors):
        numbers = {
            "coefficient": signed_nats(float(top.coefficient[place])),
            "contribution": nats(float(top.contribution[place])),
        }
        if top.token is not None:
            numbers["logit"] = signed_nats(float(top.logit[place]))
        shown.append(
            {
                "layer": layer,
                "index": index,
                "numbers": numbers,
                "promoted": list(map(visible, top.written.promoted[place])),
                "suppressed": list(map(visible, top.written.suppressed[place])),
                "contexts": [_context(one) for one in contexts.get((layer, index), ())],
            }
        )
    return shown


def _context(one: "Context") -> dict[str, Any]:
    """Tokens of a context with how deep each is shaded, in percent."""
    largest = abs(one.coefficient) or 1.0
    tokens = [
        {
            "text": text.replace("\n", "\u21b5"),
            "depth": min(100, round(100 * abs(value) / largest)),
            "sign": "above" if value > 0 else "below",
            "value": signed_nats(value),
            "own": place == one.at,
        }
        for place, (text, value) in enumerate(zip(one.tokens, one.coefficients, strict=True))
    ]
    return {
        "document": count(one.document),
        "value": signed_nats(one.coefficient),
        "tokens": tokens,
    }


main = command_main(MemoryArguments, _run, program="analysis.memory")

if __name__ == "__main__":
    sys.exit(main())
