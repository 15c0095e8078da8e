"""The page says what was found, escapes everything, and asks the network for nothing."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from analysis.entropy_page import findings
from probes.corpus_means import Interval
from tests.analysis.results import entropy_page, make_result

NASTY = "</script><script>alert('x')</script>&<img src=x>"


class Reader(HTMLParser):
    """Collects the visible text, the tags with their attributes, and the scripts of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.scripts, self._inside = "", [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside is None:
            self.text += data


@pytest.fixture(scope="module")
def compared():
    return entropy_page([make_result("general"), make_result("biomedical", seed=1)])


def test_page_states_findings_and_numbers(compared):
    text = Reader(compared).text
    result = make_result("general")
    assert f"Knowledge entropy over general is {result.knowledge.total:.2f} nats" in text
    assert f"of the maximum of {result.knowledge.maximum:.2f}" in text
    assert "How evenly tiny uses its memory" in text
    assert "16,384" in text


def test_every_plot_is_readable_json(compared):
    tags = Reader(compared)
    kinds = [attrs.get("type") for tag, attrs in tags.tags if tag == "script"]
    plots = [
        json.loads(text)
        for kind, text in zip(kinds, tags.scripts, strict=True)
        if kind == "application/json"
    ]
    # Layers; two of coefficients; layers of attention; two heatmaps and their difference.
    assert len(plots) == 7
    assert all(plot["data"] for plot in plots)


def test_hostile_names_stay_text():
    hostile = make_result(NASTY, model=NASTY, revision="<i>", notes=("<u>note</u>",))
    reader = Reader(entropy_page([hostile]))
    assert NASTY in reader.text
    assert "<u>note</u>" in reader.text
    tags = {tag for tag, _ in reader.tags}
    assert tags.isdisjoint({"img", "i", "u"})
    ours = Reader(entropy_page([make_result()]))
    assert len(reader.scripts) == len(ours.scripts)


@pytest.mark.parametrize(
    ("kinds", "headings", "plots"),
    [
        (("knowledge",), {"Knowledge"}, 2),
        (("attention",), {"Attention"}, 2),
        (("next_token",), set(), 0),
    ],
)
def test_page_shows_only_what_was_measured(kinds, headings, plots):
    page = entropy_page([make_result(kinds=kinds)])
    found = set(re.findall(r"<h2>(.*?)</h2>", page))
    assert found & {"Knowledge", "Attention"} == headings
    assert page.count('class="plot"') == plots


def test_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one result"):
        entropy_page([])


def test_models_of_different_shape_are_compared_without_a_difference():
    page = entropy_page([make_result(model="a"), make_result(model="b", n_layers=7, n_heads=2)])
    assert "How evenly 2 models use their memory".replace("2 models", "") not in page
    assert "minus" not in Reader(page).text
    assert "2 models" in Reader(page).text


def test_findings_name_the_extreme_layers_and_the_difference():
    one, two = make_result("general"), make_result("biomedical", seed=1)
    used = one.knowledge.effective_memory_vectors
    sentences = findings([one, two])
    low, high = int(used.argmin()), int(used.argmax())
    assert any(f"Layer {low} is the most concentrated" in s for s in sentences)
    assert any(f"layer {high} the least ({used[high]:,.0f})" in s for s in sentences)
    gap = abs(one.knowledge.total - two.knowledge.total)
    assert any(f"by {gap:.2f} nats" in s for s in sentences)
    assert 3 <= len(sentences) <= 5


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (Interval(1.0, 2.0), Interval(3.0, 4.0), "do not overlap"),
        (Interval(1.0, 3.0), Interval(2.0, 4.0), "may be chance"),
        (None, Interval(2.0, 4.0), "without intervals"),
    ],
)
def test_a_difference_is_only_sure_between_separate_intervals(low, high, verdict):
    results = sorted(
        [make_result("general"), make_result("biomedical", seed=1)],
        key=lambda result: result.knowledge.total,
    )
    changed = [
        dataclasses.replace(r, knowledge=dataclasses.replace(r.knowledge, interval=interval))
        for r, interval in zip(results, (low, high), strict=True)
    ]
    assert any(verdict in sentence for sentence in findings(changed))
