"""The report of a prompt's memory vectors: a table, and what each promotes, and its contexts."""

from typing import Any

from analysis.document import Code, Part, Report, Section, Table, Template, Where, origin_fold
from analysis.numbers import count, visible
from probes.memory.contexts import Context, TopContexts
from probes.memory.vectors import TopVectors
from probes.results import Provenance

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


def memory_report(
    top: TopVectors, found: TopContexts | None, origin: Provenance, command: str
) -> Report:
    """What memory vectors a prompt uses, and what is in them."""
    prompt = "".join(top.prompt[: top.position + 1])
    parts: list[Part] = [
        *_DEFINITIONS,
        _table(top),
        Template("memory", {"vectors": _vectors(top, found)}),
    ]
    if found is not None:
        parts.append(_contexts_table(found))
    return Report(
        title=f"Memory vectors of {top.about}",
        heading=("Memory vectors of ", origin.model),
        kicker="mnemoscope · memory",
        deck=f"The {len(top.vectors)} memory vectors that matter most after \u201c{prompt}\u201d"
        + (
            "."
            if found is None
            else f", and where {count(found.tokens)} tokens of {origin.corpus} use them."
        ),
        findings=_findings(top),
        definitions=_DEFINITIONS,
        command=command,
        provenance={"model": origin.about},
        sections=[
            Section("The vectors", parts),
            Section("Provenance", [Code(command), origin_fold("All settings and hashes", origin)]),
        ],
    )


def _findings(top: TopVectors) -> list[str]:
    """What the table says, in sentences."""
    (layer, index), promoted = top.vectors[0], ", ".join(top.written.promoted[0][:3])
    first = f"Memory vector {index} of layer {layer} comes first by {top.order}"
    said = [f"{first}; it promotes {promoted}."]
    if top.token is not None:
        total = float(top.logit.sum())
        said.append(
            f"Together these {len(top.vectors)} vectors add {total:+.3f} to the logit of "
            f"\u201c{top.token.strip()}\u201d."
        )
    layers = sorted({layer for layer, _ in top.vectors})
    said.append(f"They lie in layers {', '.join(map(str, layers))}.")
    return said


def _table(top: TopVectors) -> Table:
    """One row a vector, for the document and the terminal."""
    rows = [
        (
            f"layer {layer}, {index}",
            f"{coefficient:+.3f}",
            f"{contribution:.3f}",
            "" if top.token is None else f"{logit:+.3f}",
            " ".join(map(visible, up[:_BRIEF_TOKENS])),
            " ".join(map(visible, down[:_BRIEF_TOKENS])),
        )
        for (layer, index), coefficient, contribution, logit, up, down in zip(
            top.vectors,
            top.coefficient.tolist(),
            top.contribution.tolist(),
            top.logit.tolist(),
            top.written.promoted,
            top.written.suppressed,
            strict=True,
        )
    ]
    header = ("vector", "coefficient", "contribution", "logit", "promotes", "suppresses")
    where = Where.DOCUMENT | Where.TERMINAL
    title = f"Memory vectors by {top.order}"
    return Table.of_rows(title, header, rows, where=where).without_empty()


def _contexts_table(found: TopContexts) -> Table:
    rows = [
        (f"layer {layer}, {index}", f"{one.coefficient:+.3f}", count(one.document), _flat(one.text))
        for (layer, index), contexts in zip(found.vectors, found.contexts, strict=True)
        for one in contexts
    ]
    header = ("vector", "coefficient", "document", "context")
    return Table.of_rows("Contexts", header, rows, where=Where.DOCUMENT)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _vectors(top: TopVectors, found: TopContexts | None) -> list[dict[str, Any]]:
    """What the page shows of every vector."""
    contexts = {} if found is None else dict(zip(found.vectors, found.contexts, strict=True))
    shown = []
    for place, (layer, index) in enumerate(top.vectors):
        numbers = {
            "coefficient": f"{float(top.coefficient[place]):+.3f}",
            "contribution": f"{float(top.contribution[place]):.3f}",
        }
        if top.token is not None:
            numbers["logit"] = f"{float(top.logit[place]):+.3f}"
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


def _context(one: Context) -> dict[str, Any]:
    """Tokens of a context with how deep each is shaded, in percent."""
    largest = abs(one.coefficient) or 1.0
    tokens = [
        {
            "text": text.replace("\n", "\u21b5"),
            "depth": min(100, round(100 * abs(value) / largest)),
            "sign": "above" if value > 0 else "below",
            "value": f"{value:+.3f}",
            "own": place == one.at,
        }
        for place, (text, value) in enumerate(zip(one.tokens, one.coefficients, strict=True))
    ]
    return {"document": count(one.document), "value": f"{one.coefficient:+.3f}", "tokens": tokens}
