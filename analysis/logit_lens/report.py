"""The report of a lens: any item by layer and position, and where in depth targets come up.

The reader of the page switches what the colours of a heatmap stand for, points at a cell for the
most likely tokens there, and searches the items. Ranks count from 0, the top; entropies and
divergences are in nats.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from analysis.document import (
    Column,
    Figure,
    Fold,
    Panel,
    Paragraph,
    Part,
    Report,
    Section,
    Table,
    Template,
    Where,
    origin_fold,
)
from analysis.logit_lens import figures
from analysis.logit_lens.findings import FEW, causal_findings, lens_findings
from analysis.logit_lens.page_data import explorer_data
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import (
    DEFAULT_K,
    layers_table,
    prompt_text,
    read_target,
    series_labels,
    target_text,
)
from analysis.theme import count, nats, percent, shorten
from probes.causal import CausalResult

MOST_LAYERS = 40
"""A deeper model's table on a terminal shows every second layer, or every third."""
_SWITCHES = {"rank": "Rank", "probability": "Probability", "entropy": "Entropy", "kl": "KL"}
"""What a heatmap's colours can stand for, and what the buttons say."""


def lens_report(
    results: Sequence[LensResult],
    *,
    k: int = DEFAULT_K,
    causal: CausalResult | None = None,
    findings: Sequence[str] = (),
) -> Report:
    """What a lens showed."""
    _check(results, causal)
    names = series_labels(results)
    models = list(dict.fromkeys(one.provenance.model for one in results))
    verb = "finds" if len(models) == 1 else "find"
    explorer = Template(
        "explorer",
        {
            "measures": _SWITCHES,
            "has_list": len(results[0].items) > 1,
            "data": explorer_data(results, k),
        },
    )
    tables = [_terminal_table(result, k) for result in results]
    return Report(
        title=f"Where {' and '.join(models)} {verb} the answer",
        heading=("Where ", *_and(models), f" {verb} the answer"),
        kicker="mnemoscope · lens",
        deck=_deck(results),
        findings=_findings(results, names, k, causal, findings),
        definitions=_definitions(k),
        sections=[
            Section("Every layer and position", [explorer]),
            Section("Where in depth", [*tables, *_depth_figures(results, names, k)]),
            *_causal(causal, results, k),
            Section("Provenance", _provenance(results, names, causal)),
        ],
    )


def _and(names: Sequence[str]) -> list[str]:
    """Names, and what stands between them, in turn."""
    return [piece for name in names for piece in (name, " and ")][:-1]


def _check(results: Sequence[LensResult], causal: CausalResult | None) -> None:
    if not results:
        raise ValueError("a page of a lens needs at least one result, found none")
    first, *others = ([_texts(one, i) for i in range(len(one.items))] for one in results)
    if any(other != first for other in others):
        raise ValueError(
            f"results on one page must be of the same items, found {len(results)} with different "
            "prompts or targets; make a page for each"
        )
    if causal is not None and len(causal.clean) != len(first):
        raise ValueError(
            f"a causal check of {len(causal.clean)} items does not go with a lens of {len(first)}; "
            "give that of the same items"
        )


def _texts(result: LensResult, item: int) -> tuple[str, str]:
    return prompt_text(result, item), target_text(result, item)


def _findings(
    results: Sequence[LensResult],
    names: Sequence[str],
    k: int,
    causal: CausalResult | None,
    further: Sequence[str],
) -> list[str]:
    found = [
        f"{name}: {sentence}" if len(results) > 1 else sentence
        for name, result in zip(names, results, strict=True)
        for sentence in [*lens_findings(result, k=k), *result.notes]
    ]
    checked = [] if causal is None else causal_findings(causal, results[0], k)
    return [*found, *further, *checked]


def _terminal_table(result: LensResult, k: int) -> Table:
    """Rank and log-probability of a few items by layer, or shares and means of many."""
    few = len(result.items) <= FEW
    columns = _columns_of_few(result) if few else _columns_of_many(result, k)
    step = -(-len(result.layer_labels) // MOST_LAYERS)
    layers = range((len(result.layer_labels) - 1) % step, len(result.layer_labels), step)
    rows = [(result.layer_labels[i], *(values[i] for values in columns.values())) for i in layers]
    origin = result.provenance
    what = origin.corpus or ("prompt" if len(result.items) == 1 else "prompts")
    title = f"{origin.model}: {len(result.items)} {what}, {origin.configuration['lens']} lens"
    return Table.of_rows(title, ("layer", *columns), rows, where=Where.TERMINAL)


def _columns_of_few(result: LensResult) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    best = result.per_token.readout.top_ids[:, result.first_rows, 0]
    for index in range(len(result.items)):
        target = read_target(result, index)
        name = f"{index + 1}: " * (len(result.items) > 1) + shorten(target.strip(), 40)
        columns[f"{name}, rank"] = [f"{int(rank):,}" for rank in result.rank[:, index]]
        columns[f"{name}, log-prob"] = [nats(float(value)) for value in result.log_prob[:, index]]
        columns[f"{name}, top token"] = [
            shorten(result.text(int(token)).strip() or "·", 16) for token in best[:, index]
        ]
    return columns


def _columns_of_many(result: LensResult, k: int) -> dict[str, list[str]]:
    found = (result.rank < k).double().mean(dim=1)
    first = result.localization(k).first_histogram
    return {
        f"in top {k}": [percent(float(share)) for share in found],
        "first here": [percent(float(share)) for share in first],
        "median rank": [f"{int(r):,}" for r in result.rank.median(dim=1).values],
        "log-prob, nats": [nats(float(v)) for v in result.log_prob.mean(dim=1)],
        "entropy": [nats(float(v)) for v in result.entropy.mean(dim=1)],
        "KL to final": [nats(float(v)) for v in result.kl.mean(dim=1)],
    }


def _depth_figures(results: Sequence[LensResult], names: Sequence[str], k: int) -> Iterator[Part]:
    if len(results[0].items) > 1:
        yield Figure(
            "Where targets come up, and from where they stay.",
            f"Shares of all items; a target is found where it is among the top {k}.",
            [
                Panel(
                    figures.layer_histogram_figure(results, criterion, k),
                    f"{criterion} layer".capitalize(),
                )
                for criterion in figures.Criterion
            ],
        )
    several = len(results) > 1
    yield Figure(
        "Rank of the target, layer by layer.",
        _trajectory_caption(results[0], k),
        [
            Panel(figures.rank_trajectories(result, k), name if several else None)
            for name, result in zip(names, results, strict=True)
        ],
    )
    yield Fold(
        "Numbers of every layer",
        [
            *(
                _layer_numbers(result, k, name if several else None)
                for name, result in zip(names, results, strict=True)
            )
        ],
    )


def _trajectory_caption(result: LensResult, k: int) -> str:
    items = "The median and the middle half of the items. " if len(result.items) > 1 else ""
    controls = "Grey: medians of the controls. " if result.control_names else ""
    return f"{items}{controls}Left of the dotted line a target is among the top {k}."


def _layer_numbers(result: LensResult, k: int, name: str | None) -> Table:
    def shown(column: str, show: Callable[[float], str]) -> Callable[[Any], str]:
        return lambda row: show(row[column])

    columns = [
        Column("layer", lambda row: row["layer"]),
        Column("median rank", shown("rank_median", count)),
        Column(f"in the top {k}", shown("share_found", percent)),
        Column("log-prob.", shown("log_prob", nats)),
        Column("entropy", shown("entropy", nats)),
        Column("KL", shown("kl", nats)),
    ]
    title = "Means over items" if name is None else f"Means over items, {name}"
    found = layers_table(result, k)
    return Table.of_frame(title, found, columns, where=Where.PAGE, is_open=True)


def _causal(
    causal: CausalResult | None, results: Sequence[LensResult], k: int
) -> Iterator[Section]:
    if causal is None:
        return
    yield Section(
        "Causal check",
        [
            Figure(
                "What restoring a layer brings back, beside what can be read there.",
                "The subject is corrupted with noise, and one site of one layer gets its clean "
                "value back. Lines: share of the target's lost log-probability that returns, "
                f"mean over items that lost any. Dashed: share of items whose target is in the "
                f"top {k}. Where both rise together, what can be read is also what the model "
                "uses.",
                [Panel(figures.causal_figure(causal, results, k))],
            )
        ],
    )


def _definitions(k: int) -> list[str | Paragraph]:
    return [
        Paragraph(
            "Lens",
            ": the residual stream after a layer, put through the model's final norm and "
            "unembedding as if it were the last (a tuned lens moves it first, by a learned affine "
            "map).",
        ),
        Paragraph("Rank", ": how many tokens have a higher logit than the target; 0 is the top."),
        Paragraph(
            "KL",
            ": divergence of the last layer's distribution from the readout. Entropy and KL are in "
            "nats.",
        ),
        Paragraph("First layer", f": the first where the target is among the top {k}."),
        Paragraph("Settling layer", ": the first from which it stays there up to the last."),
        "Sources: nostalgebraist, \u201cinterpreting GPT: the logit lens\u201d, 2020; Belrose et "
        "al., \u201cEliciting Latent Predictions from Transformers with the Tuned Lens\u201d, "
        "2023; Chen et al., \u201cContinual Memorization of Factoids in Large Language "
        "Models\u201d, 2024, section 5; Meng et al., \u201cLocating and Editing Factual "
        "Associations in GPT\u201d, 2022.",
    ]


def _provenance(
    results: Sequence[LensResult], names: Sequence[str], causal: CausalResult | None
) -> list[Fold]:
    origins = [origin_fold(name, one.provenance) for name, one in zip(names, results, strict=True)]
    checked = [] if causal is None else [origin_fold("Causal check", causal.provenance)]
    return origins + checked


def _deck(results: Sequence[LensResult]) -> str:
    items = len(results[0].items)
    source = results[0].provenance.corpus
    lenses = " and ".join(
        dict.fromkeys(f"{one.provenance.configuration['lens']} lens" for one in results)
    )
    what = (
        f"{count(items)} {'prompt' if items == 1 else 'prompts'}{f' of {source}' if source else ''}"
    )
    return f"{what}, read through {len(results[0].layer_labels)} layers by the {lenses}."
