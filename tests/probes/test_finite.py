"""What is not finite is no number: every reading of a model refuses it, and says where it began.

The model here is right in float32 and overflows in float16, at one neuron of layer 1, on some
tokens only: the row of that neuron's up projection is made so long that its coefficient passes
65504 on the first row of tokens and on no other.
"""

from functools import cache

import pytest
import torch
from torch.testing import assert_close

import analysis
import probes
from probes.checking import few_tokens
from probes.entropy import next_token_entropy
from probes.generation import generate
from probes.lens import LensSettings, read_lens, target_ranks
from probes.prompts import lens_items
from probes.scoring import exact_matches
from tests.models import padded, tiny_hf_model, tiny_model, tiny_tokenizer, tokens

BACKENDS = ("native", "transformer_lens", "nnsight")
ROWS = tokens(5, 11, seed=3)
BAD = 2
"""The row that overflows."""
PLACE = "blocks.1.mlp.hook_post"


@cache
def neuron_and_scale() -> tuple[int, float]:
    """A neuron whose largest coefficient is on the bad row, and what brings that over 65504."""
    model = probes.load_model(tiny_hf_model("llama"))
    ids = torch.cat([ROWS, few_tokens(101, torch.device("cpu")).repeat(1, 2)[:, :11]])
    largest = model.run_with_cache(ids, PLACE)[1][PLACE].abs().amax(dim=1)
    others = torch.cat([largest[:BAD], largest[BAD + 1 :]]).amax(dim=0)
    ratio = largest[BAD] / others
    neuron = int(ratio.argmax())
    assert ratio[neuron] > 1.2, "no neuron tells the row apart by enough for float16"
    return neuron, float(65504 * ratio[neuron].sqrt() / largest[BAD, neuron])


def overflowing(dtype: torch.dtype = torch.float16, backend: str = "native"):
    neuron, scale = neuron_and_scale()
    hf_model = tiny_hf_model("llama")
    hf_model.model.layers[1].mlp.up_proj.weight.data[neuron] *= scale
    # So long a coefficient times an ordinary memory vector would throw off all later layers.
    hf_model.model.layers[1].mlp.down_proj.weight.data[:, neuron] /= scale
    for parameter in hf_model.parameters():
        parameter.data = parameter.data.to(dtype)
    return probes.load_model(hf_model, tokenizer=tiny_tokenizer(), backend=backend)


def batch(rows=slice(None)):
    return {"input_ids": ROWS[rows]}


def items():
    return [(tuple(row.tolist()), (7, 11)) for row in ROWS]


def readings():
    def ranks(model):
        prompts, targets = zip(*items(), strict=True)
        return target_ranks(model, lens_items(model, prompts, targets))

    def lens(model):
        prompts, targets = zip(*items(), strict=True)
        return analysis.lens(model, prompts, targets, top_k=2)

    def generated(model, **how):
        return generate(model, ROWS.tolist(), max_new_tokens=3, **how)

    def drawn(model):
        return generated(model, temperature=0.7, generator=torch.Generator().manual_seed(1))

    def causal(model):
        prompts, targets = zip(*items(), strict=True)
        asked = lens_items(model, prompts, targets, subjects=[(0, 2)] * len(prompts))
        return probes.causal_recovery(model, asked, generator=torch.Generator().manual_seed(1))

    def streamed(model):
        return probes.stream(model, [batch()], {"blocks.0.mlp.hook_post": probes.RunningMean()})

    def entropy(kind):
        return lambda model: probes.measure_entropy(model, [batch()], kinds=[kind])

    return {
        "knowledge": entropy("knowledge"),
        "attention": entropy("attention"),
        "next_token": entropy("next_token"),
        "perplexity": lambda model: probes.measure_perplexity(model, [batch()]),
        "scores": lambda model: probes.target_log_probs(model, items()),
        "choices": lambda model: probes.choice_scores(model, [items()]),
        "exact match": lambda model: exact_matches(model, items()),
        "ranks": ranks,
        "lens": lens,
        "causal": causal,
        "generate": generated,
        "draw": drawn,
        "stream": streamed,
    }


@pytest.mark.parametrize("name", readings())
def test_no_reading_of_a_model_that_overflows_gives_a_number(name):
    with pytest.raises(ValueError, match=f"inf at {PLACE}") as refused:
        readings()[name](overflowing())
    said = str(refused.value)
    assert "float16" in said
    assert "dtype='bfloat16'" in said
    assert "\n" not in said


@pytest.mark.parametrize("name", readings())
def test_the_same_weights_in_float32_are_read(name):
    assert readings()[name](overflowing(torch.float32)) is not None


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", ["knowledge", "next_token", "perplexity", "scores", "lens"])
def test_other_backends_refuse_it_too(backend, name):
    with pytest.raises(ValueError, match=f"inf at {PLACE}"):
        readings()[name](overflowing(backend=backend))


def test_the_document_and_the_item_are_named():
    model = overflowing()
    with pytest.raises(ValueError, match=f"document {BAD} "):
        probes.measure_entropy(model, [batch()], kinds=["next_token"])
    with pytest.raises(ValueError, match=f"item {BAD} "):
        probes.target_log_probs(model, items())
    # The second batch, whose rows are counted from 3 on.
    with pytest.raises(ValueError, match="document 3 "):
        probes.measure_perplexity(model, [batch([0, 1, 3]), batch([BAD])])


def test_pads_that_are_not_finite_are_no_reason_to_refuse():
    ids, mask = padded([11, 5, 7], "right")
    rows = {"input_ids": ids, "attention_mask": mask}
    model = tiny_model("llama")

    def spoil_pads(stream, _point):
        return stream.masked_fill(mask[..., None] == 0, float("nan"))

    def measured():
        found = probes.measure_entropy(model, [rows])
        loss = probes.measure_perplexity(model, [rows]).mean_loss
        return found.knowledge.total, found.attention.total, found.next_token.mean, loss

    expected = measured()
    last = ["blocks.2.mlp.hook_post", "blocks.2.hook_resid_post", "ln_final.hook_out"]
    with model.hooks([(name, spoil_pads) for name in last]):
        assert measured() == expected


def test_the_entropy_of_logits_that_are_no_distribution_is_no_number():
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, nan, 2.0], [1.0, inf, 2.0], [nan] * 3, [-inf] * 3]
    assert next_token_entropy(torch.tensor(rows)).isnan().all()
    impossible = next_token_entropy(torch.tensor([[0.0, 0.0, -inf]]))
    assert_close(impossible, torch.tensor([2.0]).log(), rtol=1e-6, atol=0)


def test_a_weight_that_is_not_finite_is_named_when_the_model_is_loaded_and_when_it_is_read():
    hf_model = tiny_hf_model("llama")
    hf_model.model.layers[2].mlp.gate_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(ValueError, match=r"first at blocks\.2\.mlp\.hook_pre.*layers\.2\.mlp"):
        probes.load_model(hf_model)
    model = probes.load_model(tiny_hf_model("llama"))
    model.hf_model.model.embed_tokens.weight.data[int(ROWS[BAD, 4])] = float("inf")
    with pytest.raises(ValueError, match=r"inf at hook_embed, in item 2.*weight \S*embed_tokens"):
        probes.target_log_probs(model, items(), share_prefixes=False)


def test_a_rank_among_logits_of_which_one_is_no_number_is_refused():
    model = overflowing(torch.float32)
    head = model.hf_model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    asked = lens_items(model, *zip(*items(), strict=True))
    before = target_ranks(model, asked)
    head.weight.data[50] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        target_ranks(model, asked)
    assert (before >= 0).all()


def test_a_lens_whose_translators_overflow_is_refused_by_its_layer():
    model = overflowing(torch.float32)

    def translate(layer, stream):
        return stream * float("inf") if layer == 1 else stream

    translate.name = "tuned"
    asked = lens_items(model, *zip(*items(), strict=True))
    with pytest.raises(ValueError, match="readout of layer 1 is not finite"):
        read_lens(model, asked, LensSettings(), translate=translate)
    assert analysis.lens(model, *zip(*items(), strict=True)).rank.shape == (3, len(ROWS))
