"""One report, shown on a terminal, in Markdown, as a page in a browser and as files."""

import io
import json
import re

import pandas as pd
import plotly.graph_objects as go
import pytest
from rich.console import Console

from analysis.document import (
    Bullets,
    Cell,
    Code,
    Facts,
    Figure,
    Fold,
    Panel,
    Paragraph,
    Report,
    Section,
    Settings,
    Switches,
    Table,
    Where,
    html,
    markdown,
    print_report,
    save_report,
    table_of,
)
from probes.shown import Table as PlainTable
from probes.shown import print_tables
from tests.browser import asked, opened, overflow, wait, written

NASTY = "</script><script>document.title='gone'</script>&<img src=x>"


def drawing(**trace):
    return go.Figure(go.Scatter(x=[1, 2, 3], y=[2.0, 3.0, 5.0], **trace))


def plots_of(section):
    """Headings of the panels of a section; every one of them draws something."""
    panels = [panel for part in section.parts for panel in getattr(part, "panels", ())]
    assert all(panel.plot.data for panel in panels)
    return [panel.heading for panel in panels]


def usual_report(name="tiny"):
    rows = [(name, Cell("5.25", "[4.00, 6.50]"), "", "a|b"), ("next-token entropy", "7", "", "c")]
    header = ("", "a value", "nothing", "a very-long-heading of three words")
    sums = Table.of_rows("Sums", header, rows, note="In nats.", where=Where.EVERYWHERE)
    keyed = drawing(name="seed 0", meta={"keys": ["seed 0"]})
    return Report(
        title=f"About {name}",
        heading=("About ", name),
        deck="Two numbers.",
        findings=["2 < 3", f"{name} is a name"],
        definitions=[Paragraph("A sum", " is what it is."), "And so on."],
        command=f"python -m analysis.report '{name}'",
        provenance={"model": name},
        runs={"all": ["python -m training.ckl"]},
        has_contents=True,
        sections=[
            Section(
                "Numbers",
                [
                    f"Of {name}.",
                    sums,
                    Switches({"Seeds": {"seed 0": "#3d6fb4", "seed 1": None}, "One": {"x": None}}),
                    Figure(title="A line.", caption="It rises.", panels=[Panel(keyed, name)] * 2),
                    Table.of_rows("Page only", ("", "x"), [("y", "z")], where=Where.PAGE),
                    Table.of_rows("Empty", ("", "x"), []),
                ],
                anchor="numbers",
            ),
            Section(
                "More",
                [
                    Fold(
                        "Long",
                        [Table.of_rows("Long", ("", "x"), [(str(i), "1") for i in range(9)])],
                    ),
                    Bullets([name]),
                    Facts({"hash": name}),
                    Code(name),
                    Settings({"name": name}),
                    Figure(title="Wide.", caption="", panels=[Panel(drawing())], is_wide=True),
                ],
                anchor="more",
            ),
        ],
    )


def test_markdown_has_every_table_with_rows_and_escapes_bars():
    lines = markdown(usual_report()).splitlines()
    assert lines[:5] == [
        "# About tiny",
        "",
        "Two numbers.",
        "",
        "    python -m analysis.report 'tiny'",
    ]
    assert "| tiny | 5.25 [4.00, 6.50] |  | a\\|b |" in lines
    assert [line for line in lines if line.startswith("## ")] == [
        "## Sums",
        "## Long",
        "## The runs",
    ]
    assert "- **A sum** is what it is." in lines


def test_a_terminal_shows_brief_tables_and_findings():
    console = Console(file=io.StringIO(), width=120)
    print_report(usual_report("a [b] name"), console)
    text = console.file.getvalue()
    assert "5.25 [4.00, 6.50]" in text
    assert "- a [b] name is a name" in text
    assert "Long" not in text
    assert "Page only" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_cuts_no_number(width):
    header = ("arm", "A of passages met, last injection", "held out, last injection", "F, end")
    rows = (("unedited", "48.4% [44.3%, 52.1%]", "14.5% [13.0%, 16.0%]", "-8.3% [-20.0%, 1.7%]"),)
    console = Console(width=width, file=io.StringIO())
    print_tables([PlainTable(title="Scores", header=header, rows=rows)], console=console)
    shown = console.file.getvalue()
    assert all(word in shown.split() for cell in (*header, *rows[0]) for word in cell.split())
    assert max(map(len, shown.splitlines())) <= width


def test_columns_that_are_empty_throughout_can_be_left_out():
    table = next(iter(usual_report().sections[0].parts[1:2]))
    assert table.without_empty().header == ("", "a value", "a very-long-heading of three words")


def test_a_table_of_a_frame_is_texts_of_its_rows():
    frame = pd.DataFrame(
        {"name": ["a", "b"], "value": [0.25, 0.5], "low": [0.1, None], "high": 0.4}
    )
    columns = {"name": "{name}", "share of all": "{value:share~}", "raw": "{value:.3f}", "none": ""}
    table = table_of("Shares", frame, columns, note="All.")
    assert table.header == ("name", "share of all", "raw")
    assert table.rows == (("a", "25.0% [10.0%, 40.0%]", "0.250"), ("b", "50.0%", "0.500"))


def test_files_of_a_report_agree(tmp_path, capsys):
    tables = {"tables/sums": pd.DataFrame({"a": [1]})}
    save_report(usual_report(), tmp_path, "sums", content={"a": 1.5}, tables=tables)
    assert json.loads((tmp_path / "sums.json").read_text()) == {"a": 1.5}
    assert (tmp_path / "tables" / "sums.csv").read_text() == "a\n1\n"
    assert capsys.readouterr().out.rstrip().endswith(f"page: {tmp_path / 'sums.html'}")
    with pytest.raises(ValueError, match="a is nan, which is no number"):
        save_report(usual_report(), tmp_path, "sums", content={"a": float("nan")}, tables={})


def test_plots_and_scripts_cannot_be_ended_by_a_name():
    page, plain = html(usual_report(NASTY)), html(usual_report())
    assert NASTY not in page
    assert page.count("<script") == plain.count("<script")
    data = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert [len(json.loads(found)["data"]) for found in data] == [1, 1, 1]


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_in_a_browser(driver, tmp_path, width):
    address = written(tmp_path, html(usual_report(NASTY)))
    assert opened(driver, address, width) == 3
    assert driver.title == f"About {NASTY}"
    assert asked(driver) == {address}
    assert driver.get_log("browser") == []
    assert overflow(driver) == 0
    drawn = "return document.querySelectorAll('#numbers .scatterlayer .trace').length"
    assert driver.execute_script(drawn) == 2
    driver.find_element("css selector", '[data-key="seed 0"]').click()
    wait(driver, f"{drawn} === 0")
