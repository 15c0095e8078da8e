"""The page of entropy results: findings, numbers, figures, how they are defined, where from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import exp

import pandas as pd

from analysis import figures
from analysis.entropy.convergence import convergence_figure, convergence_table
from analysis.entropy.findings import estimate_note, findings, used_share
from analysis.entropy.tables import (
    coefficient_table,
    head_table,
    layer_table,
    series_labels,
    symbol,
)
from analysis.page import (
    Cell,
    Html,
    Panel,
    as_json,
    bullets,
    definitions,
    details,
    element,
    figure,
    joined,
    page,
    paragraph,
    section,
    table,
    whole,
)
from analysis.theme import count, nats, percent
from probes.intervals import Interval, estimate_of
from probes.results import EntropyResult, KnowledgeEntropy

EMPTY = "-"


def entropy_page(results: Sequence[EntropyResult]) -> str:
    """The whole page, as one HTML document."""
    if not results:
        raise ValueError("a page of entropies needs at least one result, found none")
    body = [
        bullets(findings(results), class_="findings"),
        section("The numbers", summary_table(results), *_notes(results)),
        *_figure_sections(results),
        *_convergence(results),
        section("Definitions", *_definitions(results)),
        section("Provenance", *_provenance(results)),
    ]
    models = list(dict.fromkeys(_model_name(result) for result in results))
    model = models[0] if len(models) == 1 else f"{len(models)} models"
    return page(
        f"The entropies of {model}",
        body,
        heading=_heading(results, model),
        kicker="mnemoscope · entropy",
        deck=_deck(results),
    )


def _heading(results: Sequence[EntropyResult], model: str) -> Html:
    if any(result.knowledge is None for result in results):
        return joined(["The entropies of ", whole(model)])
    ending = " use their memory" if model.endswith(" models") else " uses its memory"
    return joined(["How evenly ", whole(model), ending])


def summary_table(results: Sequence[EntropyResult]) -> Html:
    """One column per series, one row per entropy, with maxima and intervals."""
    found = [r.knowledge for r in results]
    rows: list[list[str | Cell]] = [
        [f"Knowledge entropy, {symbol(results[0])}", *map(_total, found)],
        ["as a share of the maximum", *map(_share, found)],
        ["effective memory vectors", *map(_effective, found)],
        ["Knowledge entropy, by contribution", *(_total(r.contribution) for r in results)],
        ["Attention entropy, sum over layers", *map(_attention, results)],
        ["Next-token entropy, mean", *map(_next_token, results)],
        ["Documents", *(count(r.provenance.documents) for r in results)],
        ["Tokens", *(count(r.provenance.tokens) for r in results)],
    ]
    measured = [row for row in rows if any(cell != EMPTY for cell in row[1:])]
    return table(["in nats", *series_labels(results)], measured)


def _total(found: KnowledgeEntropy | None) -> str | Cell:
    return EMPTY if found is None else _cell(found.total, found.interval)


def _share(found: KnowledgeEntropy | None) -> str | Cell:
    if found is None:
        return EMPTY
    return Cell(percent(used_share(found)), f"of {nats(found.maximum)}")


def _effective(found: KnowledgeEntropy | None) -> str | Cell:
    if found is None:
        return EMPTY
    used = exp(used_share(found) * found.maximum_per_layer)
    return Cell(count(used), f"of {count(found.mean_coefficients.shape[1])} in the average layer")


def _attention(result: EntropyResult) -> str | Cell:
    if (found := result.attention) is None:
        return EMPTY
    return _cell(found.total, found.interval)


def _next_token(result: EntropyResult) -> str | Cell:
    if (found := result.next_token) is None:
        return EMPTY
    return _cell(found.mean, found.interval, 3)


def _cell(value: float, interval: Interval | None, digits: int = 2) -> Cell:
    note = estimate_note(value, interval, digits)
    return Cell(nats(estimate_of(value, interval), digits), note or None)


def _figure_sections(results: Sequence[EntropyResult]) -> Iterator[Html]:
    layers = layer_table(results)
    if any(r.knowledge is not None for r in results):
        yield section("Knowledge", *_knowledge_figures(results, layers))
    heads = head_table(results)
    if not heads.empty:
        yield section("Attention", *_attention_figures(layers, heads))


def _knowledge_figures(results: Sequence[EntropyResult], layers: pd.DataFrame) -> Iterator[Html]:
    coefficients = coefficient_table(results)
    positive = coefficients.loc[coefficients["ratio"] > 0, "ratio"]
    limits = (float(positive.min()), float(positive.max()))
    yield figure(
        "How evenly each layer uses its memory.",
        "Full dots: by the mean coefficient; open dots: by contribution, which no rescaling of "
        "the weights can move. The line at 100% is the maximum, where all memory vectors of a "
        "layer are used alike; the upper axis gives the distance to it in nats.",
        [Panel(figures.knowledge_by_layer(layers))],
    )
    yield figure(
        "Mean coefficients of each layer, from the largest to the smallest.",
        "Relative to the mean of the layer (dotted line). The steeper a line falls, the fewer "
        "memory vectors carry the layer and the lower its entropy. Point at a layer in any figure "
        "to pick out its line.",
        [
            Panel(figures.sorted_coefficients(rows, limits), series if len(results) > 1 else None)
            for series, rows in coefficients.groupby("series", sort=False)
        ],
    )
    yield details("Numbers of every layer", _layer_numbers(layers))


def _attention_figures(layers: pd.DataFrame, heads: pd.DataFrame) -> Iterator[Html]:
    yield figure(
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
    if len(named) == 2 and _is_alike(*named.values()):
        (first, baseline), (second, rows) = named.items()
        panels.append(
            Panel(figures.attention_difference(rows, baseline), f"{second} minus {first}")
        )
    difference = " Last panel: blue is broader, red sharper." if len(panels) > len(named) else ""
    yield figure(
        "Attention entropy of every head.",
        f"Dark heads attend to few tokens, bright ones to many.{difference}",
        panels,
    )


def _convergence(results: Sequence[EntropyResult]) -> Iterator[Html]:
    settling = convergence_table(results)
    # Two points make no curve.
    looks = settling.groupby(["kind", "series"], sort=False).size()
    kinds = list(dict.fromkeys(kind for (kind, _), number in looks.items() if number > 2))
    if not kinds:
        return
    yield section(
        "How the numbers settled",
        figure(
            "Totals as documents came in.",
            "Each inside its interval, and less the bias of few documents, over which chance makes "
            "memory look less evenly used than it is.",
            [Panel(convergence_figure(settling, str(k)), str(k).replace("_", " ")) for k in kinds],
        ),
    )


def _is_alike(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two models have the same heads, so that subtracting them means something."""
    places = ["layer", "head"]
    return first[places].reset_index(drop=True).equals(second[places].reset_index(drop=True))


def _layer_numbers(layers: pd.DataFrame) -> Html:
    wide = layers.pivot_table(
        index="layer", columns=["series", "measure"], values="entropy", sort=False
    )
    header = ["layer", *(f"{series}: {measure}" for series, measure in wide.columns)]
    rows = [[str(layer), *(nats(v, 4) for v in values)] for layer, *values in wide.itertuples()]
    return table(header, rows, caption="Entropy in nats")


def _notes(results: Sequence[EntropyResult]) -> Iterator[Html]:
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    if notes:
        yield bullets(notes)


def _definitions(results: Sequence[EntropyResult]) -> Iterator[Html]:
    yield paragraph(
        element("b", "Knowledge entropy"),
        f" of a layer: take the mean of {symbol(results[0])} over the corpus for each of the "
        "layer's d memory vectors, divide by their sum, and take the Shannon entropy H of that "
        "distribution. It is at most ln d, when all memory vectors are used alike; the model's is "
        "the sum over layers. c is the coefficient, the input of the down projection, and v the "
        "memory vector it multiplies; the contribution variant weighs by |c| \u00b7 \u2016v\u2016.",
    )
    yield paragraph(
        element("b", "Attention entropy"),
        ": the mean over queries of the entropy of the attention over keys, per head. ",
        element("b", "Next-token entropy"),
        ": the mean over positions of the entropy of the predicted next token. All are in nats. "
        "Intervals come from blocks of documents and hold for documents drawn like these. The "
        "total beside an interval is the estimate that it is of: what was measured less the bias "
        "of few documents, over which chance makes an entropy too low. Layers and heads are as "
        "measured.",
    )
    yield paragraph(
        "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining "
        "Hinders New Knowledge Acquisition\u201d, ICLR 2025, Eq. 2, Eq. 3 and appendix A.4."
    )


def _provenance(results: Sequence[EntropyResult]) -> Iterator[Html]:
    for series, result in zip(series_labels(results), results, strict=True):
        origin = asdict(result.provenance)
        configuration = as_json(origin.pop("configuration"))
        versions = ", ".join(f"{n} {v}" for n, v in origin.pop("versions").items())
        pairs = {name.replace("_", " "): value for name, value in origin.items()}
        known = {name: value for name, value in pairs.items() if value is not None}
        yield details(series, definitions({**known, "versions": versions}), configuration)


def _deck(results: Sequence[EntropyResult]) -> str:
    seen = [
        f"{r.provenance.corpus or 'tokens in memory'} ({count(r.provenance.tokens)} tokens of "
        f"{count(r.provenance.documents)} documents)"
        for r in results
    ]
    corpora = list(dict.fromkeys(seen))
    *most, last = corpora
    return f"Measured over {', '.join(most)}{' and ' if most else ''}{last}."


def _model_name(result: EntropyResult) -> str:
    origin = result.provenance
    return f"{origin.model} at {origin.revision}" if origin.revision else origin.model
