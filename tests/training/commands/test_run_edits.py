"""The edits of a run, against what a tiny model and the settings say they must be."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import interventions
import probes
from interventions.choices import ResuscitationSite, Schedule
from tests.models import D_MLP, N_LAYERS, tiny_model
from training import edit_settings as run_edits
from training.ckl_config import smoke
from training.options import Control, EditForm
from training.recipes import as_json

TOKENS = 157


def edits_of(config, model):
    """As a run of continual learning asks for them."""
    return run_edits.edits_of(config, model, seed=config.seed, row_length=config.row_length)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "plants.jsonl"
    texts = (" ".join(f"w{(7 * i + j * i * i) % 97}" for i in range(23)) for j in range(19))
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def config(corpus, **changes):
    given = {
        "resuscitation_ratio": 0.4,
        "resuscitation_factor": 1.5,
        "coefficient_corpus": str(corpus),
        "coefficient_tokens": TOKENS,
        "row_length": 31,
        "seed": 5,
    }
    return dataclasses.replace(smoke(), **{**given, **changes})


def expected_multipliers(model, corpus):
    """From means measured by the other route: at or below the quantile, to 1.5 layer means."""
    batches = probes.token_batches(
        probes.load_corpus(corpus), model.tokenizer, sequence_length=31, max_tokens=TOKENS
    )
    means = probes.measure_entropy(model, batches, ("knowledge",)).mean_coefficients.double()
    low = means <= means.quantile(0.4, dim=1, keepdim=True)
    return torch.where(low, 1.5 * means.mean(dim=1, keepdim=True) / means, torch.ones(()))


def test_a_run_without_edits_has_none(corpus):
    model = tiny_model("llama")
    found = edits_of(config(corpus, resuscitation_ratio=None, resuscitation_factor=None), model)
    assert (found.all, found.optimizer, found.coefficients) == ((), (), None)


def test_a_resuscitation_is_measured_on_the_start(corpus):
    model = tiny_model("llama")
    before = model.content_hash()
    found = edits_of(config(corpus, resuscitation_site=ResuscitationSite.DOWN), model)
    assert model.content_hash() == before
    (edit,) = found.weights
    assert edit.describe()["site"] == "down"
    expected = expected_multipliers(model, corpus)
    assert expected.shape == (N_LAYERS, D_MLP)
    # Both in float64, from float32 coefficients summed in another order.
    torch.testing.assert_close(edit.multipliers(), expected, rtol=1e-6, atol=0)
    assert found.coefficients["tokens"] == TOKENS
    assert found.coefficients["corpus"] == str(corpus)


def test_weights_are_written_once_and_are_the_rows_times_the_multipliers(corpus):
    model = tiny_model("llama")
    up = [layer.up.weight.detach().clone() for layer in model.anatomy.layers]
    found = edits_of(config(corpus), model)
    assert found.hooks == ()
    expected = expected_multipliers(model, corpus)
    found.write(model)
    for layer, before, by in zip(model.anatomy.layers, up, expected, strict=True):
        # Rounded to float32.
        torch.testing.assert_close(
            layer.up.weight.detach(), before * by[:, None].float(), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize(
    ("control", "kind"),
    [
        (Control.RANDOM_ROWS, interventions.RandomRows),
        (Control.MOST_ACTIVE_ROWS, interventions.MostActiveRows),
        (Control.MATCHED_NOISE, interventions.MatchedNoise),
        (Control.IDENTITY, interventions.Identity),
    ],
)
def test_controls_stand_in_for_the_resuscitation(control, kind, corpus):
    model = tiny_model("llama")
    (edit,) = edits_of(config(corpus, control=control), model).weights
    assert type(edit) is kind
    if control is Control.IDENTITY:
        return
    expected = expected_multipliers(model, corpus)
    torch.testing.assert_close(edit.like.multipliers(), expected, rtol=1e-6, atol=0)
    assert getattr(edit, "seed", 5) == 5


def test_redo_starts_the_same_neurons_afresh(corpus):
    model = tiny_model("llama")
    settings = config(corpus, control=Control.REDO)
    (edit,) = edits_of(settings, model).weights
    selected = expected_multipliers(model, corpus) != 1
    assert torch.equal(edit.selected(), selected)
    edits_of(settings, model).write(model)
    for layer, chosen in zip(model.anatomy.layers, selected, strict=True):
        assert not layer.memory_vectors[chosen].any()
        assert layer.memory_vectors[~chosen].any(dim=1).all()


def test_row_learning_rates_are_no_edit_and_fit_a_run_that_has_come_further(corpus):
    model = tiny_model("llama")
    found = edits_of(config(corpus, control=Control.ROW_LEARNING_RATES), model)
    assert found.all == ()
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight.add_(0.1)
    optimizer = torch.optim.AdamW(model.hf_model.parameters(), lr=1e-3)
    (rates,) = found.optimizer
    rates.attach_to(optimizer, model).remove()


def test_a_temperature_comes_after_the_resuscitation(corpus):
    schedule, form = Schedule.LINEAR, EditForm.HOOKS
    changes = {"attention_temperature": 1.7, "temperature_schedule": schedule, "edit_form": form}
    settings = config(corpus, **changes)
    kinds = [edit.describe() for edit in edits_of(settings, tiny_model("llama")).hooks]
    assert [described["kind"] for described in kinds] == ["resuscitation", "attention_temperature"]
    assert (kinds[1]["temperature"], kinds[1]["schedule"]) == (1.7, "linear")


def test_coefficients_of_another_model_are_refused(corpus, tmp_path):
    batches = probes.token_batches(
        probes.load_corpus(corpus),
        tiny_model("llama").tokenizer,
        sequence_length=31,
        max_tokens=TOKENS,
    )
    probes.measure_entropy(tiny_model("olmo"), batches).save(tmp_path / "olmo")
    probes.measure_entropy(tiny_model("llama"), batches).save(tmp_path / "llama")
    model = tiny_model("llama")
    found = edits_of(config(corpus, coefficients=tmp_path / "llama"), model)
    expected = expected_multipliers(model, corpus)
    # Kept in float32.
    torch.testing.assert_close(found.weights[0].multipliers(), expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="coefficients of another model"):
        edits_of(config(corpus, coefficients=tmp_path / "olmo"), model)


@pytest.mark.parametrize(
    ("family", "changes", "line"),
    [
        ("gpt2", {}, "ask for that by name with site='up_preactivation'"),
        ("llama", {"resuscitation_layers": (N_LAYERS,)}, f"layer {N_LAYERS} does not exist"),
        ("llama", {"resuscitation_ratio": 1.5}, "ratio is a share above 0, to 1, found 1.5"),
        ("llama", {"resuscitation_factor": -1.0}, "factor must be a finite number above 0"),
        ("llama", {"coefficient_corpus": "nowhere.txt"}, "no corpus 'nowhere.txt'"),
        ("gemma2", {"attention_temperature": 2.0}, "caps its attention .*: give --edit-form hooks"),
    ],
)
def test_edits_that_cannot_be(family, changes, line, corpus):
    with pytest.raises(ValueError, match=line):
        edits_of(config(corpus, **changes), tiny_model(family))


def test_edits_of_ones_own_are_made_after_the_others_and_written_down(corpus, monkeypatch):
    own = interventions.MemoryEdit({1: [2]})
    monkeypatch.setitem(sys.modules, "own_edits", SimpleNamespace(zeroed=lambda model: own))
    for form in EditForm:
        given = config(corpus, edit=("own_edits:zeroed",), edit_form=form)
        found = edits_of(given, tiny_model("llama"))
        assert found.all[-1] is own
        assert len(found.all) == 2
        assert found.describe()[form][-1]["vectors"] == {"1": [2]}
        assert as_json(given)["edit"] == ["own_edits:zeroed"]
    with pytest.raises(ValueError, match="own_edits has no zero; did you mean zeroed"):
        config(corpus, edit=("own_edits:zero",))
