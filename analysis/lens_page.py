"""The report of a lens: any item by layer and position, and where in depth targets come up.

The reader of the page switches what the colours of a heatmap stand for, points at a cell for the
most likely tokens there, and searches the items. Ranks count from 0, the top; entropies and
divergences are in nats.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from analysis import lens_figures as figures
from analysis.document import (
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
    html,
    origin_fold,
    table_of,
)
from analysis.lens_figures import SITE_NAMES, explorer_data
from analysis.lens_result import LensResult
from analysis.lens_tables import (
    DEFAULT_K,
    LensDifference,
    layers_table,
    prompt_text,
    read_target,
    save_numbers,
    series_labels,
    target_text,
)
from analysis.numbers import count, nats, share, shorten
from probes.causal import CausalResult
from probes.localization import NEVER, first_layer, share_found

PAGE = "lens.html"
FEW = 4  # items that are each worth a sentence and columns of their own
MOST_LAYERS = 40  # a deeper model's table on a terminal shows every second layer, or every third
HALF = 0.5
_SWITCHES = {"rank": "Rank", "probability": "Probability", "entropy": "Entropy", "kl": "KL"}
"""What a heatmap's colours can stand for, and what the buttons say."""


def save_lens(result: LensResult, folder: Path, k: int = DEFAULT_K) -> Path:
    """Write `lens.json`, `lens.csv`, `items.csv` and `lens.html`."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder, which need not exist")
    page = html(lens_report([result], k=k))
    save_numbers(result, folder, k)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder


def lens_report(
    results: Sequence[LensResult],
    *,
    k: int = DEFAULT_K,
    causal: CausalResult | None = None,
    difference: LensDifference | None = None,
    findings: Sequence[str] = (),
) -> Report:
    """What a lens showed."""
    _check(results, causal)
    names = series_labels(results)
    models = list(dict.fromkeys(one.provenance.model for one in results))
    verb = "finds" if len(models) == 1 else "find"
    and_others = [piece for name in models[1:] for piece in (" and ", name)]
    explorer = Template(
        "explorer",
        {
            "measures": _SWITCHES,
            "has_list": len(results[0].items) > 1,
            "data": explorer_data(results, k),
        },
    )
    said = [
        f"{name}: {sentence}" if len(results) > 1 else sentence
        for name, result in zip(names, results, strict=True)
        for sentence in [*lens_findings(result, k=k), *result.notes]
    ]
    checked = [] if causal is None else causal_findings(causal, results[0], k)
    tables = [_terminal_table(result, k) for result in results]
    origins = [origin_fold(name, one.provenance) for name, one in zip(names, results, strict=True)]
    if causal is not None:
        origins.append(origin_fold("Causal check", causal.provenance))
    return Report(
        title=f"Where {' and '.join(models)} {verb} the answer",
        # Names, which are not broken between lines, and what stands between them.
        heading=("Where ", models[0], *and_others, f" {verb} the answer"),
        kicker="mnemoscope · lens",
        deck=_deck(results),
        findings=[*said, *(difference.findings() if difference else ()), *findings, *checked],
        definitions=_definitions(k),
        sections=[
            Section("Every layer and position", [explorer]),
            Section("Where in depth", [*tables, *_depth_figures(results, names, k)]),
            *([] if difference is None else [_difference(difference)]),
            *([] if causal is None else [_causal(causal, results, k)]),
            Section("Provenance", origins),
        ],
    )


def _check(results: Sequence[LensResult], causal: CausalResult | None) -> None:
    if not results:
        raise ValueError("a page of a lens needs at least one result, found none")
    first, *others = (
        [(prompt_text(one, i), target_text(one, i)) for i in range(len(one.items))]
        for one in results
    )
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


def _terminal_table(result: LensResult, k: int) -> Table:
    few = len(result.items) <= FEW
    columns = _columns_of_few(result) if few else _columns_of_many(result, k)
    step = -(-len(result.layer_labels) // MOST_LAYERS)
    layers = range((len(result.layer_labels) - 1) % step, len(result.layer_labels), step)
    rows = [(result.layer_labels[i], *(values[i] for values in columns.values())) for i in layers]
    origin = result.provenance
    what = origin.corpus or ("prompt" if len(result.items) == 1 else "prompts")
    title = f"{origin.model}: {len(result.items)} {what}, {result.lens_name}"
    return Table.of_rows(title, ("layer", *columns), rows, where=Where.TERMINAL)


def _columns_of_few(result: LensResult) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    best = result.per_token.readout.top_ids[:, result.first_rows, 0]
    for index in range(len(result.items)):
        target = read_target(result, index)
        name = f"{index + 1}: " * (len(result.items) > 1) + shorten(target.strip(), 40)
        tokens = [result.text(token).strip() or "·" for token in best[:, index].tolist()]
        columns |= {
            f"{name}, rank": [count(rank) for rank in result.rank[:, index].tolist()],
            f"{name}, log-prob": [nats(one, 2) for one in result.log_prob[:, index].tolist()],
            f"{name}, top token": [shorten(token, 16) for token in tokens],
        }
    return columns


def _columns_of_many(result: LensResult, k: int) -> dict[str, list[str]]:
    table = layers_table(result, k)
    first = result.localization(k).first_histogram.tolist()
    # Of an even number of items the lower of the two in the middle.
    medians = result.rank.median(dim=1).values.tolist()
    return {
        f"in top {k}": table["share_found"].map(share).tolist(),
        "first here": list(map(share, first)),
        "median rank": list(map(count, medians)),
        "log-prob, nats": [nats(value, 2) for value in table["log_prob"]],
        "entropy": [nats(value, 2) for value in table["entropy"]],
        "KL to final": [nats(value, 2) for value in table["kl"]],
    }


def _depth_figures(results: Sequence[LensResult], names: Sequence[str], k: int) -> Iterator[Part]:
    first, shown = results[0], names if len(results) > 1 else [None]
    several = len(first.items) > 1
    if several:
        yield Figure(
            "Where targets come up, and from where they stay.",
            f"Shares of all items; a target is found where it is among the top {k}.",
            [
                Panel(figures.layer_histogram(results, one, k), f"{one} layer".capitalize())
                for one in figures.Criterion
            ],
        )
    items = "The median and the middle half of the items. " if several else ""
    controls = "Grey: medians of the controls. " if first.control_names else ""
    yield Figure(
        "Rank of the target, layer by layer.",
        f"{items}{controls}Left of the dotted line a target is among the top {k}.",
        [
            Panel(figures.rank_trajectories(result, k), name)
            for name, result in zip(shown, results, strict=True)
        ],
    )
    tables = [_layer_numbers(one, k, name) for name, one in zip(shown, results, strict=True)]
    yield Fold("Numbers of every layer", tables)


def _layer_numbers(result: LensResult, k: int, name: str | None) -> Table:
    columns = {
        "layer": "{layer}",
        "median rank": "{rank_median:count}",
        f"in the top {k}": "{share_found:share}",
        "log-prob.": "{log_prob:nats2}",
        "entropy": "{entropy:nats2}",
        "KL": "{kl:nats2}",
    }
    title = "Means over items" if name is None else f"Means over items, {name}"
    return table_of(title, layers_table(result, k), columns, where=Where.PAGE, is_open=True)


def _difference(difference: LensDifference) -> Section:
    one = difference.items == 1
    plot = (
        figures.lens_difference_by_position(difference, 0)
        if one
        else figures.lens_difference_by_item(difference)
    )
    drawn = Figure(
        f"The target's log-probability, {difference.names[1]} less {difference.names[0]}.",
        f"Layer by {'position' if one else 'item'}, in nats: blue where the second gives the "
        "target more, red where it gives it less.",
        [Panel(plot)],
    )
    return Section("The two models", [drawn])


def _causal(causal: CausalResult, results: Sequence[LensResult], k: int) -> Section:
    drawn = Figure(
        "What restoring a layer brings back, beside what can be read there.",
        "The subject is corrupted with noise, and one site of one layer gets its clean value back. "
        "Lines: share of the target's lost log-probability that returns, mean over items that lost "
        f"any. Dashed: share of items whose target is in the top {k}. Where both rise together, "
        "what can be read is also what the model uses.",
        [Panel(figures.causal_figure(causal, results, k))],
    )
    return Section("Causal check", [drawn])


def _definitions(k: int) -> list[str | Paragraph]:
    return [
        Paragraph(
            "Lens",
            ": the residual stream after a layer, put through the model's final norm and "
            "unembedding as if it were the last (a tuned lens moves it first, by a learned affine "
            "map; a Jacobian lens, by the mean Jacobian of the last stream on it).",
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
        "2023; Gurnee et al., \u201cVerbalizable Representations Form a Global Workspace in "
        "Language Models\u201d, 2026; Chen et al., \u201cContinual Memorization of Factoids in "
        "Large Language Models\u201d, 2024, section 5; Meng et al., \u201cLocating and Editing "
        "Factual Associations in GPT\u201d, 2022.",
    ]


def _deck(results: Sequence[LensResult]) -> str:
    items, origin = len(results[0].items), results[0].provenance
    lenses = dict.fromkeys(one.lens_name for one in results)
    what = f"{count(items)} {'prompt' if items == 1 else 'prompts'}"
    source = f" of {origin.corpus}" if origin.corpus else ""
    depth = len(results[0].layer_labels)
    return f"{what}{source}, read through {depth} layers by the {' and '.join(lenses)}."


def lens_findings(result: LensResult, *, k: int) -> list[str]:
    """Sentences on where targets become readable."""
    n = len(result.items)
    if n <= FEW:
        return [_of_item(result, index, k) for index in range(n)]
    found = result.localization(k)
    first = f"None of {n} targets is among the top {k} at any layer."
    if found.mean_first_layer is not None:
        peak = result.layer_labels[int(found.first_histogram.argmax())]
        # The embedding, where it is a row, is before layer 0.
        mean = found.mean_first_layer - (result.layer_labels[0] == "embed")
        first = (
            f"{round(found.share_found * n)} of {n} targets ({share(found.share_found)}) are among "
            f"the top {k} at some layer; the first such layer is {mean:.1f} on average and most "
            f"often {peak}, spread as if over {found.effective_layers:.1f} layers."
        )
    sentences = [
        first,
        f"{share(found.share_settled)} are still there at the last layer; the mean area under "
        f"the rank curve is {float(found.rank_area.mean()):.3f} of 1.",
    ]
    names = {"shuffled": "targets of other items", "frequency": "tokens of the same frequency"}
    controls = [
        f"{share(share_found(first_layer(result.control_rank(name), k)))} of "
        f"{names.get(name, name)}"
        for name in result.control_names
    ]
    if controls:
        of_others = " and ".join(controls)
        sentences.append(f"For comparison, {of_others} are among the top {k} at some layer.")
    return sentences


def _of_item(result: LensResult, index: int, k: int) -> str:
    name = shorten(read_target(result, index).strip(), 40)
    first, settled = (
        int(layers[index]) for layers in (result.first_layer(k), result.settling_layer(k))
    )
    log_prob = nats(float(result.log_prob[-1, index]), 2)
    rank = count(int(result.rank[-1, index]))
    at_the_end = f"at the last layer its rank is {rank}, its log-probability {log_prob} nats"
    if first == NEVER:
        return f"{name!r} is among the top {k} at no layer; {at_the_end}."
    labels = result.layer_labels
    stays = "does not stay" if settled == NEVER else f"stays from layer {labels[settled]} on"
    return (
        f"{name!r} is first among the top {k} at layer {labels[first]} and {stays}; {at_the_end}."
    )


def causal_findings(causal: CausalResult, result: LensResult, k: int) -> list[str]:
    """What a causal check says, in plain sentences."""
    sentences = []
    if causal.n_unmeasurable:
        sentences.append(
            f"Of {len(causal.clean)} items, {causal.n_unmeasurable} lost less than "
            f"{causal.least_drop:g} nats to the noise; nothing can be restored in them."
        )
    if causal.n_unmeasurable == len(causal.clean):
        return sentences
    sites = [SITE_NAMES.get(site, site) for site in causal.sites]
    for site, recovery in zip(sites, causal.mean_recovery, strict=True):
        helps, best = (recovery >= HALF).tolist(), int(recovery.argmax())
        sentences.append(
            f"Restoring the {site} brings back half or more of what noise took at "
            f"{layer_ranges(helps)}."
            if any(helps)
            else f"Restoring the {site} helps most at layer {best}, where "
            f"{share(float(recovery[best]))} comes back."
        )
    table = layers_table(result, k)
    there = table.loc[table["depth"] >= 0, "share_found"].to_numpy()
    readable = there >= HALF * max(there.max(), 1 / len(result.items))
    both = (readable & (causal.mean_recovery[0] >= HALF).numpy()).tolist()
    sentences.append(
        "Targets can be read, half as often as at the best layer or more, and be brought back "
        f"through the {sites[0]} at {layer_ranges(both)}."
        if any(both)
        else f"At no layer can targets both be read and be brought back through the {sites[0]}."
    )
    return sentences


def layer_ranges(chosen: Sequence[bool]) -> str:
    """Chosen layers as ranges, with the word for them."""
    runs = [list(run) for is_in, run in groupby(range(len(chosen)), lambda i: chosen[i]) if is_in]
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    *most, last = texts
    name = "layers" if sum(map(len, runs)) > 1 else "layer"
    return f"{name} {', '.join(most)} and {last}" if most else f"{name} {last}"
