"""The page in a real browser: quiet, offline, and its switches, filters and links do what they say."""

import base64

import pytest

from analysis.document import html
from analysis.report.page import page_report
from tests import browser
from tests.analysis.report import planted
from tests.browser import resize, wait

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    report, _ = page_report(planted.material(root / "results"), planted.NASTY, "a command")
    return browser.written(root, html(report))


@pytest.fixture(scope="module")
def opened(driver, address):
    """The driver with the page drawn, once for all tests; each leaves it as it was."""
    browser.opened(driver, address, 1280, 900)
    return driver


def shown(opened, key):
    """How many traces of a key are drawn, by section."""
    return opened.execute_script(
        """
        const found = {};
        for (const section of document.querySelectorAll('section'))
          for (const plot of section.querySelectorAll('.plot'))
            found[section.id] = (found[section.id] ?? 0) + plot._fullData.filter(
              (t) => (t.meta?.keys ?? []).includes(arguments[0]) && t.visible === true).length;
        return found;""",
        key,
    )


def button(opened, section, key):
    found = opened.find_elements("css selector", f"#{section} button[data-key]")
    return next(one for one in found if one.get_attribute("data-key") == key)


def press(opened, found):
    opened.execute_script("arguments[0].click()", found)


def test_the_page_makes_no_request_and_no_error(opened, address):
    # The page itself proves that requests are seen at all.
    assert browser.asked(opened) == {address}
    assert opened.get_log("browser") == []
    assert opened.title == planted.NASTY


def test_a_switch_hides_its_series_in_all_figures_of_its_section(opened):
    key = "up, ratio 0.5, factor 2"
    before = shown(opened, key)
    assert before["resuscitation"] > 8
    found = button(opened, "resuscitation", key)
    press(opened, found)
    assert found.get_attribute("aria-pressed") == "false"
    assert shown(opened, key)["resuscitation"] == 0
    assert shown(opened, "random rows")["resuscitation"] > 0
    press(opened, found)
    assert shown(opened, key) == before


def test_a_switch_leaves_other_sections_alone(opened):
    before = shown(opened, "seed 1")
    assert before["trajectories"] > 0
    assert before["updates"] > 0
    found = button(opened, "trajectories", "seed 1")
    press(opened, found)
    after = shown(opened, "seed 1")
    assert after["trajectories"] == 0
    assert after["updates"] == before["updates"]
    press(opened, found)


def test_a_trace_of_two_keys_is_drawn_while_both_are_on(opened):
    series, seed = (button(opened, "trajectories", key) for key in ("plants", "seed 0"))
    before = shown(opened, "plants")["trajectories"]
    press(opened, seed)
    without_seed = shown(opened, "plants")["trajectories"]
    assert 0 < without_seed < before
    press(opened, series)
    press(opened, seed)
    assert shown(opened, "plants")["trajectories"] == 0
    press(opened, series)
    assert shown(opened, "plants")["trajectories"] == before


def test_all_switches_a_group_off_and_on(opened):
    every = opened.find_element("css selector", "#memorization button[data-all]")
    before = shown(opened, "no mixing")["memorization"]
    press(opened, every)
    assert shown(opened, "no mixing")["memorization"] == 0
    press(opened, every)
    assert shown(opened, "no mixing")["memorization"] == before > 0


def visible_rows(opened):
    return opened.execute_script(
        "return [...document.querySelectorAll('tbody[data-row]')]"
        ".filter(row => row.getClientRects().length).map(row => row.id)"
    )


def test_a_tile_filters_the_claims(opened):
    every = visible_rows(opened)
    assert len(every) == 5
    tile = opened.find_element("css selector", "[data-filter='contradicted']")
    press(opened, tile)
    assert visible_rows(opened) == ["resuscitation-helps-acquisition"]
    other = opened.find_element("css selector", "[data-filter='supported']")
    press(opened, other)
    assert visible_rows(opened) == ["entropy-falls"]
    assert tile.get_attribute("aria-pressed") == "false"
    press(opened, other)
    assert visible_rows(opened) == every


def test_a_claim_unfolds_and_folds(opened):
    fold = opened.find_element("css selector", "#entropy-falls .fold")
    more = opened.find_element("id", "claim-entropy-falls")
    assert not more.is_displayed()
    press(opened, fold)
    assert more.is_displayed()
    assert "t-test over 3 seeds" in more.text
    press(opened, fold)
    assert not more.is_displayed()


@pytest.mark.parametrize(
    ("section", "axis", "key", "x", "others"),
    [
        ("trajectories", "pretraining step", "mean over seeds", 300, 3),
        ("encounters", "step", "step 1,100", 20, 2),
    ],
)
def test_pointing_at_a_panel_shows_the_same_place_in_the_others(
    opened, section, axis, key, x, others
):
    labels = f"""
        const texts = () => [...document.querySelectorAll('#{section} .plot')]
          .filter(p => p.layout.meta?.axis === '{axis}')
          .map(p => p.querySelector('.hoverlayer .hovertext')?.textContent ?? '');"""
    plot = f"const plot = document.querySelector('#{section} .plot');"
    opened.execute_script(f"""{plot}
        const curve = plot.data.findIndex(t => t.meta?.keys.includes('{key}'));
        plot.emit('plotly_hover', {{points: [{{data: plot.data[curve], x: {x}}}]}});""")
    wait(opened, f"{labels} return texts().filter(t => t.includes('{x}')).length >= {others}")
    faded = f"return document.querySelectorAll('#{section} .trace.faded').length"
    assert opened.execute_script(faded) > 0
    opened.execute_script(f"{plot} plot.emit('plotly_unhover', {{points: []}})")
    wait(opened, f"{labels} return texts().every(t => t === '')")
    assert opened.execute_script(faded) == 0


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_sideways(opened, width, theme):
    resize(opened, width, 900)
    opened.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
    wait(
        opened,
        "return [...document.querySelectorAll('.plot .main-svg')]"
        f".every(svg => svg.getBoundingClientRect().right <= {width})",
    )
    assert browser.overflow(opened) == 0
    assert opened.execute_script(
        "return [...document.querySelectorAll('.unfolding')].every("
        "t => t.parentElement.classList.contains('scroll'))"
    )
    resize(opened, 1280, 900)


def test_the_page_can_be_printed(opened):
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF-")
    assert opened.get_log("browser") == []
