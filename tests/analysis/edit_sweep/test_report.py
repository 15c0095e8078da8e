"""Figures, findings and report of an edit sweep, from numbers made up by hand."""

from dataclasses import replace
from math import exp, log

import pytest

from analysis.document import markdown
from analysis.edit_measures import EditRow, EditSetting, EditSweep, HeldOut
from analysis.edit_sweep_page import (
    edit_report,
    entropy_changes,
    findings,
    losses,
    series,
    trade_off,
)
from interventions.choices import ResuscitationSite
from tests.analysis.results import make_result

BEFORE = {
    "knowledge_entropy": 200.0,
    "contribution_entropy": 201.0,
    "attention_entropy": 50.0,
    "next_token_entropy": 3.25,
    "loss": 3.0,
    "held_out_loss": 4.0,
    "held_out_perplexity": exp(4.0),
}


def moved(knowledge=0.0, contribution=0.0, attention=0.0, loss=0.0):
    """Totals after an edit that moves some of them."""
    after = dict(BEFORE)
    after["knowledge_entropy"] += knowledge
    after["contribution_entropy"] += contribution
    after["attention_entropy"] += attention
    after["loss"] += loss
    after["held_out_loss"] += loss
    after["held_out_perplexity"] = exp(after["held_out_loss"])
    return after


def edit_row(after, predicted=None, *, refused=None, **setting):
    if site := setting.get("site"):
        setting["site"] = ResuscitationSite(site)
    predicted = (
        {}
        if predicted is None
        else {
            "knowledge_entropy": 200.0 + predicted,
            "contribution_entropy": 201.0 + predicted,
        }
    )
    return EditRow(EditSetting(**setting), predicted, after, 1234 if site else None, refused)


def sweep_of(*rows, model="tiny"):
    result = make_result(model=model)
    settings = result.provenance.configuration | {"layout": "packed", "sequence_length": 256}
    result = replace(result, provenance=replace(result.provenance, configuration=settings))
    return EditSweep(result, HeldOut("general (1 of 5)", "ef" * 32, 11, 6007), BEFORE, rows)


def usual_sweep(model="tiny"):
    rows = [
        edit_row(moved(-2.5, -2.0, loss=0.35), -1.5, site="up", ratio=0.5, factor=0.5),
        edit_row(moved(1.5, 1.0, loss=0.6), 1.75, site="up", ratio=0.5, factor=1.0),
        edit_row(moved(1.25, 0.5, loss=6.0), 1.75, site="up", ratio=0.5, factor=2.0),
        edit_row({}, 1.0, refused="loss is nan", site="up", ratio=0.5, factor=3.0),
        edit_row(moved(1.0, 0.75, loss=0.4), 1.25, site="up", ratio=0.3, factor=1.0),
        edit_row(moved(0.05, 0.5, loss=6.0), 0, site="down", ratio=0.5, factor=2.0),
        edit_row(moved(1.75, 1e-8, loss=2e-7), 1.75, site="preserving", ratio=0.5, factor=2.0),
        edit_row(moved(-1.5, 0, loss=-3e-7), -1.5, site="preserving", ratio=0.5, factor=0.5),
        edit_row(moved(0.5, 0.4, attention=7.25, loss=1.5), temperature=1.5),
        edit_row(moved(0.75, 0.6, attention=9.25, loss=2.5), temperature=2.0),
    ]
    return sweep_of(*rows, model=model)


def test_a_series_is_in_order_and_without_refused_edits():
    table = usual_sweep().table.iloc[::-1]
    assert series(table, "up", "factor")["factor"].tolist() == [0.5, 1.0, 2.0]
    assert series(table, "up", "ratio")["ratio"].tolist() == [0.3, 0.5]
    assert series(table, "gate", "ratio").empty
    assert series(table, "temperature", "temperature")["temperature"].tolist() == [1.5, 2.0]


def test_figures_draw_changes_of_entropies_and_losses_as_they_are():
    rows = series(usual_sweep().table, "up", "factor")
    drawn = {trace.name: trace for trace in entropy_changes(rows, "factor").data}
    assert list(drawn["knowledge"].x) == [0.5, 1.0, 2.0]
    assert list(drawn["knowledge"].y) == [-2.5, 1.5, 1.25]
    assert list(drawn["knowledge, predicted"].y) == [-1.5, 1.75, 1.75]
    assert list(drawn["contribution"].y) == [-2.0, 1.0, 0.5]
    assert drawn["contribution, predicted"].marker.symbol == "circle-open"
    assert drawn["contribution"].marker.symbol == "circle"
    figure = losses(rows, "factor")
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn["held-out text"].y) == [4.35, 4.6, 10.0]
    assert list(drawn["the same text"].y) == [3.35, 3.6, 9.0]
    assert sorted(line.y0 for line in figure.layout.shapes) == [3.0, 4.0]
    assert figure.layout.yaxis.range is None


def test_temperatures_are_drawn_without_predictions():
    rows = series(usual_sweep().table, "temperature", "temperature")
    drawn = {trace.name: trace for trace in entropy_changes(rows, "temperature").data}
    assert {"attention", "next-token"} <= drawn.keys()
    assert not any("predicted" in name for name in drawn)
    assert list(drawn["attention"].y) == [7.25, 9.25]


def test_the_trade_off_has_a_mark_for_every_edit_that_was_made():
    drawn = {trace.name: trace for trace in trade_off(usual_sweep().table).data}
    assert list(drawn) == ["up", "down", "preserving", "temperature"]
    assert list(drawn["up"].x) == [-2.5, 1.5, 1.25, 1.0]
    assert list(drawn["up"].y) == pytest.approx([0.35, 0.6, 6.0, 0.4])
    assert list(drawn["temperature"].x) == [0.5, 0.75]
    symbols = {trace.marker.symbol for trace in drawn.values()}
    assert len(symbols) == 4


def test_rounding_is_not_drawn_as_a_mountain_range():
    alike = BEFORE | {"loss": 4.0}
    rows = [
        edit_row(alike | {"loss": 4 + change}, 0, site="preserving", ratio=0.5, factor=factor)
        for factor, change in ((1.0, 1e-7), (2.0, -1e-7))
    ]
    sweep = replace(sweep_of(*rows), before=alike)
    axis = losses(series(sweep.table, "preserving", "factor"), "factor").layout.yaxis
    assert axis.range == pytest.approx((3.9, 4.1), abs=1e-6)
    axis = trade_off(sweep.table).layout.yaxis
    assert axis.range == pytest.approx((-0.1, 0.1), abs=1e-6)
    assert trade_off(usual_sweep().table).layout.yaxis.range is None


def test_findings_say_what_the_numbers_are():
    found = findings(usual_sweep())
    share = make_result().knowledge
    assert found[0].startswith(f"Unedited: knowledge entropy {share.total:.2f} nats, ")
    assert found[0].endswith(f"a loss of 4.000 nats per token, a perplexity of {exp(4):.1f}.")
    # e to the power of 6 is 403.
    assert found[1] == (
        "The paper's edit, up rows at ratio 0.5 and factor 2, moves knowledge entropy by +1.25 "
        "nats (predicted +1.75) and the held-out loss from 4.000 to 10.000: the perplexity is 403 "
        "times what it was, which damages the model before any training."
    )
    assert found[2].startswith(
        "Site preserving moves knowledge entropy, by \N{MINUS SIGN}1.50 to +1.75 nats, without "
        "changing what the model computes: the held-out loss moves by less than 1e-06 nats and "
        "contribution entropy by less than 1e-06."
    )
    assert found[3] == (
        "Sites up and down make the same change of the model in other rows: their losses differ by "
        "less than 1e-06 nats and their contribution entropies by less than 1e-06, their knowledge "
        "entropies by up to 1.20."
    )
    assert found[4].endswith(": 1 of 4 at up, 1 of 1 at down, 0 of 2 at preserving.")
    assert found[5] == (
        "2 of 7 resuscitations lower knowledge entropy instead of raising it: up, ratio 0.5, "
        "factor 0.5; preserving, ratio 0.5, factor 0.5."
    )
    assert found[6] == (
        "Attention temperature 2, the highest, moves attention entropy by +9.25 nats, knowledge "
        "entropy by +0.75 and the held-out loss by +2.50."
    )
    assert found[7:] == ["Refused, up, ratio 0.5, factor 3: loss is nan."]


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        (0.0005, ": the model predicts as before."),
        (-0.5, ": the perplexity is 0.607 times what it was."),
        (log(1.98), ": the perplexity is 1.98 times what it was."),
        (log(2.02), ": the perplexity is 2.02 times what it was, which damages the model"),
        # The made-up vocabulary has exp(10.8) tokens.
        (6.9, "before any training, and worse than guessing all tokens alike (10.80)."),
        (800.0, "worse than guessing"),
    ],
)
def test_the_verdict_on_the_papers_edit_is_measured(loss, verdict):
    after = moved(1.0) | {"held_out_loss": 4.0 + loss}
    row = edit_row(after, 1.0, site="up", ratio=0.5, factor=2.0)
    assert verdict in findings(sweep_of(row))[1]


def test_what_was_not_found_is_not_said():
    # An edit called preserving that does harm; up and down that are not one function.
    rows = [
        edit_row(moved(1.0, 0.5, loss=0.7), 1.0, site="preserving", ratio=0.5, factor=2.0),
        edit_row(moved(1.0, 0.5, loss=0.7), 1.0, site="up", ratio=0.3, factor=1.0),
        edit_row(moved(1.0, 0.5, loss=0.8), 1.0, site="down", ratio=0.3, factor=1.0),
    ]
    text = " ".join(findings(sweep_of(*rows)))
    for absent in ("paper's", "without changing", "the same change", "lower", "Attention", "Refus"):
        assert absent not in text
    assert "1 of 1 at preserving, 1 of 1 at up, 1 of 1 at down" in text


def test_half_precision_rounds_more():
    row = edit_row(moved(1.5, 1e-3, loss=0.004), 1.5, site="preserving", ratio=0.5, factor=2.0)
    sweep = sweep_of(row)
    assert "without changing" not in " ".join(findings(sweep))
    origin = replace(sweep.result.provenance, dtype="bfloat16")
    half = replace(sweep, result=replace(sweep.result, provenance=origin))
    assert (
        "Site preserving moves knowledge entropy, by +1.50 nats, without changing what the model "
        "computes: the held-out loss moves by less than 0.01 nats"
    ) in " ".join(findings(half))


def test_many_edits_that_lower_the_entropy_are_counted_by_site():
    rows = [
        edit_row(moved(-1.0), -1.0, site=site, ratio=ratio, factor=1.0)
        for site, ratios in (("up", (0.3, 0.5, 0.7)), ("gate", (0.3, 0.5)))
        for ratio in ratios
    ]
    assert "5 of 5 resuscitations lower knowledge entropy instead of raising it: 3 at up, 2 at" in (
        " ".join(findings(sweep_of(*rows)))
    )


def test_the_document_has_every_number_in_its_place():
    sweep = usual_sweep()
    report = edit_report(sweep, "python -m analysis.edit_sweep")
    lines = markdown(report).splitlines()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| " in line
    ]
    table = table[-2 - len(sweep.rows) - 1 :]
    assert table[0][:6] == [
        "edit",
        "neurons scaled",
        *("knowledge, predicted", "knowledge, after"),
        *("contribution, predicted", "contribution, after"),
    ]
    assert table[2] == (
        ["unedited", "", "", "200.000", "", "201.000", "50.000", "3.250", "3.000", "4.000", "54.6"]
    )
    assert table[5] == [
        *("up, ratio 0.5, factor 2", "1,234", "201.750", "201.250", "202.750", "201.500"),
        *("50.000", "3.250", "9.000", "10.000", "22,026"),
    ]
    assert table[6] == ["up, ratio 0.5, factor 3 (refused)", "1,234", "201.000", "", "202.000"] + (
        [""] * 6
    )
    assert table[-1][:4] == ["temperature 2", "", "", "200.750"]
    assert {len(row) for row in table} == {11}
    for sentence in report.findings:
        assert f"- {sentence}" in lines


def test_the_page_has_a_section_for_every_site():
    report = edit_report(usual_sweep(), "python -m analysis.edit_sweep")
    assert [section.heading for section in report.sections] == [
        "What edits do, and what they cost",
        *(f"Resuscitation at site {site}" for site in ("up", "down", "preserving")),
        "Attention temperature",
        "Provenance",
    ]
    numbers = report.sections[1].parts[1]
    assert str(numbers.rows[3][2]) == "201.250 predicted 201.750"
    assert "6,007 tokens of 11 documents of general (1 of 5)" in report.provenance["held out"]
