"""The page in a real browser: no error, no request, every figure drawn, on any width and theme."""

import json

import pytest

from tests.analysis.results import entropy_page, make_result
from tests.browser import resize, wait

pytestmark = pytest.mark.browser

PLOTS = 7
NASTY = "<script>document.title='gone'</script> %{x}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page that compares two corpora, one of them with a hostile name."""
    results = [make_result("general", n_layers=23), make_result(NASTY, seed=1, n_layers=23)]
    path = tmp_path_factory.mktemp("page") / "entropy.html"
    path.write_text(entropy_page(results), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(driver, address):
    """The driver with the page drawn; logs begin at the page."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    resize(driver, 1400, 1000)
    driver.get(address)
    wait(driver, f"return document.documentElement.dataset.drawn === '{PLOTS}'")
    yield driver
    driver.execute_script("localStorage.clear()")


def background(driver):
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_page_makes_no_request_and_no_error(opened, address):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    # The page itself proves that requests are seen at all.
    assert address in asked
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert opened.get_log("browser") == []


def test_every_figure_is_drawn(opened):
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "p.querySelectorAll('svg .trace, svg .heatmaplayer image').length)"
    )
    assert len(drawn) == PLOTS
    assert all(drawn)


def test_hostile_name_is_shown_as_text(opened):
    assert opened.title == "The entropies of tiny"
    legend = opened.execute_script(
        "return [...document.querySelectorAll('.legendtext')].map(t => t.textContent)"
    )
    assert any(text.startswith("<script>") and text.endswith("%{x}") for text in legend)


def test_toggle_changes_the_colours_and_is_remembered(opened, address):
    before = background(opened)
    opened.find_element("id", "theme").click()
    assert background(opened) != before
    text = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    dark = opened.execute_script(text)
    opened.get(address)
    assert background(opened) != before
    opened.find_element("id", "theme").click()
    assert background(opened) == before
    wait(opened, f"return document.documentElement.dataset.drawn === '{PLOTS}'")
    assert opened.execute_script(text) != dark


def test_the_systems_choice_is_followed(opened):
    colours = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours.add(background(opened))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(colours) == 2


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_overflows_sideways(opened, address, width):
    resize(opened, width, 900)
    opened.get(address)
    wait(opened, f"return document.documentElement.dataset.drawn === '{PLOTS}'")
    hidden = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert opened.execute_script(hidden) == 0
    too_wide = opened.execute_script(
        "return [...document.querySelectorAll('.plot .main-svg')]"
        f".filter(svg => svg.getBoundingClientRect().right > {width}).length"
    )
    assert too_wide == 0


@pytest.mark.parametrize("width", [400, 1400])
def test_axis_titles_and_legends_do_not_overlap(opened, address, width):
    resize(opened, width, 900)
    opened.get(address)
    wait(opened, f"return document.documentElement.dataset.drawn === '{PLOTS}'")
    overlaps = opened.execute_script("""
        const box = (plot, part) => plot.querySelector(part)?.getBoundingClientRect();
        return [...document.querySelectorAll('.plot')].filter(plot => {
            const legend = box(plot, '.legend'), title = box(plot, '.x2title');
            return legend && title && legend.bottom > title.top;
        }).length""")
    assert overlaps == 0


def test_pointing_at_a_layer_picks_out_its_line(opened):
    opened.execute_script("""
        const plot = document.querySelector('.plot');
        plot.emit('plotly_hover', {points: [{data: plot.data[0], y: 3}]});""")
    lit = "return document.querySelectorAll('.plot .trace.lit').length"
    faded = "return document.querySelectorAll('.plot .trace.faded').length"
    assert opened.execute_script(lit) == 2
    assert opened.execute_script(faded) == 2 * 22
    opened.execute_script("document.querySelector('.plot').emit('plotly_unhover', {points: []})")
    assert opened.execute_script(lit) == 0
    assert opened.execute_script(faded) == 0


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_of_a_trajectory_holds_up_too(driver, tmp_path, width):
    from tests.analysis.entropy.test_trajectory import measured
    from tests.analysis.results import trajectory_page

    page = tmp_path / "trajectory.html"
    page.write_text(trajectory_page(measured(steps=(8, 64, None))), encoding="utf-8")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    resize(driver, width, 900)
    driver.get(page.as_uri())
    plots = driver.execute_script("return document.querySelectorAll('.plot').length")
    wait(driver, f"return document.documentElement.dataset.drawn === '{plots}'")
    assert plots == 6, "two ways to weigh, two corpora by layer, attention, next token"
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert driver.get_log("browser") == []
    hidden = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert driver.execute_script(hidden) == 0
