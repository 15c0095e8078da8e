"""Gradients and updates of memory vectors, against `backward`, `torch.optim.Adam` and SciPy."""

import copy

import pytest
import torch
from scipy.stats import spearmanr

import probes
from analysis.memory_updates import UpdatesArguments
from analysis.update_measures import measure_updates, rank_correlations
from tests.models import D_MLP, FAMILIES, N_LAYERS, padded, tiny_hf_model, tiny_model
from training.settings import OptimizerSettings

BETAS, EPS = (0.7, 0.95), 1e-3
"""Far from 1, and large, so that both matter after a few steps."""


def settings():
    return OptimizerSettings(betas=BETAS, eps=EPS)


def batches(side="right"):
    """Rows of other lengths in each batch, so that batches have other weights in the mean."""
    lengths = ([11, 7, 2], [5, 13, 3], [17, 2, 2])
    made = [padded(one, side, seed=10 * n) for n, one in enumerate(lengths)]
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in made]


def down_projections(hf_model):
    """Weights of the down projections, `[d_mlp d_model]` whichever way they are kept."""
    names = ("down_proj.weight", "dense_4h_to_h.weight", "mlp.c_proj.weight", "fc2.weight")
    found = [p for name, p in hf_model.named_parameters() if name.endswith(names)]
    assert len(found) == N_LAYERS
    return found


def as_rows(weight):
    return weight if weight.shape[0] == D_MLP else weight.T


def mean_loss(hf_model, batch):
    """Mean loss over all tokens but the first of each row, and their number; rows run alone."""
    losses = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[mask.bool()]
        logits = hf_model(input_ids=row[None]).logits[0]
        for place in range(len(row) - 1):
            losses.append(-logits[place].log_softmax(-1)[row[place + 1]])
    return sum(losses) / len(losses), len(losses)


def by_hand(family, given):
    """Norms by `backward` in float64, and by two steps of Adam that differ in the last one."""
    hf_model = tiny_hf_model(family, torch.float64)
    weights = down_projections(hf_model)
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    adam = torch.optim.Adam(copies, lr=1.0, betas=BETAS, eps=EPS)
    total, tokens = [torch.zeros_like(weight) for weight in weights], 0
    for batch in given:
        hf_model.zero_grad()
        loss, count = mean_loss(hf_model, batch)
        loss.backward()
        before = [one.detach().clone() for one in copies]
        for one, weight, summed in zip(copies, weights, total, strict=True):
            one.grad = weight.grad.clone()
            summed += count * weight.grad
        adam.step()
        tokens += count
    moved = [b - one.detach() for b, one in zip(before, copies, strict=True)]
    gradients = [[float(row.norm()) for row in as_rows(one / tokens)] for one in total]
    return gradients, [[float(row.norm()) for row in as_rows(one)] for one in moved], tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_backward_and_of_adam(family):
    found = measure_updates(tiny_model(family, torch.float64), batches(), settings())
    gradients, updates, tokens = by_hand(family, batches())
    assert found.predicted == tokens
    # Sums of the same float64 numbers in another order.
    for ours, theirs in ((found.gradient_norms, gradients), (found.update_norms, updates)):
        torch.testing.assert_close(ours, torch.tensor(theirs).double(), rtol=1e-6, atol=1e-9)


def test_pads_on_the_left_change_nothing():
    model = tiny_model("llama", torch.float64)
    found, other = (measure_updates(model, batches(side), settings()) for side in ("right", "left"))
    for name in ("mean_coefficients", "gradient_norms", "update_norms"):
        torch.testing.assert_close(getattr(found, name), getattr(other, name))


def test_coefficients_are_those_of_the_entropy():
    model = tiny_model("llama", torch.float64)
    found = measure_updates(model, batches(), settings())
    entropy = probes.measure_entropy(model, batches(), kinds=("knowledge",), weighting="token")
    torch.testing.assert_close(found.mean_coefficients, entropy.mean_coefficients.double())
    losses = [mean_loss(model.hf_model, batch) for batch in batches()]
    by_token = sum(float(loss.detach()) * count for loss, count in losses)
    assert found.loss == pytest.approx(by_token / found.predicted, rel=1e-12)


def test_correlations_are_spearmans():
    found = measure_updates(tiny_model("llama"), batches(), settings())
    coefficients = found.mean_coefficients
    for norms in (found.gradient_norms, found.update_norms):
        theirs = [
            spearmanr(one, other).statistic for one, other in zip(coefficients, norms, strict=True)
        ]
        assert rank_correlations(coefficients, norms) == pytest.approx(theirs, rel=1e-12)
    alike = torch.ones(N_LAYERS, D_MLP)
    assert rank_correlations(coefficients, alike) == [None] * N_LAYERS
    tied = torch.arange(D_MLP).div(5, rounding_mode="floor").expand(1, -1).double()
    theirs = spearmanr(coefficients[0], tied[0]).statistic
    assert rank_correlations(coefficients[:1], tied) == [pytest.approx(theirs, rel=1e-12)]


def test_the_defaults_are_those_of_training():
    theirs = OptimizerSettings()
    assert (UpdatesArguments.betas, UpdatesArguments.eps) == (theirs.betas, theirs.eps)


def state_of(model):
    """Everything that may not change, and is not a tensor of the pass itself."""
    hf_model = model.hf_model
    parameters = dict(hf_model.named_parameters())
    return {
        "weights": {name: p.detach().clone() for name, p in parameters.items()},
        "grad": {n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()},
        "required": {name: p.requires_grad for name, p in parameters.items()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf_model.modules()),
        "training": [module.training for module in hf_model.modules()],
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        elif isinstance(value, dict):
            assert_same(value, other[name])
        else:
            assert value == other[name], name


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_stays_as_it_was(fails):
    model = tiny_model("llama")
    hf_model = model.hf_model
    # Some parameters are frozen, one has a gradient, and a block is in training mode.
    for name, parameter in hf_model.named_parameters():
        parameter.requires_grad_("layers.1" not in name)
    hf_model.lm_head.weight.grad = torch.full_like(hf_model.lm_head.weight, 0.5)
    hf_model.model.layers[2].train()
    before = state_of(model)
    given = batches()
    if fails:
        given[1] = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.tensor([[1]])}
        with pytest.raises(ValueError, match="a batch predicts no token"):
            measure_updates(model, given, settings())
    else:
        found = measure_updates(model, given, settings())
        assert (found.gradient_norms[1] > 0).all()
    assert_same(before, state_of(model))


def test_what_cannot_be_measured_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="there are no batches"):
        measure_updates(model, [], settings())
    broken = copy.deepcopy(model.hf_model)
    broken.lm_head.weight.data[5, 3] = float("inf")
    with pytest.raises(ValueError, match=r"loss of a batch \(nan nats\).*try --dtype float32"):
        measure_updates(_unchecked(broken), batches(), settings())
    other = probes.load_model(tiny_hf_model("llama"), backend="nnsight")
    with pytest.raises(ValueError, match="native backend, found nnsight"):
        measure_updates(other, batches(), settings())


def _unchecked(hf_model):
    """A model whose weights are put in after it was looked over."""
    model = tiny_model("llama")
    model.hf_model.load_state_dict(hf_model.state_dict())
    return model
