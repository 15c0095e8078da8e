"""The lens against TransformerLens, against norm and unembedding by hand, and its layout."""

import pytest
import torch

import probes
from probes.choices import LensPositions, TargetSpan
from probes.lens import LensSettings, read_lens, target_ranks
from probes.prompts import lens_items
from tests.models import FAMILIES, OWN_ATTENTION, tiny_hf_model, tiny_model, tokens

LENGTHS = (5, 11, 7, 2)


def some_items(model, lengths=LENGTHS, target_length=3):
    rows = [tokens(1, length + target_length, seed=length)[0].tolist() for length in lengths]
    prompts = [row[:-target_length] for row in rows]
    return lens_items(model, prompts, [row[-target_length:] for row in rows])


def by_hand(model, ids, target):
    """Every layer's rank, log-probability, entropy and divergence after a row of token ids."""
    hf = model.hf_model
    kept = []
    handles = [
        layer.block.register_forward_hook(
            lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.anatomy.layers
    ]
    with torch.no_grad():
        final = hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    for handle in handles:
        handle.remove()
    found = []
    for stream in kept:
        with torch.no_grad():
            logits = hf.get_output_embeddings()(model.anatomy.final_norm(stream[0, -1]))
        cap = getattr(hf.config, "final_logit_softcapping", None)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        p = logits.softmax(-1)
        rank = sum(float(x) > float(logits[target]) for x in logits)
        entropy = -sum(float(x) * float(x.log()) for x in p)
        kl = sum(float(q.exp()) * float(q - x.log()) for q, x in zip(final, p, strict=True))
        found.append((rank, float(p[target].log()), entropy, kl))
    return found


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
def test_every_layer_reads_as_norm_and_unembedding_by_hand(family):
    model = tiny_model(family)
    items = some_items(model)
    read = read_lens(model, items, LensSettings(top_k=4))
    ranks = target_ranks(model, items)
    for index, item in enumerate(items):
        expected = by_hand(model, list(item.prompt_ids), item.target_ids[0])
        for layer, (rank, log_prob, entropy, kl) in enumerate(expected):
            assert int(read.readout.rank[layer, index]) == int(ranks[layer, index]) == rank
            # Sums over 101 tokens in float32, in another order.
            for name, value in (("log_prob", log_prob), ("entropy", entropy), ("kl", kl)):
                found = float(getattr(read.readout, name)[layer, index])
                assert found == pytest.approx(value, abs=2e-5), (name, layer, index)


@pytest.mark.parametrize(
    "family", ["llama", "olmo", "olmo2", "qwen3", "gemma2", "phi3", "gpt_neox", "gpt2"]
)
def test_ranks_and_log_probabilities_are_those_of_transformer_lens(family):
    from transformer_lens.tools.analysis import logit_lens

    hf_model = tiny_hf_model(family)
    model = probes.load_model(hf_model)
    bridge = model.to_transformer_lens()
    items = some_items(model, lengths=(7,))
    read = read_lens(model, items, LensSettings(positions=LensPositions.ALL, top_k=4))
    ids, target = list(items[0].prompt_ids), items[0].target_ids[0]
    theirs = logit_lens(bridge, torch.tensor([ids]), positions=None, return_type="log_probs")
    values = theirs.values[:, 0] if theirs.values.ndim == 4 else theirs.values
    values = values[-model.n_layers :]
    ranks = (values > values[..., target, None]).sum(-1)
    # float32 logits of two libraries, widened by the softmax: 1e-5 at the scale of these logits.
    torch.testing.assert_close(read.readout.log_prob, values[..., target], atol=1e-5, rtol=1e-5)
    assert torch.equal(read.readout.rank, ranks)


def test_positions_and_spans_are_teacher_forced():
    model = tiny_model("llama")
    items = some_items(model)
    everything = LensSettings(positions=LensPositions.ALL, span=TargetSpan.EVERY, top_k=2)
    read = read_lens(model, items, everything)
    for index, item in enumerate(items):
        rows = torch.nonzero(read.item == index)[:, 0].tolist()
        length = len(item.prompt_ids)
        assert read.position[rows].tolist() == list(range(length + 2))
        assert read.place[rows].tolist() == [-1] * (length - 1) + [0, 1, 2]
        first, second, third = item.target_ids
        assert read.target[rows].tolist() == [first] * length + [second, third]
        full = item.prompt_ids + item.target_ids
        for row in rows:
            position = int(read.position[row])
            expected = by_hand(model, list(full[: position + 1]), int(read.target[row]))
            assert read.readout.rank[:, row].tolist() == [rank for rank, *_ in expected]


def test_positions_may_be_named_from_either_end():
    model = tiny_model("llama")
    items = some_items(model, lengths=(5,))
    read = read_lens(model, items, LensSettings(positions=(0, -2, 3, -1)))
    assert read.position.tolist() == [0, 3, 4]
    with pytest.raises(ValueError, match=r"position -6 does not exist .* has 5 tokens: 0 to 4"):
        read_lens(model, items, LensSettings(positions=(-6,)))


def test_the_embedding_is_the_stream_before_block_0():
    model = tiny_model("gpt2")
    items = some_items(model, lengths=(5,))
    with_embedding = read_lens(model, items, LensSettings(embedding=True)).readout
    without = read_lens(model, items, LensSettings()).readout
    assert torch.equal(with_embedding.rank[1:], without.rank)
    stream = model.hf_model.transformer.wte(torch.tensor(items[0].prompt_ids[-1]))
    stream = stream + model.hf_model.transformer.wpe(torch.tensor(4))
    logits = model.anatomy.unembed(model.anatomy.final_norm(stream))
    expected = logits.log_softmax(-1)[items[0].target_ids[0]]
    torch.testing.assert_close(with_embedding.log_prob[0, 0], expected.detach())


def test_without_the_norm_streams_are_unembedded_as_they_are():
    model = tiny_model("llama")
    items = some_items(model, lengths=(5,))
    read = read_lens(model, items, LensSettings(norm=False)).readout
    batch = {"input_ids": torch.tensor([items[0].prompt_ids])}
    captured = probes.capture(model, batch, [probes.Site.RESID_POST])
    for layer in range(model.n_layers):
        logits = model.anatomy.unembed(captured["resid_post", layer][0, -1])
        expected = logits.log_softmax(-1)[items[0].target_ids[0]]
        torch.testing.assert_close(read.log_prob[layer, 0], expected.detach())


def test_translators_are_asked_for_every_block_but_the_last():
    model = tiny_model("llama")
    items = some_items(model, lengths=(5,))
    asked = []

    def doubled(layer, stream):
        asked.append(layer)
        return stream + 1.0

    read = read_lens(model, items, LensSettings(embedding=True), translate=doubled).readout
    plain = read_lens(model, items, LensSettings(embedding=True)).readout
    assert asked == [-1, 0, 1]
    assert not torch.equal(read.log_prob[:-1], plain.log_prob[:-1])
    assert torch.equal(read.log_prob[-1], plain.log_prob[-1])


def test_top_tokens_and_controls_are_those_of_the_distribution():
    model = tiny_model("llama")
    items = some_items(model)
    others = [5, 17, 23, 88]
    read = read_lens(model, items, LensSettings(top_k=3), controls={"other": others}).readout
    swapped = lens_items(model, [i.prompt_ids for i in items], [[other] for other in others])
    expected = read_lens(model, swapped, LensSettings(top_k=3)).readout
    assert torch.equal(read.control_rank[:, :, 0], expected.rank)
    top = read.top_ids[-1, 0, 0]
    best = read_lens(model, lens_items(model, [items[0].prompt_ids], [[int(top)]]), LensSettings())
    assert int(best.readout.rank[-1, 0]) == 0
    assert (read.top_log_probs.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_every_backend_reads_the_same(family, backend):
    native = tiny_model(family)
    model = probes.load_model(tiny_hf_model(family), backend=backend)
    settings = LensSettings(span=TargetSpan.EVERY, embedding=True, top_k=3)
    expected = read_lens(native, some_items(native), settings).readout
    found = read_lens(model, some_items(model), settings).readout
    # Eager instead of fused attention: float32 rounding over three layers.
    torch.testing.assert_close(found.log_prob, expected.log_prob, atol=1e-4, rtol=1e-4)
    assert (found.rank == expected.rank).double().mean() > 0.99


def test_a_model_whose_logits_are_edited_is_refused():
    model = tiny_model("llama")
    items = some_items(model)
    for asked in (items, items[:1]):
        with (
            model.hooks([("hook_unembed", lambda logits, _point: logits.flip(-1))]),
            pytest.raises(ValueError, match="readout of the last layer differs from the logits"),
        ):
            read_lens(model, asked, LensSettings())


def test_one_prompt_is_read_and_checked_in_one_pass_and_two_in_another():
    model, lengths = tiny_model("llama"), []
    hook = model.anatomy.trunk.register_forward_hook(
        lambda _module, _args, output: lengths.append(output[0].shape[1])
    )
    items = some_items(model, lengths=(11, 11))
    settings = LensSettings(span=TargetSpan.EVERY, embedding=True)
    one = read_lens(model, items[:1], settings).readout
    assert lengths == [13]
    both = read_lens(model, items, settings).readout
    assert lengths == [13, 8, 13]
    hook.remove()
    # Two rows run together round otherwise than one.
    torch.testing.assert_close(one.log_prob, both.log_prob[:, :3], atol=1e-5, rtol=1e-5)


def test_edits_before_the_last_block_are_read():
    model = tiny_model("llama")
    items = some_items(model)
    plain = read_lens(model, items, LensSettings()).readout
    with model.hooks([("blocks.1.hook_resid_post", lambda stream, _point: stream * 0.1)]):
        edited = read_lens(model, items, LensSettings()).readout
    assert torch.equal(plain.log_prob[0], edited.log_prob[0])
    assert not torch.equal(plain.log_prob[2], edited.log_prob[2])


def test_text_is_split_where_the_prompt_ends():
    model = tiny_model("llama")
    item = lens_items(model, ["w1 w2 w3"], [" w4 w5"], subjects=[(3, 8)])[0]
    assert item.prompt_ids == (4, 5, 6)
    assert item.target_ids == (7, 8)
    assert item.subject == (1, 3)


@pytest.mark.parametrize(
    ("prompts", "targets", "message"),
    [
        (["w1"], [""], "target '' has no tokens"),
        ([""], ["w1"], "prompt '' has no tokens"),
        (["w1"], [], "found 1 prompts and 0 targets"),
        ([], [], "found 0 prompts"),
        ([[3, 101]], [[4]], "prompt has token id 101 .*; .* ids 0 to 100"),
        ([[3] * 60], [[4, 5, 6]], "has 63 tokens with its target; .* takes 61"),
    ],
)
def test_bad_items_are_refused_in_one_line(prompts, targets, message):
    with pytest.raises(ValueError, match=message) as caught:
        lens_items(tiny_model("llama"), prompts, targets)
    assert "\n" not in str(caught.value)


def test_text_without_a_tokenizer_is_refused():
    model = probes.load_model(tiny_hf_model("llama"))
    with pytest.raises(ValueError, match="has no tokenizer; give token ids"):
        lens_items(model, ["w1"], ["w2"])
