"""The report of an edit sweep: what each edit does to entropies and losses, and what it costs.

Entropies and losses are in nats; a loss is per predicted token. Two losses count as the same where
they differ by less than rounding in the model's type explains, and an edit is said to damage a
model where the perplexity on held-out text at least doubles.
"""

from collections.abc import Iterator
from math import ceil, log, log10

import pandas as pd
import plotly.graph_objects as go

from analysis import document
from analysis.edit_measures import AT_FACTOR, AT_RATIO, MEASURES, PREDICTED, EditRow, EditSweep
from analysis.figures import SERIES_COLOURS, dots, lines, mark
from analysis.numbers import MINUS, capital, count, model_name, nats, share
from interventions.choices import ResuscitationSite
from probes.perplexity import power_of_e

_SAME_LOSS = {"float64": 1e-3, "float32": 1e-3}
_SAME_IN_HALF_PRECISION = 0.02  # nats per token that rounding stays well below, by type
_DAMAGED = log(2.0)  # nats more: twice the perplexity
_MOVED = 0.01  # nats of knowledge entropy that are worth a sentence
_SMALLEST = 0.99e-6  # nats: float32 does not tell smaller differences from rounding
_NAMED = 4  # so many edits are named one by one; of more, the number at each site
_PAPERS_SITE, _PAPERS_FACTOR = ResuscitationSite.UP, 2.0


def cell(measure: str, value: float | None) -> str:
    """A number as a table shows it; empty where there is none."""
    if value is None:
        return ""
    if measure != "held_out_perplexity":
        return nats(value)
    if value >= 1e9:
        return f"{value:.2g}"
    return count(value) if value >= 1000 else nats(value, 1)


def findings(sweep: EditSweep) -> list[str]:
    """What stands out."""
    tidy, known = sweep.table, sweep.result.knowledge
    assert known is not None
    moves = {f"{name}_moved": moved(tidy, name) for name in MEASURES}
    made = tidy.assign(**moves)[tidy["refused"].isna()]
    resuscitated = made[made["site"].notna()]
    same = _SAME_LOSS.get(sweep.result.provenance.dtype, _SAME_IN_HALF_PRECISION)
    unedited = (
        f"Unedited: knowledge entropy {nats(known.total, 2)} nats, "
        f"{share(known.total / known.maximum)} of its maximum; on held-out text a loss of "
        f"{cell('held_out_loss', sweep.before['held_out_loss'])} nats per token, a perplexity of "
        f"{cell('held_out_perplexity', sweep.before['held_out_perplexity']) or 'no float64'}."
    )
    return [
        unedited,
        *_papers_edit(sweep, made, same),
        *_same_function(resuscitated, same),
        *_up_and_down(made, same),
        *_damage(resuscitated),
        *_temperatures(made),
        *(
            f"Refused, {'; '.join(rows['edit'])}: {reason}."
            for reason, rows in tidy.groupby("refused", sort=False)
        ),
    ]


def _papers_edit(sweep: EditSweep, made: pd.DataFrame, same: float) -> Iterator[str]:
    rows = made[(made["site"] == _PAPERS_SITE) & (made["factor"] == _PAPERS_FACTOR)]
    for row in rows[rows["ratio"] == AT_RATIO].itertuples():
        more, after = row.held_out_loss_moved, row.held_out_loss_after
        power = power_of_e(more)
        times = f"e^{more:,.0f}" if power is None else f"{power:,.3g}"
        verdict = f"the perplexity is {times} times what it was"
        assert sweep.result.next_token is not None
        guessing = sweep.result.next_token.maximum
        if abs(more) < same:
            verdict = "the model predicts as before"
        elif more >= _DAMAGED:
            verdict += ", which damages the model before any training"
            if after > guessing:
                verdict += f", and worse than guessing all tokens alike ({nats(guessing, 2)})"
        predicted = row.knowledge_entropy_predicted - row.knowledge_entropy_before
        yield (
            f"The paper's edit, up rows at ratio {AT_RATIO:g} and factor {_PAPERS_FACTOR:g}, moves "
            f"knowledge entropy by {_signed(row.knowledge_entropy_moved)} nats (predicted "
            f"{_signed(predicted)}) and the held-out loss from {nats(row.held_out_loss_before)} to "
            f"{nats(after)}: {verdict}."
        )


def _same_function(resuscitated: pd.DataFrame, same: float) -> Iterator[str]:
    for site, rows in resuscitated.groupby("site", sort=False):
        moved = rows["knowledge_entropy_moved"]
        loss, contribution = (
            float(rows[f"{name}_moved"].abs().max())
            for name in ("held_out_loss", "contribution_entropy")
        )
        if loss < same and moved.abs().max() >= _MOVED:
            span = " to ".join(dict.fromkeys((_signed(moved.min()), _signed(moved.max()))))
            yield (
                f"Site {site} moves knowledge entropy, by {span} nats, without changing what the "
                f"model computes: the held-out loss moves by {_within(loss)} nats and contribution "
                f"entropy by {_within(contribution)}. So knowledge entropy alone does not tell "
                "whether a model has changed."
            )


def _up_and_down(made: pd.DataFrame, same: float) -> Iterator[str]:
    up, down = (
        made[made["site"] == site] for site in (ResuscitationSite.UP, ResuscitationSite.DOWN)
    )
    both = up.merge(down, on=["ratio", "factor"])
    loss, contribution, knowledge = (
        float((both[f"{name}_after_x"] - both[f"{name}_after_y"]).abs().max())
        for name in ("held_out_loss", "contribution_entropy", "knowledge_entropy")
    )
    if loss < same:
        yield (
            "Sites up and down make the same change of the model in other rows: their losses "
            f"differ by {_within(loss)} nats and their contribution entropies by "
            f"{_within(contribution)}, their knowledge entropies by up to {nats(knowledge, 2)}."
        )


def _damage(resuscitated: pd.DataFrame) -> Iterator[str]:
    if resuscitated.empty:
        return
    doubled = resuscitated["held_out_loss_moved"] >= _DAMAGED
    each = ", ".join(
        f"{int(found.sum())} of {len(found)} at {site}"
        for site, found in doubled.groupby(resuscitated["site"], sort=False)
    )
    yield f"Resuscitations that at least double the perplexity on held-out text: {each}."
    fell = resuscitated[resuscitated["knowledge_entropy_moved"] < -_MOVED]
    if fell.empty:
        return
    counts = fell["site"].value_counts(sort=False)
    names = "; ".join(fell["edit"])
    if len(fell) > _NAMED:
        names = ", ".join(f"{number} at {site}" for site, number in counts.items())
    yield (
        f"{len(fell)} of {len(resuscitated)} resuscitations lower knowledge entropy instead of "
        f"raising it: {names}."
    )


def _temperatures(made: pd.DataFrame) -> Iterator[str]:
    for row in made.dropna(subset="temperature").sort_values("temperature").tail(1).itertuples():
        yield (
            f"Attention temperature {row.temperature:g}, the highest, moves attention entropy by "
            f"{_signed(row.attention_entropy_moved)} nats, knowledge entropy by "
            f"{_signed(row.knowledge_entropy_moved)} and the held-out loss by "
            f"{_signed(row.held_out_loss_moved)}."
        )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def moved(rows: pd.DataFrame, measure: str) -> pd.Series:
    """How far edits move a measure."""
    return (rows[f"{measure}_after"] - rows[f"{measure}_before"]).astype(float)


def _within(difference: float) -> str:
    power = ceil(log10(max(difference, _SMALLEST)))
    return f"less than {10.0**power:g}"


LOSSES = {"held_out_loss": "held-out text", "loss": "the same text"}
LEAST_SPAN = 0.2
"""Nats that an axis of losses spans at least, so that rounding is not drawn as a mountain range."""
_ENTROPIES = (
    "Entropies are in nats, summed over layers (next-token: a mean over positions); losses are in "
    "nats per token. Knowledge is the entropy of mean |c| over neurons, c being what a neuron's "
    "memory vector is multiplied by. Contribution is the same of mean |c| times the norm of the "
    "memory vector, which no rescaling of rows against memory vectors moves. What a number was "
    "before an edit stands in the row of the unedited model. Predicted is the closed form, in "
    "which the inputs of every layer stay as they were."
)
_RESUSCITATION = (
    "A resuscitation multiplies neurons of every layer: those whose mean |c| is at or below a "
    "quantile, the ratio. Each is multiplied by u, which is the factor times the layer's mean |c| "
    "over its own."
)
_SITES = {
    ResuscitationSite.UP: "rows of the linear half of the MLP times u, the paper's edit; the "
    "coefficients become u times as large, and so does what these neurons write.",
    ResuscitationSite.DOWN: "memory vectors times u; coefficients change only in later layers, "
    "through what these neurons write.",
    ResuscitationSite.PRESERVING: "up rows times u and memory vectors divided by u; the model "
    "computes what it did. Weights edited so are trained, under Adam, with a learning rate of its "
    "own for each row, up to epsilon, clipping, weight decay and rounding.",
    ResuscitationSite.GATE: "rows of the gate times u, before its nonlinearity; nothing predicts "
    "what becomes of the coefficients.",
    ResuscitationSite.UP_PREACTIVATION: "up rows of an MLP without a gate times u, before its "
    "nonlinearity; another edit than the paper's, and nothing predicts what becomes of the "
    "coefficients.",
}
"""What is multiplied at each site; u is a neuron's multiplier."""
_OTHERS = {
    "temperature": (
        "Attention temperature",
        "Attention scores of all layers are divided by the temperature, so that attention spreads "
        "more evenly over tokens.",
    ),
    "own": ("Edits of your own", "They are measured in the weights where those can express them."),
}
"""Sections beside those of sites."""
_SERIES = {
    "factor": ("amplifying factor", f", by factor, at ratio {AT_RATIO:g}"),
    "ratio": ("resuscitation ratio", f", by ratio, at factor {AT_FACTOR:g}"),
    "temperature": ("attention temperature", ""),
}
"""What may vary along a series, what its axis is called, and what its figures are."""
_WARMED = ("attention_entropy", "next_token_entropy", "knowledge_entropy")
_BRIEF = {
    ("knowledge_entropy", "predicted"): "knowledge,\npredicted",
    ("knowledge_entropy", "after"): "knowledge,\nmeasured",
    ("contribution_entropy", "after"): "contri-\nbution",
    ("attention_entropy", "after"): "\nattention",
    ("held_out_perplexity", "after"): "held-out\nperplexity",
}
"""Columns that a terminal has room for; the others are in the files."""


def edit_report(sweep: EditSweep, command: str) -> document.Report:
    """What an edit sweep found."""
    origin, tidy = sweep.result.provenance, sweep.table
    sites = dict.fromkeys(row.setting.site for row in sweep.rows if row.setting.site is not None)
    provenance = _provenance(sweep)
    overview = document.Figure(
        title="What edits do, and what they cost.",
        caption="Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out "
        "text is predicted worse. On the dotted line across, the model predicts as well as it did.",
        panels=[document.Panel(trade_off(tidy))],
    )
    settings = document.Fold("All settings and hashes", [document.Settings(origin.__dict__)])
    return document.Report(
        title=f"What edits do to {origin.model}",
        heading=("What edits do to ", origin.model),
        kicker="mnemoscope · edits",
        deck=f"{len(sweep.rows)} edits, each measured on {count(origin.tokens)} tokens of "
        f"{origin.corpus or 'text in memory'}, and on {count(sweep.held_out.tokens)} of held-out "
        "text.",
        findings=findings(sweep),
        command=command,
        provenance=provenance,
        definitions=[_ENTROPIES, _RESUSCITATION, *(f"{site}: {_SITES[site]}" for site in sites)],
        sections=[
            document.Section("What edits do, and what they cost", [overview, _whole_table(sweep)]),
            *_sections(sweep),
            document.Section(
                "Provenance", [document.Code(command), document.Facts(provenance), settings]
            ),
        ],
    )


def _provenance(sweep: EditSweep) -> dict[str, str]:
    origin, held_out = sweep.result.provenance, sweep.held_out
    settings = origin.configuration
    return {
        "model": f"{model_name(origin.model, origin.revision)}, weights "
        f"{origin.weights_sha256[:12]}, {origin.dtype} on {origin.device}",
        "measured on": f"{count(origin.tokens)} tokens of {count(origin.documents)} documents of "
        f"{origin.corpus}, in {count(origin.rows)} rows ({settings['layout']}, sequence length "
        f"{settings['sequence_length']}; text {(origin.corpus_sha256 or '')[:12]})",
        "held out": f"{count(held_out.tokens)} tokens of {count(held_out.documents)} documents of "
        f"{held_out.corpus} (text {held_out.sha256[:12]})",
        "versions": ", ".join(f"{name} {found}" for name, found in origin.versions.items()),
    }


def _whole_table(sweep: EditSweep) -> document.Table:
    columns: list[tuple[str, str, str]] = []
    for name, called in MEASURES.items():
        if name in PREDICTED:
            columns.append((name, "predicted", f"{called}, predicted"))
        columns.append((name, "after", f"{called}, after"))
    edits = (sweep.unedited, *sweep.rows)
    rows = [
        (
            row.setting.label if row.refused is None else f"{row.setting.label} (refused)",
            "" if row.neurons is None else count(row.neurons),
            *(cell(name, getattr(row, when).get(name)) for name, when, _ in columns),
        )
        for row in edits
    ]
    return document.Table.of_rows(
        "Entropies and losses after each edit, in nats",
        ("edit", "neurons scaled", *(heading for *_, heading in columns)),
        rows,
        brief=("\nedit", None, *(_BRIEF.get((name, when)) for name, when, _ in columns)),
        groups=tuple(str(row.setting.site) for row in edits),
        where=document.Where.DOCUMENT | document.Where.TERMINAL,
    )


def _sections(sweep: EditSweep) -> Iterator[document.Section]:
    asked: dict[str, tuple[str, str]] = {
        site: (f"Resuscitation at site {site}", capital(said)) for site, said in _SITES.items()
    }
    for kind, (title, said) in (asked | _OTHERS).items():
        edits = [row for row in sweep.rows if row.setting.kind == kind]
        drawn = []
        for varies, (_, heading) in _SERIES.items():
            rows = series(sweep.table, kind, varies)
            if len(rows):
                caption = "Dotted lines without dots are the unedited model."
                if rows["knowledge_entropy_predicted"].notna().any():
                    caption = f"Full dots are measured, open ones predicted. {caption}"
                panels = [
                    document.Panel(entropy_changes(rows, varies), "entropies"),
                    document.Panel(losses(rows, varies), "loss"),
                ]
                drawn.append(document.Figure(f"{title}{heading}.", caption, panels))
        if edits:
            yield document.Section(title, [said, _numbers(sweep, edits, title), *drawn])


def _numbers(sweep: EditSweep, edits: list[EditRow], caption: str) -> document.Table:
    """The unedited model, then every edit; what is predicted stands below what was measured."""
    rows: list[tuple[str | document.Cell, ...]] = []
    for row in (sweep.unedited, *edits):
        name = row.setting.label.removeprefix(f"{row.setting.site}, ")
        first, _, second = name.partition(", ")
        notes = {n: f"predicted {cell(n, value)}" for n, value in row.predicted.items()}
        rows.append(
            (
                document.Cell(
                    first, ", ".join(filter(None, (second, "refused" if row.refused else "")))
                ),
                "" if row.neurons is None else count(row.neurons),
                *(document.Cell(cell(n, row.after.get(n)), notes.get(n, "")) for n in MEASURES),
            )
        )
    return document.Table.of_rows(
        f"{caption}: entropies and losses after the edit, in nats",
        ("", "neurons", *MEASURES.values()),
        rows,
        where=document.Where.PAGE,
        is_open=True,
    ).without_empty()


def kinds(table: pd.DataFrame) -> pd.Series:
    """The site of every edit, or what else it is."""
    others = table["temperature"].notna().map({True: "temperature", False: "own"})
    return table["site"].astype(object).fillna(others).astype(str)


def series(table: pd.DataFrame, kind: str, varies: str) -> pd.DataFrame:
    """The rows of one series, in the order of what varies along it; refused edits left out."""
    rows = table[table["refused"].isna() & table[varies].notna() & (kinds(table) == kind)]
    if varies != "temperature":
        held, at = ("ratio", AT_RATIO) if varies == "factor" else ("factor", AT_FACTOR)
        rows = rows[rows[held] == at]
    return rows.sort_values(varies)


def trade_off(table: pd.DataFrame) -> go.Figure:
    """What edits do to knowledge entropy, against what they cost: a dot for every edit."""
    made = table[table["refused"].isna()]
    changes = {n: moved(made, n) for n in ("knowledge_entropy", "held_out_loss")}
    figure = dots(
        # Dots of sites may lie on top of each other, so sites differ in their marks as well.
        made.assign(kind=kinds(made), **changes),
        "knowledge_entropy",
        "held_out_loss",
        by=("kind", "kind"),
        hover="{edit}: knowledge entropy {knowledge_entropy:+.3f}, held-out loss "
        "<b>{held_out_loss:+.3f}</b> nats",
        titles=("change in knowledge entropy (nats)", "change in held-out loss (nats)"),
        height=420,
        size=10,
    )
    mark(mark(figure, y=0), x=0)
    cost = changes["held_out_loss"]
    return _widened(figure, min(cost, default=0.0), max(cost, default=0.0))


def entropy_changes(rows: pd.DataFrame, varies: str) -> go.Figure:
    """Change of entropies from the unedited model: dots as measured, open ones as predicted."""
    drawn = []
    for name in _WARMED if varies == "temperature" else PREDICTED:
        for when, kind in (("after", ""), ("predicted", "predicted")):
            if f"{name}_{when}" in rows:
                values, before = rows[f"{name}_{when}"], rows[f"{name}_before"]
                one = {"entropy": values, "change": values - before, "kind": kind}
                drawn.append(rows[["edit", varies]].assign(measure=MEASURES[name], **one))
    table = pd.concat(drawn).dropna(subset="entropy")
    figure = lines(
        table,
        varies,
        "change",
        by=("measure", "kind"),
        mode="lines+markers",
        hover="{edit}: <b>{change:+.4f}</b>, at {entropy:.4f} nats",
        titles=(_SERIES[varies][0], "change in entropy (nats)"),
        size=7,
    )
    # Open dots are explained in the caption; beside two panels a legend has little room.
    figure.for_each_trace(lambda one: one.update(showlegend="predicted" not in one.name))
    return mark(figure, y=0)


def losses(rows: pd.DataFrame, varies: str) -> go.Figure:
    """Loss on the measured text and on held-out text, with a line for the unedited model."""
    named = {f"{name}_after": what for name, what in LOSSES.items()}
    figure = lines(
        rows.melt(["edit", varies], list(named), "text", "loss").replace({"text": named}),
        varies,
        "loss",
        by="text",
        mode="lines+markers",
        hover="{edit}: <b>{loss:.4f}</b> nats",
        titles=(_SERIES[varies][0], "loss (nats per token)"),
        size=7,
    )
    for name, colour in zip(LOSSES, SERIES_COLOURS, strict=False):
        mark(figure, y=rows[f"{name}_before"].iloc[0], color=colour)
    drawn = rows[[f"{name}_{when}" for name in LOSSES for when in ("before", "after")]]
    return _widened(figure, drawn.min().min(), drawn.max().max())


def _widened(figure: go.Figure, low: float, high: float) -> go.Figure:
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        figure.update_yaxes(range=[middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2])
    return figure
