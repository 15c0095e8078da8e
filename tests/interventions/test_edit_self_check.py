"""The self-check of edits: what it refuses, what it lets through, and that it leaves no trace."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch

import interventions
from interventions import WeightChange
from interventions.edit_forms import WeightWrites
from interventions.edits import check_edits, patched_edits
from tests.interventions.editing import (
    assert_weights,
    logits,
    measured,
    resuscitation,
    shared,
    sites_of,
    weights_of,
)
from tests.models import FAMILIES, tiny_model, tokens
from tests.refusals import refused


@dataclass(frozen=True)
class Scaling:
    """Coefficients of layer 1 times a number by hooks, memory vectors times another as weights."""

    by_hooks: float | None = None
    by_weights: float | None = None
    kind: str = "scaling"

    def attached(self, model, clock):
        if self.by_hooks is None:
            raise ValueError("no hooks")
        point = ("mlp_coefficients", 1)
        return model.hooks([(point, lambda tensor, _point: tensor * self.by_hooks)])

    def weight_changes(self, model):
        if self.by_weights is None:
            raise ValueError("no weights")
        name, by = "model.layers.1.mlp.down_proj.weight", self.by_weights
        return [WeightChange(name, 0, None, lambda rows: rows * by)]

    def describe(self):
        return {"kind": self.kind}


def refuses(edits, message, model=None):
    with refused(message):
        check_edits(model or shared("llama"), edits)


def test_an_edit_that_changes_nothing_is_refused_by_name():
    for idle in (Scaling(1.0), Scaling(by_weights=1.0)):
        refuses([idle], "edit 'scaling' changes nothing: no weight, and on a few tokens neither")
        refuses([resuscitation("llama"), idle], "edit 'scaling' changes nothing")
    # Identity is meant; an edit of weights whose effect no token sees is none of nothing.
    check_edits(shared("llama"), [interventions.Identity()])
    check_edits(shared("llama"), [resuscitation("llama"), interventions.Identity()])

    class UnseenWeight(Scaling):
        def weight_changes(self, model):
            # A token that the few tokens of the check are not, in a model whose readout is apart.
            row = torch.tensor([1])
            name = "model.embed_tokens.weight"
            return [interventions.WeightChange(name, 0, row, lambda rows: rows * 2)]

    check_edits(tiny_model("qwen2"), [UnseenWeight()])


def test_an_edit_of_layers_without_neurons_changes_nothing():
    with pytest.raises(ValueError, match="no neuron is selected, so nothing would change"):
        resuscitation("llama", layers=[])


@pytest.mark.parametrize("position", [0, 1])
def test_forms_that_disagree_are_refused_with_the_numbers(position):
    edits = [Scaling(2.0, 2.5)]
    if position:
        edits.insert(0, resuscitation("llama", "preserving"))
    refuses(
        edits,
        r"edit 'scaling' does one thing as hooks and another as weights: what the model computes "
        r"differs by [\d.e-]+ of the largest value, where rounding explains 0.001; it is refused",
    )


def test_forms_that_disagree_in_coefficients_only_are_refused():
    class OnlyCoefficients(Scaling):
        """The function stays, as with a preserving edit, but the hooks forget the up rows."""

        def attached(self, model, clock):
            return nullcontext()

        def weight_changes(self, model):
            return resuscitation("llama", "preserving").weight_changes(model)

    refuses([OnlyCoefficients()], "edit 'scaling' (changes nothing|does one thing as hooks)")


@pytest.mark.parametrize("edit", [Scaling(float("inf")), Scaling(by_weights=float("nan"))])
def test_numbers_that_are_not_finite_are_refused(edit):
    refuses([edit], "edit 'scaling' makes numbers that are not finite in torch.float32")


def test_multipliers_that_overflow_half_precision_are_refused():
    means = torch.full((3, 29), 1.0)
    means[:, 4] = 1e-7
    edit = interventions.Resuscitation(means, ratio=0.01, factor=1.0, site="up")
    refuses([edit], "not finite in torch.float16; set max_mul", shared("llama", torch.float16))


def test_an_edit_with_one_form_is_tried_in_that_one():
    for edit in (Scaling(2.0), Scaling(by_weights=2.0)):
        check_edits(shared("llama"), [edit])
        check_edits(shared("llama"), [edit, resuscitation("llama"), edit])
    # One with none is left to whoever asks for it, to hear why.
    check_edits(shared("llama"), [Scaling()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_that_agree_pass_in_every_type(family, dtype):
    # Several sites on top of one another overflow half precision.
    sites = sites_of(family) if dtype is torch.float32 else ("down",)
    edits = [resuscitation(family, site) for site in sites]
    edits.append(interventions.AttentionTemperature(1.7))
    check_edits(shared(family, dtype), edits)


def test_nothing_is_left_of_it_and_hooks_of_others_see_none_of_it():
    model, seen = tiny_model("llama"), []
    first, last = model.anatomy.layers[0].up, model.anatomy.layers[2].down
    first.register_forward_hook(lambda *_: seen.append("up"))
    last.register_forward_pre_hook(lambda _m, _a, _k: seen.append("down"), with_kwargs=True)
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf_model.modules()]
    model.hf_model.train()
    model.hf_model.model.layers[1].eval()
    training = [m.training for m in model.hf_model.modules()]
    before, versions = weights_of(model), [w._version for w in model.hf_model.parameters()]
    redo = interventions.ReDo(measured("llama").mean_coefficients, ratio=0.4)
    edits = [resuscitation("llama", "preserving"), redo, interventions.AttentionTemperature(1.7)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    check_edits(model, edits)
    with pytest.raises(ValueError, match="does one thing"):
        check_edits(model, [*edits, Scaling(2.0, 3.0)])
    assert seen == []
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.hf_model.modules()] == training
    assert [w._version for w in model.hf_model.parameters()] == versions
    assert all(w.grad is None for w in model.hf_model.parameters())
    after = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf_model.modules()]
    assert after == hooks
    assert_weights(model, before)
    with torch.no_grad():
        model.hf_model(tokens(1, 5))
    assert seen == ["up", "down"]


def test_an_error_while_trying_restores_weights_and_hooks():
    model, plain = tiny_model("llama"), logits(shared("llama"))

    class Stopped(Scaling):
        @contextmanager
        def attached(self, model, clock):
            raise KeyboardInterrupt
            yield

    for edits in (
        [resuscitation("llama"), Stopped()],
        [Scaling(by_weights=2.0), Stopped(by_weights=None)],
    ):
        with pytest.raises(KeyboardInterrupt):
            check_edits(model, edits)
        assert torch.equal(logits(model), plain)


def test_a_patch_interrupted_while_it_is_written_down_is_taken_back(monkeypatch):
    model = tiny_model("llama")
    before = weights_of(model)

    def interrupted(_writes):
        raise KeyboardInterrupt

    monkeypatch.setattr(WeightWrites, "changes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interventions.patch_weights(model, resuscitation("llama"))
    assert patched_edits(model) == ()
    assert_weights(model, before)


def test_unchecked_edits_are_made_all_the_same():
    model = tiny_model("llama")
    with interventions.applied(model, Scaling(2.0, 3.0), check=False):
        assert not torch.equal(logits(model), logits(shared("llama")))
    interventions.patch_weights(model, Scaling(2.0, 3.0), check=False)
