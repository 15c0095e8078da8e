"""The page of a lens: any item by layer and position, where in depth targets come up, where from.

One self-contained file. The reader switches what the colours of a heatmap stand for, points at a
cell for the most likely tokens there, and searches the items. Ranks count from 0, the top;
entropies and divergences are in nats.

Example:
    >>> import analysis, probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                       # doctest: +SKIP
    >>> lens = analysis.lens(model, ["One, two,"], [" three"], positions="all")     # doctest: +SKIP
    >>> Path("lens.html").write_text(lens_page([lens]))                             # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from analysis.logit_lens import depth_figures as figures
from analysis.logit_lens.causal_text import causal_findings
from analysis.logit_lens.explorer import explorer
from analysis.logit_lens.findings import lens_findings
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import (
    DEFAULT_K,
    layers_table,
    prompt_text,
    series_labels,
    target_text,
)
from analysis.page import (
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
from probes.causal_result import CausalResult


def lens_page(
    results: Sequence[LensResult],
    *,
    k: int = DEFAULT_K,
    causal: CausalResult | None = None,
    findings: Sequence[str] = (),
) -> str:
    """The whole page, as one HTML document.

    Args:
        results: one, or several of the same items to compare: two models, or two lenses.
        k: a target is found where it is among the top `k`.
        causal: a causal check of the same items, on the first result's model.
        findings: further sentences for the head of the page, of a comparison say.

    Raises:
        ValueError: there are no results, they are of different items, or `k` is not below the size
            of a vocabulary.
    """
    _check(results, causal)
    names = series_labels(results)
    body = [
        bullets(_findings(results, names, k, causal, findings), class_="findings"),
        section("Every layer and position", explorer(results, k)),
        section("Where in depth", *_depth_figures(results, names, k)),
        *_causal(causal, results, k),
        section("Definitions", *_definitions(k)),
        section("Provenance", *_provenance(results, names, causal)),
    ]
    models = list(dict.fromkeys(one.provenance.model for one in results))
    verb = "finds" if len(models) == 1 else "find"
    return page(
        f"Where {' and '.join(models)} {verb} the answer",
        body,
        heading=joined(["Where ", *_and(models), f" {verb} the answer"]),
        kicker="mnemoscope · lens",
        deck=_deck(results),
    )


def _and(names: Sequence[str]) -> Iterator[Html]:
    for index, name in enumerate(names):
        yield joined([" and " if index else "", whole(name)])


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
) -> list[object]:
    found: list[object] = []
    for name, result in zip(names, results, strict=True):
        sentences = [*lens_findings(result, k=k), *result.notes]
        start = [whole(name), ": "] if len(results) > 1 else []
        found += [joined([*start, sentence]) for sentence in sentences]
    found += further
    return found if causal is None else [*found, *causal_findings(causal, results[0], k)]


def _depth_figures(results: Sequence[LensResult], names: Sequence[str], k: int) -> Iterator[Html]:
    if len(results[0].items) > 1:
        yield figure(
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
    yield figure(
        "Rank of the target, layer by layer.",
        _trajectory_caption(results[0], k),
        [
            Panel(figures.rank_trajectories(result, k), name if several else None)
            for name, result in zip(names, results, strict=True)
        ],
    )
    yield details(
        "Numbers of every layer",
        *(
            _layer_numbers(result, k, name if several else None)
            for name, result in zip(names, results, strict=True)
        ),
    )


def _trajectory_caption(result: LensResult, k: int) -> str:
    items = "The median and the middle half of the items. " if len(result.items) > 1 else ""
    controls = "Grey: medians of the controls. " if result.control_names else ""
    return f"{items}{controls}Left of the dotted line a target is among the top {k}."


def _layer_numbers(result: LensResult, k: int, caption: str | None) -> Html:
    rows = [
        [
            row.layer,
            count(row.rank_median),
            percent(row.share_found),
            *(nats(value) for value in (row.log_prob, row.entropy, row.kl)),
        ]
        for row in layers_table(result, k).itertuples()
    ]
    header = ["layer", "median rank", f"in the top {k}", "log-prob.", "entropy", "KL"]
    return table(header, rows, caption=caption)


def _causal(causal: CausalResult | None, results: Sequence[LensResult], k: int) -> Iterator[Html]:
    if causal is None:
        return
    yield section(
        "Causal check",
        figure(
            "What restoring a layer brings back, beside what can be read there.",
            "The subject is corrupted with noise, and one site of one layer gets its clean value "
            "back. Lines: share of the target's lost log-probability that returns, mean over items "
            f"that lost any. Dashed: share of items whose target is in the top {k}. Where both "
            "rise together, what can be read is also what the model uses.",
            [Panel(figures.causal_figure(causal, results, k))],
        ),
    )


def _definitions(k: int) -> Iterator[Html]:
    yield paragraph(
        element("b", "Lens"),
        ": the residual stream after a layer, put through the model's final norm and unembedding as"
        " if it were the last (a tuned lens moves it first, by a learned affine map). ",
        element("b", "Rank"),
        ": how many tokens have a higher logit than the target; 0 is the top. ",
        element("b", "KL"),
        ": divergence of the last layer's distribution from the readout. Entropy and KL are in "
        "nats.",
    )
    yield paragraph(
        element("b", "First layer"),
        f": the first where the target is among the top {k}. ",
        element("b", "Settling layer"),
        ": the first from which it stays there up to the last.",
    )
    yield paragraph(
        "Sources: nostalgebraist, \u201cinterpreting GPT: the logit lens\u201d, 2020; Belrose et "
        "al., \u201cEliciting Latent Predictions from Transformers with the Tuned Lens\u201d, "
        "2023; Chen et al., \u201cContinual Memorization of Factoids in Large Language "
        "Models\u201d, 2024, section 5; Meng et al., \u201cLocating and Editing Factual "
        "Associations in GPT\u201d, 2022."
    )


def _provenance(
    results: Sequence[LensResult], names: Sequence[str], causal: CausalResult | None
) -> Iterator[Html]:
    origins = [(name, one.provenance) for name, one in zip(names, results, strict=True)]
    if causal is not None:
        origins.append(("Causal check", causal.provenance))
    for name, provenance in origins:
        origin = asdict(provenance)
        configuration = as_json(origin.pop("configuration"))
        versions = ", ".join(f"{n} {v}" for n, v in origin.pop("versions").items())
        pairs = {key.replace("_", " "): value for key, value in origin.items()}
        known = {key: value for key, value in pairs.items() if value is not None}
        yield details(name, definitions({**known, "versions": versions}), configuration)


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
