"""The report of entropy results: findings, numbers, figures, how they are defined, where from."""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from math import exp, isnan

import pandas as pd

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
from analysis.entropy import figures
from analysis.entropy.findings import (
    convergence_figure,
    convergence_table,
    estimate_note,
    findings,
    used_share,
)
from analysis.entropy.tables import (
    Measure,
    coefficient_table,
    head_table,
    layer_table,
    series_labels,
    symbol,
)
from analysis.theme import count, nats, percent
from probes.intervals import Interval, estimate_of
from probes.results import AttentionEntropy, EntropyResult, KnowledgeEntropy

SERIES_OF_LAYERS = 3
"""How many series the table of layers has room for on a terminal."""
_BRIEF_COLUMNS = {Measure.KNOWLEDGE: "vectors used", Measure.ATTENTION: "attention"}
Show = Callable[[float, Interval | None, int], str | Cell]


def entropy_report(results: Sequence[EntropyResult]) -> Report:
    """What entropy results say."""
    if not results:
        raise ValueError("a page of entropies needs at least one result, found none")
    models = list(dict.fromkeys(_model_name(result) for result in results))
    model = models[0] if len(models) == 1 else f"{len(models)} models"
    layers = layer_table(results)
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    numbers: list[Part] = [_totals(results, _cell, Where.PAGE), *_brief_tables(results)]
    return Report(
        title=f"The entropies of {model}",
        heading=_heading(results, model),
        kicker="mnemoscope \u00b7 entropy",
        deck=_deck(results),
        findings=findings(results),
        definitions=_definitions(results),
        sections=[
            Section("The numbers", numbers + ([Bullets(notes)] if notes else [])),
            *_figure_sections(results, layers),
            *_convergence(results),
            Section(
                "Provenance",
                [
                    origin_fold(series, result.provenance)
                    for series, result in zip(series_labels(results), results, strict=True)
                ],
            ),
        ],
        notes=notes,
    )


def _heading(results: Sequence[EntropyResult], model: str) -> tuple[str, ...]:
    if any(result.knowledge is None for result in results):
        return "The entropies of ", model
    ending = " use their memory" if model.endswith(" models") else " uses its memory"
    return "How evenly ", model, ending


def _totals(results: Sequence[EntropyResult], show: Show, where: Where) -> Table:
    """One column per series, one row per entropy, with maxima and intervals."""
    found = [result.knowledge for result in results]
    rows: list[list[str | Cell]] = [
        [f"Knowledge entropy, {symbol(results[0])}", *(_total(k, show) for k in found)],
        ["as a share of the maximum", *map(_share, found)],
        ["effective memory vectors", *map(_effective, found)],
        ["Knowledge entropy, by contribution", *(_total(r.contribution, show) for r in results)],
        ["Attention entropy, sum over layers", *(_total(r.attention, show) for r in results)],
        ["Next-token entropy, mean", *(_mean(result, show) for result in results)],
        ["Documents", *(count(r.provenance.documents) for r in results)],
        ["Tokens", *(count(r.provenance.tokens) for r in results)],
    ]
    measured = [row for row in rows if any(str(cell) for cell in row[1:])]
    title = f"Entropies of {results[0].provenance.model}, in nats"
    return Table.of_rows(title, ("", *series_labels(results)), measured, where=where, is_open=True)


def _total(found: KnowledgeEntropy | AttentionEntropy | None, show: Show) -> str | Cell:
    return "" if found is None else show(found.total, found.interval, 2)


def _mean(result: EntropyResult, show: Show) -> str | Cell:
    found = result.next_token
    return "" if found is None else show(found.mean, found.interval, 3)


def _share(found: KnowledgeEntropy | None) -> str | Cell:
    if found is None:
        return ""
    return Cell(percent(used_share(found)), f"of {nats(found.maximum)}")


def _effective(found: KnowledgeEntropy | None) -> str | Cell:
    if found is None:
        return ""
    used = exp(used_share(found) * found.maximum_per_layer)
    return Cell(count(used), f"of {count(found.mean_coefficients.shape[1])} in the average layer")


def _cell(value: float, interval: Interval | None, digits: int) -> Cell:
    note = estimate_note(value, interval, digits)
    return Cell(nats(estimate_of(value, interval), digits), note)


def _brief(value: float, interval: Interval | None, digits: int) -> Cell:
    ends = (
        "" if interval is None else f"[{nats(interval.low, digits)}, {nats(interval.high, digits)}]"
    )
    return Cell(nats(estimate_of(value, interval), digits), ends)


def _brief_tables(results: Sequence[EntropyResult]) -> Iterator[Table]:
    """What a terminal shows: totals, and how much of its memory each layer uses."""
    yield _totals(results, _brief, Where.TERMINAL)
    columns: dict[str, list[str]] = {}
    layers = layer_table(results[:SERIES_OF_LAYERS])
    for (series, measure), rows in layers.groupby(["series", "measure"], sort=False):
        if measure in _BRIEF_COLUMNS:
            columns[f"{series}\n{_BRIEF_COLUMNS[Measure(measure)]}"] = [
                nats(entropy, 3) if isnan(share) else percent(share)
                for entropy, share in zip(rows["entropy"], rows["share"], strict=True)
            ]
    cells = zip_longest(*columns.values(), fillvalue="")
    rows = [(str(layer), *found) for layer, found in enumerate(cells)]
    yield Table.of_rows("By layer", ("layer", *columns), rows, where=Where.TERMINAL)


def _figure_sections(results: Sequence[EntropyResult], layers: pd.DataFrame) -> Iterator[Section]:
    if any(r.knowledge is not None for r in results):
        yield Section("Knowledge", list(_knowledge_figures(results, layers)))
    heads = head_table(results)
    if not heads.empty:
        yield Section("Attention", list(_attention_figures(layers, heads)))


def _knowledge_figures(results: Sequence[EntropyResult], layers: pd.DataFrame) -> Iterator[Part]:
    coefficients = coefficient_table(results)
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
    yield Fold("Numbers of every layer", [_layer_numbers(layers)])


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
    if len(named) == 2 and _is_alike(*named.values()):
        (first, baseline), (second, rows) = named.items()
        panels.append(
            Panel(figures.attention_difference(rows, baseline), f"{second} minus {first}")
        )
    difference = " Last panel: blue is broader, red sharper." if len(panels) > len(named) else ""
    yield Figure(
        "Attention entropy of every head.",
        f"Dark heads attend to few tokens, bright ones to many.{difference}",
        panels,
    )


def _convergence(results: Sequence[EntropyResult]) -> Iterator[Section]:
    settling = convergence_table(results)
    # Two points make no curve.
    looks = settling.groupby(["kind", "series"], sort=False).size()
    kinds = list(dict.fromkeys(kind for (kind, _), number in looks.items() if number > 2))
    if not kinds:
        return
    yield Section(
        "How the numbers settled",
        [
            Figure(
                "Totals as documents came in.",
                "Each inside its interval, and less the bias of few documents, over which chance "
                "makes memory look less evenly used than it is.",
                [
                    Panel(convergence_figure(settling, str(k)), str(k).replace("_", " "))
                    for k in kinds
                ],
            )
        ],
    )


def _is_alike(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two models have the same heads, so that subtracting them means something."""
    places = ["layer", "head"]
    return first[places].reset_index(drop=True).equals(second[places].reset_index(drop=True))


def _layer_numbers(layers: pd.DataFrame) -> Table:
    wide = layers.pivot_table(
        index="layer", columns=["series", "measure"], values="entropy", sort=False
    )
    header = ("layer", *(f"{series}: {measure}" for series, measure in wide.columns))
    rows = [(str(layer), *(nats(v, 4) for v in values)) for layer, *values in wide.itertuples()]
    return Table.of_rows("Entropy in nats", header, rows, where=Where.PAGE, is_open=True)


def _definitions(results: Sequence[EntropyResult]) -> list[str | Paragraph]:
    return [
        Paragraph(
            "Knowledge entropy",
            f" of a layer: take the mean of {symbol(results[0])} over the corpus for each of the "
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
