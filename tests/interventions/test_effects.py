"""Effects of an edit: the numbers of the measurements that they are made of, in one pass."""

import pytest
import torch

import probes
from interventions import Resuscitation, patch_weights
from interventions.patch_run import measure_effects
from probes.perplexity import measure_perplexity
from tests.models import tiny_hf_model, tiny_model, tokens


def batches(seed=0):
    return [{"input_ids": tokens(3, 13, seed)}, {"input_ids": tokens(2, 7, seed + 1)}]


def test_one_pass_gives_what_separate_measurements_give():
    model, runs = tiny_model("qwen3"), []
    counter = model.hf_model.model.register_forward_hook(lambda *_: runs.append(1))
    found = measure_effects(model, batches(), batches(5), blocks=3)
    counter.remove()
    assert len(runs) == 4
    expected = probes.measure_entropy(model, batches(), blocks=3)
    # The same code on the same batches: the same bits.
    assert torch.equal(found.entropies.knowledge.per_layer, expected.knowledge.per_layer)
    assert found.entropies.provenance == expected.provenance
    totals = found.totals()
    assert totals["knowledge_entropy"] == expected.knowledge.total
    assert totals["contribution_entropy"] == expected.contribution.total
    assert totals["attention_entropy"] == expected.attention.total
    assert totals["next_token_entropy"] == expected.next_token.mean
    text = measure_perplexity(model, batches(), blocks=3)
    assert totals["loss"] == text.mean_loss
    assert found.text.interval == text.interval
    held_out = measure_perplexity(model, batches(5))
    assert totals["held_out_loss"] == held_out.mean_loss
    assert totals["held_out_perplexity"] == held_out.perplexity


def test_without_held_out_text_nothing_is_said_of_it():
    seen = []
    found = measure_effects(tiny_model("gpt2"), batches(), on_batch=seen.append)
    assert found.held_out is None
    assert found.totals()["held_out_perplexity"] is None
    assert seen == [39, 14]


def test_provenance_says_which_corpus():
    model = tiny_model("llama")
    texts = ["w1 w2 w3 w4", "w5 w6 w7"]
    tokenised = probes.token_batches(texts, model.tokenizer, sequence_length=5)
    for read in (tokenised, tokenised.kept()):
        origin = measure_effects(model, read).entropies.provenance
        assert origin.corpus == "texts"
        assert origin.corpus_sha256 == tokenised.content_hash
        assert origin.configuration["sequence_length"] == 5


@pytest.mark.parametrize("site", ["up", "down", "preserving"])
def test_in_the_weights_both_entropies_are_those_of_an_edited_model(site):
    """Against a model whose weights are scaled by hand; first layers, whose inputs stay."""
    model = tiny_model("llama", torch.float64)
    before = measure_effects(model, batches())
    edit = Resuscitation(before.entropies, 0.4, 3.0, site)
    u = edit.multipliers()
    by_hand = tiny_hf_model("llama", torch.float64)
    for layer, row in zip(by_hand.model.layers, u, strict=True):
        if site in ("up", "preserving"):
            layer.mlp.up_proj.weight.data *= row[:, None]
        if site in ("down", "preserving"):
            layer.mlp.down_proj.weight.data *= row if site == "down" else 1 / row
    expected = probes.measure_entropy(probes.load_model(by_hand), batches())
    report = patch_weights(model, edit)
    after = measure_effects(model, batches())
    report.undo()
    # float64; one product in another order.
    for name in ("knowledge", "contribution"):
        torch.testing.assert_close(
            getattr(after.entropies, name).per_layer,
            getattr(expected, name).per_layer,
            rtol=1e-12,
            atol=0,
        )
    moved = {
        "up": ("knowledge", "contribution"),
        "down": ("contribution",),
        "preserving": ("knowledge",),
    }[site]
    for name in ("knowledge", "contribution"):
        change = (
            getattr(after.entropies, name).per_layer[0]
            - getattr(before.entropies, name).per_layer[0]
        )
        # Of entropies of some 3 nats; what does not move is off by rounding alone.
        assert (abs(float(change)) > 1e-3) is (name in moved)
