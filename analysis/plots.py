"""Plots: the picture that every result has, with a title; what `result.plot()` shows.

`probes.shown.Result` finds `plot_result` by the entry point that `pyproject.toml` declares.
"""

from functools import singledispatch
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.depth import DepthChange
from analysis.edit_measures import EditSweep
from analysis.edit_sweep_page import trade_off
from analysis.entropy_figures import (
    Total,
    attention_by_layer,
    entropy_figure,
    head_table,
    layer_table,
    totals_over_training,
)
from analysis.figures import (
    SERIES_COLOURS,
    dots,
    dots_by_name,
    empty,
    heatmap,
    histogram,
    layer_axis,
    lines,
    mark,
    titled,
)
from analysis.forgetting_curve import ForgettingCurve
from analysis.lens_figures import (
    causal_figure,
    lens_difference_by_item,
    lens_difference_by_position,
    lens_heatmap,
)
from analysis.lens_result import LensResult
from analysis.lens_tables import LensDifference, prompt_text, read_target
from analysis.numbers import capital, label, model_name, nats, shorten, visible
from analysis.runs import Chain, RunDifference, TrainingRun
from analysis.trajectory import Trajectory
from interventions.edits import PatchReport
from interventions.patch_run import Effects
from probes.activation_patching import PatchingResult
from probes.attribution import LogitAttribution
from probes.causal import CausalResult
from probes.choices import Lens
from probes.localization import NEVER, Localization
from probes.memory.contexts import TopContexts
from probes.memory.neurons import FactChanges, KnowledgeNeurons
from probes.memory.vectors import PromotedTokens, SharedVectors, TopVectors
from probes.perplexity import Perplexity
from probes.results import EntropyDifference, EntropyResult
from training.lens_fits import LensComparison
from training.novelty import CorpusNovelty
from training.relearning import RelearningCurve

_MOST = 60  # memory vectors that are drawn


@singledispatch
def plot_result(result: Any, **settings: Any) -> go.Figure:
    """The picture of a result, as a plotly figure with a title.

    Args:
        result: any result of this library.
        **settings: what `plot` of such a result takes.

    Raises:
        ValueError: there is no picture of such a thing, or the result has nothing to draw.
    """
    del settings
    raise ValueError(f"no picture is known of {type(result).__name__}; draw its to_dataframe()")


@plot_result.register
def _(result: EntropyResult) -> go.Figure:
    knowledge = result.knowledge
    total = "" if knowledge is None else f": {nats(knowledge.estimate, 2)} nats"
    return _entropies([result], f" of {result.provenance.about}{total}")


@plot_result.register
def _(result: EntropyDifference) -> go.Figure:
    names = f", {result.names[1]} against {result.names[0]}"
    return _entropies([result.first, result.second], names)


def _entropies(results: list[EntropyResult], names: str) -> go.Figure:
    if all(one.knowledge is not None for one in results):
        return titled(entropy_figure(results), f"Knowledge entropy{names}")
    if all(one.attention is not None for one in results):
        figure = attention_by_layer(layer_table(results), head_table(results))
        return titled(figure, f"Attention entropy{names}")
    raise ValueError("a next-token entropy is one number, with nothing to draw; print the result")


@plot_result.register
def _(result: LensResult, item: int = 0) -> go.Figure:
    figure = lens_heatmap(result, item)
    prompt = shorten(prompt_text(result, item), 60)
    model = model_name(result.provenance.model, result.provenance.revision)
    target = read_target(result, item).strip()
    return titled(figure, f"{prompt} \u2192 {target}: {result.lens_name}, {model}")


@plot_result.register
def _(result: LensDifference, item: int | None = None) -> go.Figure:
    if item is None and result.items == 1:
        item = 0
    title = f"{result.names[1]} less {result.names[0]}"
    if item is None:
        return titled(lens_difference_by_item(result), title)
    prompt = shorten(prompt_text(result.first, item), 40)
    return titled(lens_difference_by_position(result, item), f"{prompt}: {title}")


@plot_result.register
def _(result: CausalResult) -> go.Figure:
    return titled(causal_figure(result), f"What restoring brings back: {result.provenance.about}")


@plot_result.register
def _(result: PatchingResult, site: str) -> go.Figure:
    table = result.to_dataframe()
    rows = table[table["site"] == site]
    drawn = heatmap(
        rows.assign(place=rows["place"].map(visible)),
        *("place", "layer", "recovery"),
        unit="recovery",
        hover=f"layer {{layer}}, {result.by} {{place}}: <b>{{recovery:.1%}}</b>",
        titles=(result.by, "layer"),
        signed=True,
    )
    title = f"Brought back at {site.replace('_', ' ')}, {result.metric}: {result.about}"
    return titled(drawn, title)


@plot_result.register
def _(result: LogitAttribution) -> go.Figure:
    heads = result.to_dataframe().query("kind == 'head'")
    mlps = heads.drop_duplicates("layer").assign(head="MLP", contribution=result.mlp.tolist())
    table = pd.concat([heads.astype({"head": object}), mlps])
    drawn = heatmap(
        table.assign(head=table["head"].astype(str), layer=table["layer"].astype(int)),
        *("head", "layer", "contribution"),
        unit="logit",
        hover="layer {layer}, {head}: <b>{contribution:+.3f}</b>",
        titles=("head, and the MLP", "layer"),
        signed=True,
    )
    return titled(drawn, f"What adds to the {result.what}: {result.about}")


@plot_result.register
def _(result: TopVectors) -> go.Figure:
    tokens = [" ".join(map(visible, words[:3])) for words in result.written.promoted]
    pairs = zip(result.vectors, tokens, strict=True)
    names = [f"L{layer} {index}: {words}" for (layer, index), words in pairs]
    title = f"Memory vectors after {result.prompt[result.position].strip()!r}: {result.about}"
    return _by_name(names, getattr(result, result.order).tolist(), result.order, title)


@plot_result.register
def _(result: PromotedTokens) -> go.Figure:
    layer, index = result.vectors[0]
    tokens = [*result.promoted[0], *reversed(result.suppressed[0])]
    scores = [*result.promoted_scores[0].tolist(), *result.suppressed_scores[0].flip(0).tolist()]
    names = [f"{place + 1}. {visible(token)}" for place, token in enumerate(tokens)]
    title = f"What memory vector {index} of layer {layer} promotes and suppresses"
    return _by_name(names, scores, "score", title)


def _by_name(names: list[str], values: list[float], x_title: str, title: str) -> go.Figure:
    table = pd.DataFrame({"arm": names, "value": values, "low": None, "high": None})
    colours = dict.fromkeys(names, SERIES_COLOURS[0])
    return titled(dots_by_name(table, colours, x_title), title)


@plot_result.register
def _(result: SharedVectors) -> go.Figure:
    if not result.vectors:
        raise ValueError("the two prompts share no memory vectors, so there is nothing to draw")
    axes = ("coefficient in the first prompt", "coefficient in the second")
    hover = "layer {layer}, vector {index}: {first:.3f} and <b>{second:.3f}</b>"
    drawn = dots(result.to_dataframe(), "first", "second", hover=hover, titles=axes)
    shared = f"{len(result.vectors)} of {result.n} memory vectors are shared"
    return titled(mark(mark(drawn, y=0), x=0), f"{shared}: {result.about}")


@plot_result.register
def _(result: TopContexts) -> go.Figure:
    table = result.to_dataframe()
    table["arm"] = [f"L{n} {i}" for n, i in zip(table["layer"], table["index"], strict=True)]
    names = {f"L{layer} {index}": place for place, (layer, index) in enumerate(result.vectors)}
    rows = table.assign(place=table["arm"].map(names))
    hover = "document {document}: <b>{coefficient:+.3f}</b><br>{text}"
    drawn = dots(rows, "coefficient", "place", hover=hover, titles=("coefficient", ""))
    drawn.update_layout(height=110 + 24 * len(names))
    ticks = {"tickvals": list(names.values()), "ticktext": list(map(label, names))}
    mark(drawn, x=0).update_yaxes(range=[len(names) - 0.4, -0.6], **ticks)
    return titled(drawn, f"Contexts of memory vectors: {result.about}")


@plot_result.register
def _(result: FactChanges) -> go.Figure:
    parts = {
        "from_coefficient": "when it is used",
        "from_vector": "what is written",
        "from_readout": "how it is read",
    }
    table = result.by_layer().melt("layer", list(parts), "part", "logit").replace({"part": parts})
    hover = "layer {layer}: <b>{logit:+.4f}</b>"
    of: dict[str, Any] = {"by": "part", "mode": "lines+markers", "hover": hover}
    drawn = lines(table, "logit", "layer", titles=("change of the logit", "layer"), **of)
    title = f"What changed in {result.fact}: {result.about}"
    return titled(layer_axis(mark(drawn, x=0), len(result.before)), title)


@plot_result.register
def _(result: KnowledgeNeurons) -> go.Figure:
    table = result.to_dataframe()
    largest = table.reindex(table["attribution"].abs().sort_values(ascending=False).index)[:_MOST]
    hover = "layer {layer}, vector {index}: <b>{attribution:+.4f}</b>"
    axes = ("attribution (probability)", "layer")
    drawn = dots(largest, "attribution", "layer", hover=hover, titles=axes)
    title = f"Knowledge neurons of {result.fact}: {result.about}"
    return titled(layer_axis(mark(drawn, x=0), len(result.attribution)), title)


@plot_result.register
def _(result: Localization) -> go.Figure:
    shown = {"first layer": result.first_layer, "settling layer": result.settling_layer}
    return _layers(shown, result, f"Where targets come up among the top {result.k}")


@plot_result.register
def _(result: DepthChange) -> go.Figure:
    shown = zip(result.names, (result.before.first_layer, result.after.first_layer), strict=True)
    title = f"First layer, {result.names[1]} against {result.names[0]}"
    return _layers(dict(shown), result.before, title)


def _layers(kinds: dict[str, Any], found: Localization, title: str) -> go.Figure:
    rows = [
        (kind, None if layer == NEVER else str(layer))
        for kind, layers in kinds.items()
        for layer in layers.tolist()
    ]
    labels = list(map(str, range(len(found.first_histogram))))
    table = pd.DataFrame(rows, columns=["kind", "layer"])
    return titled(histogram(table, "layer", labels, by="kind"), title)


@plot_result.register
def _(result: Perplexity) -> go.Figure:
    table = result.to_dataframe()
    return _by_document(table, "loss", result.mean_loss, "How well text is predicted")


@plot_result.register
def _(result: CorpusNovelty) -> go.Figure:
    title = f"How new each document is: {result.provenance.about}"
    return _by_document(result.to_dataframe(), "mean_loss", result.mean_loss, title)


def _by_document(table: pd.DataFrame, loss: str, mean: float, title: str) -> go.Figure:
    hover = f"document {{document}}: <b>{{{loss}:.3f}}</b> nats, {{tokens:,}} tokens"
    axes = ("document", "loss (nats a token)")
    figure = dots(table, "document", loss, hover=hover, titles=axes, size=5)
    return titled(mark(figure, y=mean, text=f"mean {nats(mean)}"), title)


@plot_result.register
def _(result: PatchReport) -> go.Figure:
    table = result.to_dataframe().reset_index(names="place")
    hover = "{parameter}: <b>{relative_change:.3g}</b>, {rows_changed:,} of {rows:,} rows"
    axes = ("parameter, in the order of the patch", "change relative to the norm")
    drawn = dots(table, "place", "relative_change", hover=hover, titles=axes)
    return titled(drawn, "What was patched")


@plot_result.register
def _(result: Effects) -> go.Figure:
    loss = result.text if result.held_out is None else result.held_out
    what = "loss" if result.held_out is None else "held-out loss"
    about = f" of {result.entropies.provenance.about}, {what} {nats(loss.mean_loss)} nats a token"
    return _entropies([result.entropies], about)


@plot_result.register
def _(result: EditSweep) -> go.Figure:
    return titled(trade_off(result.table), f"What edits do: {result.result.provenance.about}")


@plot_result.register
def _(result: LensComparison) -> go.Figure:
    table = result.to_dataframe().assign(place=range(len(result.layer_labels)))
    figure = empty("KL from the model's output (nats)", "layer")
    for name in (Lens.LOGIT, result.lens):
        drawn = table.assign(kl=table[f"{name}_kl"], lens=name.words)
        hover = "layer {layer}: <b>{kl:.3f}</b> nats"
        lines(drawn, "kl", "place", by="lens", hover=hover, colours=_LENSES, onto=figure)
    return titled(layer_axis(figure, result.layer_labels), "How far each lens is from the model")


_LENSES = {"logit lens": "#687b8c", "tuned lens": "#3d6fb4", "Jacobian lens": "#c8603c"}


@plot_result.register
def _(result: RelearningCurve) -> go.Figure:
    axes = ("steps of relearning", "answered exactly")
    hover = "after {evaluation} steps: <b>{exact_match:.1%}</b>"
    of: dict[str, Any] = {"by": "group", "mode": "lines+markers", "hover": hover}
    drawn = lines(result.to_dataframe(), "evaluation", "exact_match", titles=axes, **of)
    return titled(drawn, "What comes back when some items are taught again")


@plot_result.register
def _(result: ForgettingCurve) -> go.Figure:
    table = result.to_dataframe()
    axes = ("steps after the local maximum", "retainability")
    hover = "{offset:,.0f} steps: <b>{retainability:.1%}</b>"
    figure = dots(table, "offset", "retainability", hover=hover, titles=axes)
    fits = table.melt("offset", list(map(str, result.fits)), "shape", "value")
    fits = fits.assign(shape=fits["shape"].str.replace("_", "-"))
    lines(fits, "offset", "value", by="shape", hover="{value:.1%}", onto=figure)
    mark(figure, y=0).update_xaxes(type="log").update_yaxes(tickformat=".0%")
    return titled(figure, f"Forgetting: {result.slope:.1%} per decade of steps")


@plot_result.register
def _(result: TrainingRun, measure: str = "loss") -> go.Figure:
    table = result.to_dataframe()
    found = table[table["measure"] == measure]
    if found.empty:
        known = ", ".join(map(repr, table["measure"].unique()))
        raise ValueError(f"the run {result.name} has no measure {measure!r}; it has {known}")
    hover = "step {step:,}: <b>{value:.4g}</b>"
    mode = "lines" if len(found) > 40 else "lines+markers"
    figure = lines(found, "step", "value", hover=hover, titles=("step", measure), mode=mode)
    return titled(figure, f"{capital(measure)} of {result.name}")


@plot_result.register
def _(result: RunDifference, measure: str = "loss") -> go.Figure:
    table = result.numbers[result.numbers["measure"] == measure]
    if table.empty:
        known = ", ".join(map(repr, result.numbers["measure"].unique()))
        raise ValueError(f"the two runs share no measure {measure!r}; they share {known}")
    across = "step" if "step" in table else "moment"
    lists = [name for name in ("items", "match") if name in table]
    sides = dict(zip(("first", "second"), result.names, strict=True))
    long = table.melt([across, *lists], list(sides), "run", "value")
    long = long.assign(run=long["run"].map(sides), of=long[lists].agg(", ".join, axis=1))
    places = {one: place for place, one in enumerate(long[across].unique())}
    drawn = long.assign(place=long[across] if across == "step" else long[across].map(places))
    hover = f"{{{across}}}: <b>{{value:.4g}}</b>"
    figure = lines(drawn, "place", "value", by=("run", "of"), hover=hover, titles=(across, measure))
    if across == "moment":
        figure.update_xaxes(tickvals=list(places.values()), ticktext=list(places))
    return titled(figure, f"{capital(measure)}, {result.names[1]} against {result.names[0]}")


@plot_result.register
def _(result: Trajectory, measure: str | None = None) -> go.Figure:
    table = result.to_dataframe()
    known = list(table["measure"].unique())
    chosen = known[0] if measure is None else measure
    if chosen not in known:
        raise ValueError(f"there is no measure {chosen!r}; there are {', '.join(known)}")
    name = f"{chosen} entropy" if chosen in set(Total) else f"knowledge entropy by {chosen}"
    return titled(totals_over_training(table, chosen), f"{capital(name)} over training")


@plot_result.register
def _(result: Chain) -> go.Figure:
    table = result.to_dataframe().query("measure == 'correct'")
    table = table.assign(place=table["moment"].map(result.moments.index))
    of: dict[str, Any] = {"by": ("items", "match"), "mode": "lines+markers"}
    of |= {"hover": "{moment}: <b>{value:.1%}</b>", "titles": ("", "answered right")}
    figure = lines(table, "place", "value", **of)
    figure.update_xaxes(tickvals=list(range(len(result.moments))), ticktext=list(result.moments))
    return titled(figure.update_yaxes(tickformat=".0%"), f"What {result.name} still answers")
