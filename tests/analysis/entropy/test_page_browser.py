"""The page in a real browser: no error, no request, every figure drawn, on any width and theme."""

import pytest

from tests.analysis.entropy.test_trajectory import measured
from tests.analysis.results import entropy_page, make_result, trajectory_page
from tests.browser import asked, opened, overflow, prefer, wait, written

pytestmark = pytest.mark.browser

PLOTS = 7
NASTY = "<script>document.title='gone'</script> %{x}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page that compares two corpora, one of them with a hostile name."""
    results = [make_result("general", n_layers=23), make_result(NASTY, seed=1, n_layers=23)]
    return written(tmp_path_factory.mktemp("page"), entropy_page(results))


@pytest.fixture
def page(driver, address):
    """The driver with the page drawn."""
    opened(driver, address)
    yield driver
    driver.execute_script("localStorage.clear()")


def background(driver):
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_every_figure_is_drawn_without_a_request_or_an_error(page, address):
    drawn = page.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "p.querySelectorAll('svg .trace, svg .heatmaplayer image').length)"
    )
    assert len(drawn) == PLOTS
    assert all(drawn)
    # The page itself proves that requests are seen at all.
    assert asked(page) == {address}
    assert page.get_log("browser") == []


def test_hostile_name_is_shown_as_text(page):
    assert page.title == "The entropies of tiny"
    legend = page.execute_script(
        "return [...document.querySelectorAll('.legendtext')].map(t => t.textContent)"
    )
    assert any(text.startswith("<script>") and text.endswith("%{x}") for text in legend)


def test_toggle_changes_the_colours_and_is_remembered(page, address):
    before = background(page)
    page.find_element("id", "theme").click()
    assert background(page) != before
    text = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    dark = page.execute_script(text)
    page.get(address)
    assert background(page) != before
    page.find_element("id", "theme").click()
    assert background(page) == before
    wait(page, f"return document.documentElement.dataset.drawn === '{PLOTS}'")
    assert page.execute_script(text) != dark


def test_the_systems_choice_is_followed(page):
    colours = set()
    for scheme in ("light", "dark"):
        prefer(page, scheme)
        colours.add(background(page))
    prefer(page)
    assert len(colours) == 2


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_overflows_or_overlaps(driver, address, width):
    opened(driver, address, width)
    assert overflow(driver) == 0
    too_wide = driver.execute_script(
        "return [...document.querySelectorAll('.plot .main-svg')]"
        f".filter(svg => svg.getBoundingClientRect().right > {width}).length"
    )
    assert too_wide == 0
    overlaps = driver.execute_script("""
        const box = (plot, part) => plot.querySelector(part)?.getBoundingClientRect();
        return [...document.querySelectorAll('.plot')].filter(plot => {
            const legend = box(plot, '.legend'), title = box(plot, '.x2title');
            return legend && title && legend.bottom > title.top;
        }).length""")
    assert overlaps == 0


def test_pointing_at_a_layer_picks_out_its_line(page):
    page.execute_script("""
        const plot = document.querySelector('.plot');
        plot.emit('plotly_hover', {points: [{data: plot.data[0], y: 3}]});""")
    lit = "return document.querySelectorAll('.plot .trace.lit').length"
    faded = "return document.querySelectorAll('.plot .trace.faded').length"
    assert page.execute_script(lit) == 2
    assert page.execute_script(faded) == 2 * 22
    page.execute_script("document.querySelector('.plot').emit('plotly_unhover', {points: []})")
    assert page.execute_script(lit) == 0
    assert page.execute_script(faded) == 0


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_of_a_trajectory_holds_up_too(driver, tmp_path, width):
    address = written(tmp_path, trajectory_page(measured(steps=(8, 64, None))))
    plots = opened(driver, address, width)
    assert plots == 6, "two ways to weigh, two corpora by layer, attention, next token"
    assert asked(driver) == {address}
    assert driver.get_log("browser") == []
    assert overflow(driver) == 0
