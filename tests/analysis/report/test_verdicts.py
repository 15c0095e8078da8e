"""The ledger on the page: counts, rows, links, and files that are no ledger."""

import json
import re

import pytest

from analysis.claims.choices import Anchor
from analysis.claims.ledger import read_ledger
from analysis.document import Report, html
from analysis.report.page import ledger_part
from tests.analysis.report import planted
from tests.analysis.report.drawn import plots


@pytest.fixture
def ledger(tmp_path):
    return read_ledger(planted.write_ledger(tmp_path / "ledger"))


@pytest.fixture
def markup(ledger):
    part = ledger_part(ledger, {Anchor.TRAJECTORIES, Anchor.MEMORIZATION})
    return html(Report(title="Ledger", sections=[part.section])).replace("\n", "")


def rows_of(markup):
    """By claim, the row's markup."""
    return dict(re.findall(r'<tbody data-row="[^"]*" id="([^"]*)">(.*?)</tbody>', markup))


def test_tiles_count_verdicts(markup):
    tiles = re.findall(r'data-filter="([^"]*)"[^>]*><b>(\d+)</b>', markup)
    verdicts = ["supported", "contradicted", "inconclusive", "answered", "not tested at this scale"]
    assert tiles == [(verdict, "1") for verdict in verdicts]


def test_rows_have_the_numbers_of_their_verdict(markup):
    rows = rows_of(markup)
    supported, contradicted = rows["entropy-falls"], rows["resuscitation-helps-acquisition"]
    assert (
        "\N{MINUS SIGN}2.500 nats<small>(\N{MINUS SIGN}3.000 to \N{MINUS SIGN}2.000)</small>"
        in supported
    )
    assert "<td>0.001</td><td>5</td><td>3</td>" in supported
    assert "✓ supported" in supported
    # What contradicts has the p-value of the other direction.
    assert "+12.5 points<small>(+10.0 to +15.0)</small>" in contradicted
    assert "<td>&lt; 0.001</td>" in contradicted
    assert "<td></td><td></td><td></td><td></td>" in rows["mix-ratio-matters-less-at-a"]


def test_rows_unfold_to_everything_else(markup):
    row = rows_of(markup)["entropy-falls"]
    for text in ("All of it.", "change along the line (nats)", "t-test over 3 seeds"):
        assert text in row
    assert "doubt &lt;script&gt;" in row
    assert planted.NASTY not in markup
    assert 'id="claim-entropy-falls"' in row
    assert 'aria-controls="claim-entropy-falls"' in row


def test_links_lead_to_what_is_drawn_only(markup):
    rows = rows_of(markup)
    assert 'href="#trajectories"' in rows["entropy-falls"]
    # Amounts of mixing are not drawn here, but the part that they belong to is.
    assert 'href="#memorization"' in rows["mix-ratio-matters-less-at-a"]
    assert "href" not in rows["resuscitation-helps-acquisition"]
    assert "href" not in rows["adam-and-coefficients"]


def test_effects_are_drawn_by_their_unit(ledger):
    nats, share, correlation = plots(ledger_part(ledger, set()).pieces)
    assert [t["x"] for t in nats["data"]] == [[-2.5]]
    assert nats["data"][0]["error_x"]["array"] == [0.5]
    assert [t["x"] for t in share["data"]] == [[0.125], [-2.5]]
    assert len(correlation["data"]) == 1


def test_the_head_of_the_page_counts(ledger):
    first, second, third = ledger_part(ledger, set()).findings
    assert first == (
        "Of 5 claims and questions, 4 could be tested at the scale smoke: 1 supported, 1 "
        "contradicted, 1 inconclusive, 1 answered."
    )
    assert second == (
        "Contradicted most clearly: statement of resuscitation-helps-acquisition (+12.5 points, "
        "+10.0 points to +15.0 points; p < 0.001)."
    )
    assert third.startswith("Supported most clearly: statement of entropy-falls")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda told: told.pop("scale"), "found no 'scale'"),
        (lambda told: told["claims"][1].pop("verdict"), "found no 'verdict'"),
        (lambda told: told["claims"][2].update(verdict="true"), "'true' is not a valid Verdict"),
    ],
)
def test_a_ledger_of_another_version_is_refused(tmp_path, change, answer):
    told = planted.ledger()
    change(told)
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=answer):
        read_ledger(tmp_path)
