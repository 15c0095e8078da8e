"""Objects of another kind: each public function says in one line what was given, and what to give."""

import pytest
import torch

import interventions
import probes
import training
from interventions.edits import patched_edits
from probes.sites import as_site
from tests.models import tiny_hf_model, tiny_tokenizer, tokens
from tests.training.loop_runs import directory_of, rows_of, settings_of


@pytest.fixture(scope="module")
def model():
    return probes.load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())


IDS = {"input_ids": tokens(2, 7)}
MODEL_CALLS = {
    "capture": lambda m: probes.capture(m, IDS, ["resid_post"]),
    "stream": lambda m: probes.stream(m, [IDS], {}),
    "measure_entropy": lambda m: probes.measure_entropy(m, [IDS]),
    "measure_perplexity": lambda m: probes.measure_perplexity(m, [IDS]),
    "target_log_probs": lambda m: probes.target_log_probs(m, [("w1", "w2")]),
    "exact_matches": lambda m: probes.exact_matches(m, [((1,), (2,))]),
    "choice_scores": lambda m: probes.choice_scores(m, []),
    "generate": lambda m: probes.generate(m, [[1, 2]], max_new_tokens=1),
    "causal_recovery": lambda m: probes.causal_recovery(m, [], generator=torch.Generator()),
    "applied": lambda m: interventions.applied(m, interventions.AttentionTemperature(1.5)),
    "patch_weights": lambda m: interventions.patch_weights(m),
    "save_patched": lambda m: interventions.save_patched(m, "nowhere"),
    "patched_edits": lambda m: patched_edits(m),
    "train": lambda m: training.train(m, None, None, None),
}


@pytest.mark.parametrize("name", MODEL_CALLS)
@pytest.mark.parametrize("given", ["gpt2", None, probes.HookedModel, "module"])
def test_what_is_no_hooked_model(name, given):
    value = torch.nn.Linear(2, 3) if given == "module" else given
    found = {
        "gpt2": "the string 'gpt2'; give what probes.load_model returns for it",
        None: "None; give what probes.load_model returns",
        probes.HookedModel: "the class HookedModel; give what probes.load_model",
        "module": "a Linear; give what probes.load_model returns for it",
    }[given]
    with pytest.raises(ValueError, match=f"^{name}: model is {found}") as error:
        MODEL_CALLS[name](value)
    assert "\n" not in str(error.value)


NO_EDITS = [
    ("up", "is the string 'up'; give one such as interventions.AttentionTemperature"),
    (None, "is None; give one such as"),
    (1.5, "is the number 1.5; give one such as"),
    (interventions.AttentionTemperature, "is the class AttentionTemperature; give one of it, Att"),
    (interventions.Resuscitation, r"is the class Resuscitation; give one of it, Resuscitation\("),
    ([interventions.AttentionTemperature(1.5)], r"is a list of 1; give edits one by one: \*edits"),
    (torch.ones(2, 3), r"is a Tensor of shape \[2, 3\]; give one such as"),
    ({"kind": "attention_temperature"}, "is a dict of 1; give one such as"),
]


@pytest.mark.parametrize(("given", "line"), NO_EDITS)
def test_what_is_no_edit(given, line, model, tmp_path):
    before = model.content_hash()
    good = interventions.AttentionTemperature(1.5)
    for call in (interventions.applied, interventions.patch_weights):
        with pytest.raises(ValueError, match=f"{call.__name__}: edits {line}"):
            call(model, good, given)
    with pytest.raises(ValueError, match=f"save_patched: edits is a list whose item 1 {line[:9]}"):
        interventions.save_patched(model, tmp_path / "out", edits=[good, given])
    assert model.content_hash() == before
    assert not (tmp_path / "out").exists()


def test_one_edit_where_a_list_is_wanted(model, tmp_path):
    good = interventions.AttentionTemperature(1.5)
    with pytest.raises(ValueError, match="edits is an AttentionTemperature; give a list of edits"):
        interventions.save_patched(model, tmp_path / "out", edits=good)


def test_learning_rates_of_rows_are_no_edit(model):
    like = interventions.Resuscitation(torch.rand(model.n_layers, model.d_mlp), 0.5, 2.0)
    rates = interventions.RowLearningRates(like)
    with pytest.raises(ValueError, match="edits no model; it is an optimizer_edit of training"):
        interventions.applied(model, rates)


def test_entry_points_of_training(model, tmp_path):
    settings, source = settings_of(), rows_of()
    directory = directory_of(tmp_path / "run", settings, source)
    good = {"model": model, "source": source, "settings": settings, "directory": directory}
    for change, line in (
        ({"source": 3}, "source is the number 3; give rows of token ids, a function"),
        ({"settings": {"steps": 3}}, "settings is a dict of 1; give training.LoopSettings"),
        ({"directory": {}}, "directory is a dict of 0; give a path, or a training.RunDirectory"),
        ({"edits": "up"}, "edits is the string 'up'; give a list of edits"),
        ({"edits": [None]}, "edits is a list whose item 0 is None; give one such as"),
        ({"observers": [training.TaskObserver]}, "observers is a list whose item 0 is the class"),
        ({"optimizer_edits": ["up"]}, "optimizer_edits is a list whose item 0 is the string 'up'"),
    ):
        with pytest.raises(ValueError, match=f"^train: {line}"):
            training.train(**{**good, **change})
    assert not directory.has_begun


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("text", r"the string 'text'; give a mapping .*{'input_ids': model.to_tokens\(text\)}"),
        (tokens(2, 7), r"a Tensor of shape \[2, 7\]; give a mapping .*{'input_ids': ids}"),
        ([1, 2, 3], "a list of 3; give a mapping with input_ids"),
        (None, "None; give a mapping with input_ids"),
    ],
)
def test_what_is_no_batch(given, line, model):
    with pytest.raises(ValueError, match=f"^capture: batch is {line}"):
        probes.capture(model, given, ["resid_post"])
    if isinstance(given, str) or given is None:
        with pytest.raises(ValueError, match=f"^stream: batches is {line.split(';')[0]}"):
            probes.stream(model, given, {})
    with pytest.raises(ValueError, match=r"^stream: batches is a list whose first is"):
        probes.stream(model, [given], {})


def test_one_site_and_one_layer_are_one(model):
    several = probes.capture(model, IDS, ["resid_post"], layers=[1])
    for site in ("resid_post", probes.Site.RESID_POST):
        one = probes.capture(model, IDS, site, layers=1)
        assert list(one) == list(several)
        assert torch.equal(one["resid_post", 1], several["resid_post", 1])


@pytest.mark.parametrize(
    ("sites", "line"),
    [
        ("resid_pst", "no site is named 'resid_pst'; the nearest is 'resid_post'"),
        (["mlp_coefficient"], "the nearest is 'mlp_coefficients'"),
        (["blocks.0.hook_resid_post"], "TransformerLens names go to run_with_cache"),
    ],
)
def test_what_is_no_site(sites, line, model):
    with pytest.raises(ValueError, match=line):
        probes.capture(model, IDS, sites)


@pytest.mark.parametrize("given", [None, 3, ("resid_post", 1), probes.Site])
def test_what_is_no_string_is_no_site(given):
    with pytest.raises(ValueError, match=r"no site is named .*; the nearest is"):
        as_site(given)


def test_what_is_no_hook_point(model):
    for point, line in (
        (("resid_pst", 0), "the nearest is 'blocks.0.hook_resid_post'"),
        (("resid_post", 3), "layer 3 does not exist"),
        ("blocks.0.hook_resid_pst", "the nearest is 'blocks.0.hook_resid_post'"),
    ):
        with pytest.raises(ValueError, match=line):
            model.hook_point(point)


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ("w1 w2", "the string 'w1 w2'; give a list of"),
        (("w1", "w2"), "a tuple whose item 0 is the string 'w1'; give a list of"),
        ([("w1", "w2"), ("w3",)], "a list whose item 1 is a tuple of 1"),
        ({"w1": "w2"}, "a dict of 1; give a list of"),
        (None, "None; give a list of"),
    ],
)
def test_what_are_no_pairs(items, line, model):
    with pytest.raises(ValueError, match=f"^target_log_probs: items is {line}"):
        probes.target_log_probs(model, items)
