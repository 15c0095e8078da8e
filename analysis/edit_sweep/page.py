"""The page of an edit sweep: what each edit does to entropies and to the loss, and what it costs.

Example:
    >>> Path("edits.html").write_text(edit_page(sweep, command))             # doctest: +SKIP
"""

from collections.abc import Iterable, Iterator

import pandas as pd

from analysis.edit_sweep import figures
from analysis.edit_sweep.findings import findings
from analysis.edit_sweep.measurements import EditRow, EditSweep
from analysis.edit_sweep.settings import AT_FACTOR, AT_RATIO
from analysis.edit_sweep.tables import (
    HOW_TO_READ,
    MEASURES,
    RESUSCITATION,
    WHAT_SITES_DO,
    cell,
    edit_table,
    texts_and_versions,
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
from analysis.theme import count
from interventions.choices import ResuscitationSite

_SERIES = (
    ("factor", f"by factor, at ratio {AT_RATIO:g}"),
    ("ratio", f"by ratio, at factor {AT_FACTOR:g}"),
)
_SCALED = ("knowledge_entropy", "contribution_entropy")
_WARMED = ("attention_entropy", "next_token_entropy", "knowledge_entropy")
"""Entropies that the figures of resuscitations and of temperatures show."""
_PREDICTED = "Full dots are measured, open ones predicted; "
_UNEDITED = "dotted lines without dots are the unedited model."
_TEMPERATURE = (
    "Attention scores of all layers are divided by the temperature, so that attention spreads more "
    "evenly over tokens."
)


def edit_page(sweep: EditSweep, command: str) -> str:
    """The whole page, as one HTML document.

    Args:
        sweep: the measurements.
        command: that made them.
    """
    tidy, origin = edit_table(sweep), sweep.result.provenance
    body = [
        bullets(findings(sweep), class_="findings"),
        _trade_off(tidy),
        section("How to read the numbers", paragraph(HOW_TO_READ), paragraph(RESUSCITATION)),
        *(_site_section(sweep, tidy, site) for site in _sites(sweep)),
        *_temperature_section(sweep, tidy),
        section(
            "Provenance",
            paragraph(element("code", command)),
            definitions(texts_and_versions(sweep)),
            details("All settings and hashes", as_json(origin.__dict__)),
        ),
    ]
    return page(
        f"What edits do to {origin.model}",
        body,
        heading=joined(["What edits do to ", whole(origin.model)]),
        kicker="mnemoscope · edits",
        deck=f"{len(sweep.rows)} edits, each measured on {count(origin.tokens)} tokens of "
        f"{origin.corpus or 'text in memory'}, and on {count(sweep.held_out.tokens)} of held-out "
        "text.",
    )


def _trade_off(tidy: pd.DataFrame) -> Html:
    return figure(
        "What edits do, and what they cost.",
        "Every mark is an edit: to the right, knowledge entropy rises; upwards, held-out text is "
        "predicted worse. On the dotted line across, the model predicts as well as it did.",
        [Panel(figures.trade_off(tidy))],
    )


def _sites(sweep: EditSweep) -> Iterable[ResuscitationSite]:
    return dict.fromkeys(row.setting.site for row in sweep.rows if row.setting.site is not None)


def _site_section(sweep: EditSweep, tidy: pd.DataFrame, site: ResuscitationSite) -> Html:
    edits = [row for row in sweep.rows if row.setting.site is site]
    drawn = (
        _series_figure(f"Resuscitation at site {site}, {heading}.", rows, varies, _SCALED)
        for varies, heading in _SERIES
        if not (rows := figures.series(tidy, site, varies)).empty
    )
    return section(
        f"Resuscitation at site {site}",
        paragraph(f"{WHAT_SITES_DO[site][0].upper()}{WHAT_SITES_DO[site][1:]}"),
        _numbers(sweep, edits, f"Site {site}"),
        *drawn,
    )


def _temperature_section(sweep: EditSweep, tidy: pd.DataFrame) -> Iterator[Html]:
    edits = [row for row in sweep.rows if row.setting.temperature is not None]
    if not edits:
        return
    rows = figures.series(tidy, None, "temperature")
    title = "Attention temperature."
    yield section(
        "Attention temperature",
        paragraph(_TEMPERATURE),
        _numbers(sweep, edits, "Attention temperature"),
        Html() if rows.empty else _series_figure(title, rows, "temperature", _WARMED),
    )


def _numbers(sweep: EditSweep, rows: list[EditRow], caption: str) -> Html:
    """The unedited model, then every edit; what is predicted stands below what was measured."""
    scaled = any(row.neurons is not None for row in rows)
    return table(
        ["", *map(_unbroken, [*(["neurons"] if scaled else []), *MEASURES.values()])],
        [_cells(row, scaled=scaled) for row in (sweep.unedited, *rows)],
        caption=f"{caption}: entropies and losses after the edit, in nats",
    )


def _cells(row: EditRow, *, scaled: bool) -> list[str | Cell]:
    measured = [
        Cell(
            cell(name, row.after.get(name)),
            f"predicted {cell(name, row.predicted[name])}" if name in row.predicted else None,
        )
        for name in MEASURES
    ]
    neurons = "" if row.neurons is None else count(row.neurons)
    return [_name(row), *([neurons] if scaled else []), *measured]


def _name(row: EditRow) -> Cell:
    """What tells a row from the others of its table."""
    label = row.setting.label.removeprefix(f"{row.setting.site}, ")
    first, _, second = label.partition(", ")
    notes = [note for note in (second, "refused" if row.refused else "") if note]
    return Cell(_unbroken(first), _unbroken(", ".join(notes)) if notes else None)


def _unbroken(text: str) -> Html:
    return element("span", text, style="white-space:nowrap")


def _series_figure(title: str, rows: pd.DataFrame, varies: str, measures: tuple[str, ...]) -> Html:
    has_prediction = rows["knowledge_entropy_predicted"].notna().any()
    caption = f"{_PREDICTED}{_UNEDITED}" if has_prediction else _UNEDITED.capitalize()
    panels = [
        Panel(figures.entropy_changes(rows, varies, measures), "entropies"),
        Panel(figures.losses(rows, varies), "loss"),
    ]
    return figure(title, caption, panels)
