"""The report of entropy results: findings, numbers, figures, how they are defined, where from.

Totals are the estimates that their intervals are of: the measured ones less the bias of few
documents. An effective number is exp(H): how many outcomes, used alike, would have the entropy H.
Two totals are said to differ only where their intervals do not overlap, which is stricter than a
test of the difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from math import exp, isnan
from typing import Any

import pandas as pd

from analysis import entropy_figures as figures
from analysis.document import (
    Bullets,
    Cell,
    Figure,
    Fold,
    Panel,
    Paragraph,
    Part,
    Report,
    Section,
    Table,
    Where,
    origin_fold,
)
from analysis.numbers import capital, count, model_name, nats, share, signed_nats
from probes.results import AttentionEntropy, EntropyResult, KnowledgeEntropy, NextTokenEntropy

SERIES_OF_LAYERS = 3  # how many series the table of layers has room for on a terminal
_BRIEF_COLUMNS = {figures.Measure.KNOWLEDGE: "vectors used", figures.Measure.ATTENTION: "attention"}
Entropy = KnowledgeEntropy | AttentionEntropy | NextTokenEntropy


def entropy_report(results: Sequence[EntropyResult]) -> Report:
    """What entropy results say."""
    if not results:
        raise ValueError("a page of entropies needs at least one result, found none")
    origins = [result.provenance for result in results]
    models = list(dict.fromkeys(model_name(one.model, one.revision) for one in origins))
    model = models[0] if len(models) == 1 else f"{len(models)} models"
    layers, heads = figures.layer_table(results), figures.head_table(results)
    named = dict(zip(figures.series_labels(results), results, strict=True))
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    numbers: list[Part] = [_totals(named, _cell, Where.PAGE), *_brief_tables(named)]
    numbers += _difference(results)
    heading: tuple[str, ...] = ("The entropies of ", model)
    if all(result.knowledge is not None for result in results):
        uses = "uses its" if len(models) == 1 else "use their"
        heading = ("How evenly ", model, f" {uses} memory")
    sections = [Section("The numbers", numbers + ([Bullets(notes)] if notes else []))]
    if any(result.knowledge is not None for result in results):
        sections.append(Section("Knowledge", list(_knowledge_figures(results, layers))))
    if not heads.empty:
        sections.append(Section("Attention", list(_attention_figures(layers, heads))))
    return Report(
        title=f"The entropies of {model}",
        heading=heading,
        kicker="mnemoscope \u00b7 entropy",
        deck=_deck(results),
        findings=findings(results),
        definitions=_definitions(figures.symbol(results[0])),
        sections=[
            *sections,
            *_convergence(results),
            Section("Provenance", list(map(origin_fold, named, origins))),
        ],
        notes=notes,
    )


def _difference(results: Sequence[EntropyResult]) -> Iterator[Table]:
    if len(results) != 2:
        return
    try:
        difference = results[0].compare(results[1])
    except ValueError:
        return
    totals = difference.numbers[difference.numbers["layer"].isna()]
    names = zip(totals["measure"], totals["difference"], strict=True)
    rows = [(capital(name.replace("_", "-")), signed_nats(moved)) for name, moved in names]
    title = f"{difference.names[1]} less {difference.names[0]}"
    yield Table.of_rows(title, ("", "difference, in nats"), rows, is_open=True)


def _deck(results: Sequence[EntropyResult]) -> str:
    seen = [
        f"{r.provenance.corpus or 'tokens in memory'} ({count(r.provenance.tokens)} tokens of "
        f"{count(r.provenance.documents)} documents)"
        for r in results
    ]
    *most, last = dict.fromkeys(seen)
    return f"Measured over {', '.join(most)}{' and ' if most else ''}{last}."


def _digits(found: Entropy) -> int:
    return 3 if isinstance(found, NextTokenEntropy) else 2


def _cell(found: Entropy) -> Cell:
    return Cell(nats(found.estimate, _digits(found)), _note(found, _digits(found)))


def _brief(found: Entropy) -> Cell:
    between, digits = found.interval, _digits(found)
    ends = f"[{nats(between.low, digits)}, {nats(between.high, digits)}]" if between else ""
    return Cell(nats(found.estimate, digits), ends)


def _note(found: Entropy, digits: int = 2) -> str:
    if found.interval is None:
        return ""
    measured = nats(found.mean if isinstance(found, NextTokenEntropy) else found.total, digits)
    same = measured == nats(found.estimate, digits)
    bias = "" if same else f"; {measured} before the correction for few documents"
    ends = f"{nats(found.interval.low, digits)} to {nats(found.interval.high, digits)}"
    return f"{100 * found.interval.level:g}% interval {ends}{bias}"


def used_share(found: KnowledgeEntropy) -> float:
    """The estimate as a share of its maximum, which the correction for few documents can exceed."""
    return min(found.estimate / found.maximum, 1.0)


def _effective(found: KnowledgeEntropy) -> str:
    return count(exp(used_share(found) * found.maximum_per_layer))


def _size(found: KnowledgeEntropy) -> str:
    return count(found.mean_coefficients.shape[1])


def _totals(
    named: Mapping[str, EntropyResult], show: Callable[[Entropy], str | Cell], where: Where
) -> Table:
    results = list(named.values())

    def row(
        name: str, kind: str, shown: Callable[[Any], str | Cell] = show
    ) -> tuple[str | Cell, ...]:
        found = [getattr(result, kind) for result in results]
        return name, *("" if one is None else shown(one) for one in found)

    rows = [
        row(f"Knowledge entropy, {figures.symbol(results[0])}", "knowledge"),
        row(
            "as a share of the maximum",
            "knowledge",
            lambda k: Cell(share(used_share(k)), f"of {nats(k.maximum, 2)}"),
        ),
        row(
            "effective memory vectors",
            "knowledge",
            lambda k: Cell(_effective(k), f"of {_size(k)} in the average layer"),
        ),
        row("Knowledge entropy, by contribution", "contribution"),
        row("Attention entropy, sum over layers", "attention"),
        row("Next-token entropy, mean", "next_token"),
        row("Documents", "provenance", lambda origin: count(origin.documents)),
        row("Tokens", "provenance", lambda origin: count(origin.tokens)),
    ]
    measured = [row for row in rows if any(str(cell) for cell in row[1:])]
    title = f"Entropies of {results[0].provenance.model}, in nats"
    return Table.of_rows(title, ("", *named), measured, where=where, is_open=True)


def _brief_tables(named: Mapping[str, EntropyResult]) -> Iterator[Table]:
    yield _totals(named, _brief, Where.TERMINAL)
    columns: dict[str, list[str]] = {}
    layers = figures.layer_table(list(named.values()))
    shown = layers[layers["series"].isin(list(named)[:SERIES_OF_LAYERS])]
    for (series, measure), rows in shown.groupby(["series", "measure"], sort=False):
        if measure in _BRIEF_COLUMNS:
            columns[f"{series}\n{_BRIEF_COLUMNS[figures.Measure(measure)]}"] = [
                nats(entropy) if isnan(used) else share(used)
                for entropy, used in zip(rows["entropy"], rows["share"], strict=True)
            ]
    cells = zip_longest(*columns.values(), fillvalue="")
    rows = [(str(layer), *found) for layer, found in enumerate(cells)]
    yield Table.of_rows("By layer", ("layer", *columns), rows, where=Where.TERMINAL)


def _knowledge_figures(results: Sequence[EntropyResult], layers: pd.DataFrame) -> Iterator[Part]:
    coefficients = figures.coefficient_table(results)
    positive = coefficients.loc[coefficients["ratio"] > 0, "ratio"]
    limits = (float(positive.min()), float(positive.max()))
    yield Figure(
        "How evenly each layer uses its memory.",
        "Full dots: by the mean coefficient; open dots: by contribution, which no rescaling of "
        "the weights can move. The line at 100% is the maximum, where all memory vectors of a "
        "layer are used alike; the upper axis gives the distance to it in nats.",
        [Panel(figures.knowledge_by_layer(layers))],
    )
    yield Figure(
        "Mean coefficients of each layer, from the largest to the smallest.",
        "Relative to the mean of the layer (dotted line). The steeper a line falls, the fewer "
        "memory vectors carry the layer and the lower its entropy. Point at a layer in any figure "
        "to pick out its line.",
        [
            Panel(figures.sorted_coefficients(rows, limits), series if len(results) > 1 else None)
            for series, rows in coefficients.groupby("series", sort=False)
        ],
    )
    wide = layers.pivot_table("entropy", "layer", ["series", "measure"], sort=False)
    header = ("layer", *(f"{series}: {measure}" for series, measure in wide.columns))
    rows = [(str(layer), *(nats(v, 4) for v in values)) for layer, *values in wide.itertuples()]
    table = Table.of_rows("Entropy in nats", header, rows, where=Where.PAGE, is_open=True)
    yield Fold("Numbers of every layer", [table])


def _attention_figures(layers: pd.DataFrame, heads: pd.DataFrame) -> Iterator[Part]:
    yield Figure(
        "How widely each layer attends.",
        "Lines: the mean over heads; faint dots: the heads. An entropy of 2.3 nats is that of "
        "attending to ten tokens alike.",
        [Panel(figures.attention_by_layer(layers, heads))],
    )
    named = dict(list(heads.groupby("series", sort=False)))
    limits = (0.0, float(heads["entropy"].max()))
    panels = [
        Panel(figures.attention_heads(rows, limits), series if len(named) > 1 else None)
        for series, rows in named.items()
    ]
    difference = ""
    places = [rows[["layer", "head"]].reset_index(drop=True) for rows in named.values()]
    # Only where two models have the same heads does subtracting them mean something.
    if len(named) == 2 and places[0].equals(places[1]):
        (first, baseline), (second, rows) = named.items()
        drawn = figures.attention_heads(rows, baseline=baseline)
        panels.append(Panel(drawn, f"{second} minus {first}"))
        difference = " Last panel: blue is broader, red sharper."
    yield Figure(
        "Attention entropy of every head.",
        f"Dark heads attend to few tokens, bright ones to many.{difference}",
        panels,
    )


def _convergence(results: Sequence[EntropyResult]) -> Iterator[Section]:
    settling = figures.convergence_table(results)
    # Two points make no curve.
    looks = settling.groupby(["kind", "series"], sort=False).size()
    kinds = list(dict.fromkeys(kind for (kind, _), number in looks.items() if number > 2))
    if kinds:
        drawn = Figure(
            "Totals as documents came in.",
            "Each inside its interval, and less the bias of few documents, over which chance makes "
            "memory look less evenly used than it is.",
            [Panel(figures.convergence_figure(settling, k), k.replace("_", " ")) for k in kinds],
        )
        yield Section("How the numbers settled", [drawn])


def _definitions(weights: str) -> list[str | Paragraph]:
    return [
        Paragraph(
            "Knowledge entropy",
            f" of a layer: take the mean of {weights} over the corpus for each of the "
            "layer's d memory vectors, divide by their sum, and take the Shannon entropy H of that "
            "distribution. It is at most ln d, when all memory vectors are used alike; the model's "
            "is the sum over layers. c is the coefficient, the input of the down projection, and v "
            "the memory vector it multiplies; the contribution variant weighs by "
            "|c| \u00b7 \u2016v\u2016.",
        ),
        Paragraph(
            "Attention entropy",
            ": the mean over queries of the entropy of the attention over keys, per head.",
        ),
        Paragraph(
            "Next-token entropy",
            ": the mean over positions of the entropy of the predicted next token. All are in "
            "nats. Intervals come from blocks of documents and hold for documents drawn like "
            "these. The total beside an interval is the estimate that it is of: what was measured "
            "less the bias of few documents, over which chance makes an entropy too low. Layers "
            "and heads are as measured.",
        ),
        "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining "
        "Hinders New Knowledge Acquisition\u201d, ICLR 2025, Eq. 2, Eq. 3 and appendix A.4.",
    ]


def findings(results: Sequence[EntropyResult]) -> list[str]:
    """Three to five sentences on what was found."""
    named = dict(zip(figures.series_labels(results), results, strict=True))
    known = {name: r.knowledge for name, r in named.items() if r.knowledge is not None}
    sentences: list[str] = []
    if results[0].knowledge is not None:
        sentences.append(_knowledge(next(iter(named)), results[0].knowledge))
    if len(known) > 1 and len({found.maximum for found in known.values()}) == 1:
        sentences.append(_comparison(known))
    if known and min(len(found.per_layer) for found in known.values()) > 1:
        sentences.append(_concentration(known))
    if results[0].attention is not None:
        sentences.append(_attention(next(iter(named)), results[0].attention))
    parts = [
        f"{_with_interval(found)} over {name}, as if among {exp(found.estimate):,.0f} tokens"
        for name, found in ((name, r.next_token) for name, r in named.items())
        if found is not None
    ]
    if parts:
        sentences.append(f"The entropy of the next token averages {'; '.join(parts)}.")
    return sentences


def _with_interval(found: Entropy) -> str:
    note = _note(found)
    return f"{nats(found.estimate, 2)} nats ({note})" if note else f"{nats(found.estimate, 2)} nats"


def _knowledge(series: str, found: KnowledgeEntropy) -> str:
    return (
        f"Knowledge entropy over {series} is {_with_interval(found)}, "
        f"{share(used_share(found))} of the maximum of {nats(found.maximum, 2)}: the "
        f"average layer works as if {_effective(found)} of its "
        f"{_size(found)} memory vectors were used alike."
    )


def _concentration(known: Mapping[str, KnowledgeEntropy]) -> str:
    ends = {
        name: (int(found.per_layer.argmin()), int(found.per_layer.argmax()))
        for name, found in known.items()
    }
    first, *others = known
    used = known[first].effective_memory_vectors
    low, high = ends[first]
    differing = [name for name in others if ends[name] != ends[first]]
    where = "".join(
        f"; over {name} layers {ends[name][0]} and {ends[name][1]}" for name in differing
    )
    over = f" over {first}" if differing else " over every corpus" if others else ""
    return (
        f"Layer {low} is the most concentrated{over} (as if {count(float(used[low]))} memory "
        f"vectors), layer {high} the least ({count(float(used[high]))}){where}."
    )


def _comparison(known: Mapping[str, KnowledgeEntropy]) -> str:
    low_name, high_name = (f(known, key=lambda name: known[name].estimate) for f in (min, max))
    low, high = known[low_name], known[high_name]
    if low.interval is None or high.interval is None:
        sure = "; without intervals this may be chance"
    elif low.interval.high < high.interval.low:
        sure = ", and their intervals do not overlap"
    else:
        sure = ", but their intervals overlap, so this may be chance"
    return (
        f"Memory is used more evenly over {high_name} ({nats(high.estimate, 2)} nats) than over "
        f"{low_name} ({nats(low.estimate, 2)}), by {nats(high.estimate - low.estimate, 2)} nats"
        f"{sure}."
    )


def _attention(series: str, found: AttentionEntropy) -> str:
    layers, heads = found.per_layer, found.per_head
    layer, head = divmod(int(heads.argmin()), heads.shape[1])

    def as_keys(entropy: float) -> str:
        return f"{nats(entropy, 2)} nats, as if over {exp(entropy):,.1f} keys"

    return (
        f"Attention over {series} averages {nats(float(layers.mean()), 2)} nats a layer; it is "
        f"broadest in layer {int(layers.argmax())} ({as_keys(float(layers.max()))}) and sharpest "
        f"in layer {layer}, head {head} ({as_keys(float(heads.min()))})."
    )
