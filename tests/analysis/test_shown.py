"""Objects show themselves: a line, a small table, and of every result a frame and a picture."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import analysis
import interventions
import probes
from analysis.depth import depth_change
from analysis.edit_measures import MEASURES, EditRow, EditSweep, HeldOut, edit_settings
from analysis.runs import read_chain, read_run
from probes.shown import Result, Shown, brief
from probes.translators import identity_translators
from tests.analysis.ckl_runs import make_run
from tests.analysis.lens_results import make_lens
from tests.analysis.logit_lens.test_page import make_causal
from tests.analysis.remix_runs import make_run as make_chain
from tests.browser import wait
from tests.models import tiny_model, tokens
from training.lens_fits import LensComparison
from training.relearning import Relearned, RelearningCurve

BATCH = {"input_ids": tokens(5, 13)}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One of everything, by the name of its class."""
    model, folder = tiny_model("llama"), tmp_path_factory.mktemp("runs")
    means = torch.arange(1.0, 3 * 29 + 1).reshape(3, 29)
    resuscitation = interventions.Resuscitation(means, ratio=0.5, factor=2.0)
    entropies, rank = probes.measure_entropy(model, BATCH), torch.tensor([[90, 4]] * 3)
    random = np.random.default_rng(0)
    group = (Relearned.AGAIN, Relearned.OTHER, Relearned.NEVER_TAUGHT)
    corpus = probes.Corpus.from_texts(["a text\nof two lines"] * 7)
    lens = make_lens(n_items=2)
    everything = [
        *(model, model.anatomy, model.architecture, model.anatomy.layers[0]),
        *(model.run_with_cache(BATCH["input_ids"])[1], corpus, lens, lens.items[0], lens.per_token),
        *(lens.per_token.readout, lens.localization(5), make_causal(), identity_translators(model)),
        *(entropies, entropies.knowledge, entropies.attention, entropies.next_token),
        *(entropies.provenance, probes.measure_perplexity(model, BATCH)),
        *(interventions.measure_effects(model, BATCH), edit_sweep(entropies)),
        *(interventions.MemoryEdit({0: [1]}), interventions.AblateHeads({0: [1]})),
        interventions.Steer(("resid_post", 0), torch.ones(42)),
        interventions.RankOneWrite(0, torch.ones(29), torch.ones(42)),
        *(resuscitation, interventions.AttentionTemperature(1.5), interventions.Identity()),
        *(interventions.RandomRows(resuscitation), interventions.MatchedNoise(resuscitation)),
        *(interventions.ReDo(means, ratio=0.5), interventions.RowLearningRates(resuscitation)),
        interventions.patch_weights(tiny_model("llama"), resuscitation),
        depth_change(rank, rank - 1, k=5, d_vocab=211, seed=0),
        analysis.fit_forgetting_curve([1, 10, 100, 1000], random.random((7, 4))),
        *prompt_results(model),
        *(read_run(make_run(folder / "ckl")), read_chain(make_chain(folder / "remix"))),
        LensComparison(("0", "1"), *torch.rand(3, 2), positions=5),
        RelearningCurve(
            group, ("a", "b", "c"), torch.rand(4, 3) < 0.5, -torch.rand(4, 3).double(), {}
        ),
    ]
    return {type(one).__name__: one for one in everything}


def edit_sweep(entropies):
    """A sweep of two edits, one of them refused; its numbers are made up."""
    settings = edit_settings(["up"], factors=[1.0, 2.0], ratios=[], temperatures=[])
    before = dict.fromkeys(MEASURES, 3.0)
    rows = (
        EditRow(settings[0], {}, dict.fromkeys(MEASURES, 3.5), 4),
        EditRow(settings[1], {}, {}, None, "it is refused"),
    )
    return EditSweep(entropies, HeldOut("text", "ab" * 32, 1, 1), before, rows)


def prompt_results(model):
    """What is found in prompts: attributions, patches and memory vectors."""
    one, other = (tokens(1, 7, seed)[0].tolist() for seed in (1, 2))
    memory = probes.memory
    top = memory.top_vectors(model, one, n=7)
    return [
        *(probes.logit_attribution(model, one, 17), top, top.written),
        analysis.patching(model, one, other, metric=17),
        memory.shared_vectors(model, one, other, n=40),
        memory.top_contexts(model, BATCH, top),
        memory.fact_changes(model, tiny_model("llama"), one, [17]),
        memory.knowledge_neurons(model, one, [17]),
    ]


def test_everything_is_a_line_and_a_table_that_name_it(shown):
    assert len(shown) > 30
    for name, one in shown.items():
        assert isinstance(one, Shown), name
        assert repr(one).startswith(f"{name}("), one
        assert len(repr(one)) < 300, one
        assert "\n" not in repr(one), one
        assert "tensor(" not in repr(one), one
        page = ElementTree.fromstring(one._repr_html_())
        assert page.find("b").text == name
        assert len(page.findall(".//tr")) <= 30, name


def test_every_result_has_a_frame_and_a_picture_with_a_title(shown):
    results = {name: one for name, one in shown.items() if isinstance(one, Result)}
    assert len(results) > 10
    for name, result in results.items():
        assert len(result.to_dataframe()) > 1, name
        figure = result.plot()
        assert figure.layout.title.text.startswith("<b>"), name
        assert any(len(trace.x) for trace in figure.data), name


def test_a_line_says_the_numbers_that_matter(shown):
    total = shown["EntropyResult"].knowledge.estimate
    assert f"knowledge {total:.5g} nats" in repr(shown["EntropyResult"])
    assert "layers 3 of LlamaDecoderLayer" in repr(shown["Anatomy"])
    run = shown["TrainingRun"]
    assert "steps 60 of 60, state finished" in repr(run)
    (run.path / "done.json").unlink()
    assert "state never finished" in repr(read_run(run.path))


def test_texts_and_tables_do_not_run_over():
    assert brief("two\nlines " * 50).endswith("\N{HORIZONTAL ELLIPSIS}")
    assert brief(torch.ones(2, 3)) == "[2, 3]"
    assert brief(torch.tensor(0.25)) == "0.25"
    assert brief({"a": 1, "b": 2}) == "2 items"
    assert brief(("a", 1234)) == "a 1,234"


@pytest.mark.slow
@pytest.mark.browser
def test_pictures_are_there_in_html_made_by_nbconvert(driver, tmp_path):
    """Without a network: the first picture brings plotly.js, for itself and for the others."""
    nbconvert = pytest.importorskip("nbconvert")
    new = pytest.importorskip("nbformat").v4
    code = (
        "from tests.analysis.lens_results import make_lens\nlens = make_lens()",
        "lens.plot()",
        "lens.localization(10).plot().show()",
    )
    book = new.new_notebook(cells=list(map(new.new_code_cell, code)))
    where = {"metadata": {"path": str(Path.cwd())}}
    nbconvert.preprocessors.ExecutePreprocessor(timeout=120).preprocess(book, where)
    html, _ = nbconvert.HTMLExporter().from_notebook_node(book)
    (tmp_path / "book.html").write_text(html)
    driver.get(f"file://{tmp_path / 'book.html'}")
    ask = "return [...document.querySelectorAll('.gtitle')].map(e => e.textContent)"
    wait(driver, f"return ({ask.removeprefix('return ')}).length === 2")
    titles = driver.execute_script(ask)
    assert titles[0].startswith("prompt 0"), titles
    assert len(driver.find_elements("css selector", ".js-plotly-plot .heatmaplayer image")) == 1
    assert html.count("window.Plotly = Plotly") == 1
