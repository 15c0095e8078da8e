"""The lens page in a real browser: its switches, its card, its list, on any width and theme."""

import math

import pytest

from analysis.numbers import visible
from tests.analysis.lens_results import lens_page, make_lens
from tests.browser import asked, opened, overflow, prefer, wait, written

pytestmark = pytest.mark.browser

NASTY = "<script>document.title='gone'</script> %{x} <img src=x onerror=alert(1)>"
NAMES = {token: NASTY for token in range(0, 211, 3)}
PROMPTS = ("The capital of France is", "The tower of Pisa leans in", NASTY)
TARGETS = (" Paris", " Italy", "<b>x</b>")
CELLS = "document.querySelectorAll('#lens td.cell')"
READY = "return document.getElementById('lens').dataset.item === '0'"


def results():
    """Two models, of which the first has hostile tokens; three items with eleven tokens and more."""
    common = {"length": 11, "prompts": PROMPTS, "targets": TARGETS, "top_k": 5}
    return [
        make_lens(**common, n_layers=7, vocabulary=NAMES, controls=("shuffled",)),
        make_lens(**common, n_layers=5, model="other"),
    ]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), lens_page(results()))


@pytest.fixture
def page(driver, address):
    """The driver with the page drawn."""
    assert opened(driver, address) == 4
    wait(driver, READY)
    yield driver
    assert driver.get_log("browser") == []


def run(driver, script, *arguments):
    return driver.execute_script(script, *arguments)


def point_at(driver, index):
    """Move the mouse over a cell."""
    from selenium.webdriver import ActionChains

    cell = run(
        driver, f"const c = {CELLS}[{index}]; c.scrollIntoView({{block: 'center'}}); return c"
    )
    ActionChains(driver).move_to_element(cell).perform()


def test_the_page_asks_the_network_for_nothing(page, address):
    assert asked(page) == {address}
    assert page.title == "Where tiny and other find the answer"


def test_layer_0_is_at_the_bottom_and_the_last_position_is_shown(page):
    layers = run(
        page,
        "return [...document.querySelectorAll('#lens table')].map(t => "
        "[...t.tBodies[0].rows].map(r => r.cells[0].textContent))",
    )
    assert layers == [[str(i) for i in reversed(range(n))] for n in (7, 5)]
    shown = "return [...document.querySelectorAll('.grid-scroll')].map(s => s.scrollWidth - s.clientWidth - s.scrollLeft)"
    assert all(left < 1 for left in run(page, shown))


def test_cells_show_the_most_likely_token_as_text(page):
    first = results()[0]
    texts = run(page, f"return [...{CELLS}].slice(0, 11).map(c => c.textContent)")
    best = first.per_token.readout.top_ids[-1, :11, 0].tolist()
    assert texts == [visible(first.text(token)) for token in best]
    assert any(
        "<script>" in text for text in run(page, f"return [...{CELLS}].map(c => c.textContent)")
    )
    assert (
        run(page, "return document.querySelectorAll('#lens img, #lens script, #lens b').length")
        == 0
    )


def test_every_switch_recolours_by_its_measure(page):
    """The darkest and the brightest cell of each switch are where the numbers say."""
    both = results()
    scales = {
        "rank": lambda read: -read.rank.double(),
        "probability": lambda read: read.log_prob,
        "entropy": lambda read: read.entropy,
        "kl": lambda read: read.kl,
    }
    seen = set()
    for name, value in scales.items():
        run(page, f"document.querySelector('[data-measure={name}]').click()")
        pressed = run(
            page,
            "return [...document.querySelectorAll('[data-measure]')].filter(b => "
            "b.getAttribute('aria-pressed') === 'true').map(b => b.dataset.measure)",
        )
        assert pressed == [name]
        colours = run(page, f"return [...{CELLS}].slice(0, 77).map(c => c.style.backgroundColor)")
        values = value(both[0].per_token.readout)[:, :11].flip(0).flatten().tolist()
        # Viridis grows in green from its one end to the other.
        greens = [int(colour.split(",")[1]) for colour in colours]
        ordered = [green for _, green in sorted(zip(values, greens, strict=True))]
        assert ordered == sorted(greens)
        seen.add(run(page, "return document.querySelector('[data-part=unit]').textContent"))
        assert run(page, "return document.querySelectorAll('[data-part=ticks] span').length") >= 2
    assert len(seen) == 4


def test_pointing_at_a_cell_shows_its_top_tokens(page):
    first = results()[0]
    # Layer 6 is on top: the third row of the first grid is layer 4; its last position is 10.
    point_at(page, 2 * 11 + 10)
    wait(page, "return !document.querySelector('[data-part=card]').hidden")
    rows = run(
        page,
        "return [...document.querySelectorAll('[data-part=card] tr')].map(r => "
        "[r.cells[1].textContent, r.cells[2].textContent])",
    )
    read = first.per_token.readout
    assert [row[0] for row in rows] == [
        visible(first.text(t)) for t in read.top_ids[4, 10].tolist()
    ]
    for (_, shown), exact in zip(rows, read.top_log_probs[4, 10].tolist(), strict=True):
        # Shown with one decimal place or two, of a number kept to a twentieth of a percent of it.
        assert float(shown.rstrip("%")) == pytest.approx(100 * math.exp(exact), abs=0.06)
    text = run(page, "return document.querySelector('[data-part=card]').textContent")
    assert f"rank {int(read.rank[4, 10])}, " in text
    assert f"KL {read.kl[4, 10]:.2f} nats" in text
    assert "layer 4 · position 10" in text


def test_the_card_goes_away_with_the_mouse(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    point_at(page, 5)
    wait(page, "return !document.querySelector('[data-part=card]').hidden")
    search = page.find_element(By.CSS_SELECTOR, "[data-part=search]")
    ActionChains(page).move_to_element(search).perform()
    wait(page, "return document.querySelector('[data-part=card]').hidden")


def test_arrow_keys_move_through_cells(page):
    from selenium.webdriver.common.keys import Keys

    run(page, f"{CELLS}[10].focus()")
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    where = "const c = document.activeElement; return [c.dataset.layer, c.dataset.column]"
    assert run(page, where) == ["5", "9"]
    text = run(page, "return document.querySelector('[data-part=card]').textContent")
    assert "layer 5 · position 9" in text


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("PARIS", [0]),
        ("the", [0, 1]),
        ("of the tower", [1]),
        ("<script>", [2]),
        ("nothing like it", []),
        (" ", [0, 1, 2]),
    ],
)
def test_the_search_leaves_items_with_every_word(page, typed, found):
    from selenium.webdriver.common.by import By

    page.find_element(By.CSS_SELECTOR, "[data-part=search]").send_keys(typed)
    items = "return [...document.querySelectorAll('[data-part=items] button')].map(b => Number(b.dataset.item))"
    assert run(page, items) == found
    count = run(page, "return document.querySelector('[data-part=count]').textContent")
    assert count == f"{len(found)} of 3 items"


def test_an_item_opens_its_own_grid(page):
    run(page, "document.querySelector('[data-item=\"2\"]').click()")
    wait(page, "return document.getElementById('lens').dataset.item === '2'")
    assert run(page, f"return {CELLS}.length") == 13 * (7 + 5)
    prompt = run(page, "return document.querySelector('[data-part=prompt]').textContent")
    assert prompt == NASTY + "<b>x</b>"
    current = run(
        page,
        "return [...document.querySelectorAll('[data-part=items] [aria-current=true]')].map(b => b.dataset.item)",
    )
    assert current == ["2"]


@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_the_card_stays_inside(driver, address, width, scheme):
    prefer(driver, scheme)
    opened(driver, address, width, 800)
    wait(driver, READY)
    assert overflow(driver) == 0
    for cell in (0, 10, 76):
        run(driver, f"{CELLS}[{cell}].focus()")
        box = run(
            driver,
            "const b = document.querySelector('[data-part=card]').getBoundingClientRect();"
            "const c = document.activeElement.getBoundingClientRect();"
            "return {left: b.left, right: b.right, top: b.top, bottom: b.bottom, width: b.width,"
            "covers: b.left < c.right && b.right > c.left && b.top < c.bottom && b.bottom > c.top}",
        )
        assert box["width"] > 0
        assert box["left"] >= 0
        assert box["right"] <= width
        assert box["top"] >= 0
        assert box["bottom"] <= 800
        assert not box["covers"]
    prefer(driver)


def test_a_single_position_shows_what_else_is_likely(driver, tmp_path):
    result = make_lens(n_items=1, positions="last", top_k=5, n_layers=7)
    opened(driver, written(tmp_path, lens_page([result])))
    wait(driver, READY)
    row = run(
        driver,
        "return [...document.querySelector('#lens tbody').rows[2].cells].map(c => c.textContent)",
    )
    best = result.per_token.readout.top_ids[4, 0].tolist()
    assert row == ["4", *(visible(result.text(token)) for token in best)]
    assert driver.get_log("browser") == []
