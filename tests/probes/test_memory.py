"""Memory vectors: what they write, where they are used and what changes, against loops by hand."""

import copy

import pytest
import torch
from torch.testing import assert_close

import probes
from probes.memory import contexts as contexts_module
from tests.models import tiny_hf_model, tiny_model, tiny_tokenizer, tokens

IDS = tokens(1, 7, 3)[0].tolist()
TARGET = [17]


def coefficients_of(model, ids):
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.n_layers)]
    _, cache = model.run_with_cache(torch.tensor([ids]), names)
    return torch.stack([cache["post", layer][0] for layer in range(model.n_layers)], dim=1)


def test_promoted_tokens_are_those_a_little_of_the_vector_raises_through_norm_and_unembedding():
    """A stream of the vector alone, large enough that nothing is added to its variance."""
    hf_model = tiny_hf_model("gpt2", torch.float64)
    model = probes.load_model(hf_model, tokenizer=tiny_tokenizer())
    found = probes.memory.promoted_tokens(model, 1, [5, 11], k=4)
    norm = hf_model.transformer.ln_f
    stream = hf_model.transformer.h[1].mlp.c_proj.weight[[5, 11]] * 1e6
    with torch.no_grad():
        scores = hf_model.lm_head(norm(stream) - norm.bias)
    up, down = scores.topk(4), scores.topk(4, largest=False)
    assert_close(found.promoted_scores, up.values)
    assert_close(found.suppressed_scores, down.values)
    assert found.promoted[1][0] == tiny_tokenizer().decode([up.indices[1, 0]])
    assert len(found.to_dataframe()) == 8


def test_top_vectors_are_the_largest_of_all_layers_and_a_negative_one_is_turned_round():
    model = tiny_model("llama")
    coefficients = coefficients_of(model, IDS)[4]
    rows = torch.stack([layer.memory_vectors.detach() for layer in model.anatomy.layers])
    sizes = {
        "coefficient": coefficients.abs(),
        "contribution": coefficients.abs() * rows.norm(dim=-1),
        "logit": probes.logit_attribution(model, IDS, 17, position=4).memory.abs(),
    }
    for by, size in sizes.items():
        found = probes.memory.top_vectors(model, IDS, position=4, n=6, by=by, token=17)
        expected = sorted(size.flatten().tolist(), reverse=True)[:6]
        assert [float(size[vector]) for vector in found.vectors] == pytest.approx(expected)
        assert found.coefficient.tolist() == pytest.approx(
            [float(coefficients[vector]) for vector in found.vectors]
        )
    negative = int((found.coefficient < 0).nonzero()[0])
    layer, index = found.vectors[negative]
    alone = probes.memory.promoted_tokens(model, layer, index)
    assert found.written.promoted[negative] == alone.suppressed[0]
    assert len(probes.memory.top_vectors(model, IDS, n=4, layers=[2], k=1).to_dataframe()) == 4


@pytest.mark.parametrize("size", [1, 3])
def test_contexts_are_the_best_rows_whatever_the_batches(monkeypatch, size):
    model = tiny_model("llama")
    ids = tokens(9, 11, 4)
    mask = torch.ones_like(ids)
    mask[4, 6:] = 0
    batches = [
        {"input_ids": ids[i : i + size], "attention_mask": mask[i : i + size]}
        for i in range(0, 9, size)
    ]
    kept = []
    whole = contexts_module.Contexts._add
    monkeypatch.setattr(
        contexts_module.Contexts,
        "_add",
        lambda self, found: (whole(self, found), kept.append(self._state.ids.numel()))[0],
    )
    vectors = [(2, 7), (0, 3), (2, 1)]
    found = probes.memory.top_contexts(model, batches, vectors, k=3, before=2, after=1)
    assert found.documents == 9
    assert found.tokens == int(mask.sum())
    # The state never holds more than k windows of a vector, however long the corpus.
    assert max(kept) <= 2 * 3 * 4
    lengths = mask.sum(dim=1).tolist()
    alone = [coefficients_of(model, ids[row, : lengths[row]].tolist()) for row in range(9)]
    for (layer, index), contexts in zip(vectors, found.contexts, strict=True):
        rows = []
        for row in range(9):
            values = alone[row][:, layer, index]
            place = 1 + int(values[1:].abs().argmax())
            rows.append((float(values[place]), row, place, values))
        rows.sort(key=lambda one: -abs(one[0]))
        for one, (value, row, place, values) in zip(contexts, rows, strict=False):
            window = range(max(0, place - 2), min(len(values), place + 2))
            assert (one.document, one.position) == (row, place)
            assert one.coefficient == pytest.approx(value, rel=1e-4)
            assert list(one.tokens) == [tiny_tokenizer().decode([ids[row, p]]) for p in window]
            assert list(one.coefficients) == pytest.approx(values[list(window)].tolist(), rel=1e-3)
            assert window[one.at] == place
        assert len(contexts) == 3


def test_a_context_does_not_leave_its_document():
    model = tiny_model("gpt2")
    segments = torch.tensor([[0] * 5 + [1] * 6])
    batch = {"input_ids": tokens(1, 11), "segment_ids": segments}
    found = probes.memory.top_contexts(model, batch, [(0, i) for i in range(9)], before=99, after=9)
    for (one,) in found.contexts:
        assert len(one.tokens) == (5 if one.document == 0 else 6)
    assert {one.document for (one,) in found.contexts} == {0, 1}


def test_shared_vectors_are_those_in_both_lists():
    model = tiny_model("llama")
    other = tokens(1, 5, 9)[0].tolist()
    both = [{*probes.memory.top_vectors(model, ids, n=30).vectors} for ids in (IDS, other)]
    found = probes.memory.shared_vectors(model, IDS, other, n=30)
    assert {*found.vectors} == both[0] & both[1]
    assert found.expected == pytest.approx(30 * 30 / 87)
    assert probes.memory.shared_vectors(model, IDS, IDS, n=30).share == 1


def test_changes_are_told_apart_and_add_up():
    before = tiny_hf_model("llama", torch.float64)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.model.layers[2].mlp.down_proj.weight[:, 5] *= -3
    models = [probes.load_model(one, tokenizer=tiny_tokenizer()) for one in (before, after)]
    found = probes.memory.fact_changes(*models, IDS, TARGET, n=4)
    assert found.vectors[0] == (2, 5)
    assert float(found.moved[2, 5]) == pytest.approx(4)
    assert int((found.moved > 1e-12).sum()) == 1
    attributed = [probes.logit_attribution(model, IDS, 17).memory for model in models]
    assert_close(found.change, attributed[1] - attributed[0])
    parts = found.from_coefficient + found.from_vector + found.from_readout
    assert_close(parts, found.change)
    # It is the last block, so that no coefficient has changed.
    assert float(found.from_coefficient.abs().max()) < 1e-9
    assert_close(found.from_vector.sum(), found.from_vector[2, 5])


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_integrated_gradients_are_complete_and_equal_a_fine_sum_of_slopes(family):
    model = tiny_model(family, torch.float64)
    found = probes.memory.knowledge_neurons(model, IDS, TARGET, steps=40)
    assert float(found.completeness_gap.abs().max()) < 1e-4
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))[0, -1]
    assert found.probability == pytest.approx(float(logits.softmax(-1)[17]))
    coefficients = coefficients_of(model, IDS)[-1, 1]
    total, steps = torch.zeros(29, dtype=torch.float64), 150
    for step in range(steps):
        share = (step + 0.5) / steps
        given = (coefficients * share).detach().requires_grad_()

        def put(tensor, _, given=given):
            return torch.cat([tensor[:, :-1], given[None, None]], dim=1)

        with model.hooks([("blocks.1.mlp.hook_post", put)]):
            probability = model(torch.tensor([IDS]))[0, -1].softmax(-1)[17]
        total += torch.autograd.grad(probability, given)[0] / steps
    assert_close(found.attribution[1], coefficients * total, rtol=1e-2, atol=1e-5)
    assert float(found.attribution[found.top(1)[0]]) == float(found.attribution.max())


@pytest.mark.parametrize(
    ("words", "ask"),
    [
        ("29", lambda model: probes.memory.promoted_tokens(model, 0, 29)),
        ("layer 3", lambda model: probes.memory.promoted_tokens(model, 3, 0)),
        ("no token", lambda model: probes.memory.top_vectors(model, IDS, by="logit")),
        ("k is 0", lambda model: probes.memory.top_contexts(model, [], [(0, 1)], k=0)),
        ("no memory vectors", lambda model: probes.memory.top_contexts(model, [], [])),
        ("no batches", lambda model: probes.memory.top_contexts(model, [], [(0, 1)])),
        (
            "more steps",
            lambda model: probes.memory.knowledge_neurons(
                model, IDS, TARGET, steps=1, tolerance=1e-12
            ),
        ),
        (
            "one model",
            lambda model: probes.memory.fact_changes(model, tiny_model("falcon"), IDS, TARGET),
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(words, ask):
    with pytest.raises(ValueError, match=words):
        ask(tiny_model("llama"))
