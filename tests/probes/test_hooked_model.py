"""A hooked model used as TransformerLens users would, beside a TransformerBridge."""

import pytest
import torch
from torch.testing import assert_close

import probes
from tests.models import on, tiny_hf_model, tiny_model, tiny_tokenizer, tokens

TEXTS = ["w3 w1 w4 w1 w5", "w9 w2", "w6 w5 w3"]


def test_texts_of_several_lengths_get_what_each_gets_by_itself():
    model = on("native", "gpt2")
    together, cache = model.run_with_cache(TEXTS, "blocks.1.mlp.hook_post")
    for row, text in enumerate(TEXTS):
        alone, own = model.run_with_cache(text, "blocks.1.mlp.hook_post")
        length = alone.shape[1]
        # Padded rows are summed by another kernel, in float32.
        assert_close(together[row, -length:], alone[0], rtol=1e-4, atol=1e-4)
        name = "blocks.1.mlp.hook_post"
        assert_close(cache[name][row, -length:], own[name][0], rtol=1e-4, atol=1e-4)


def test_the_loss_is_hugging_faces_and_leaves_out_pads():
    model = on("native", "llama")
    ids = tokens(2, 7)
    expected = model.hf_model(ids, labels=ids).loss
    assert_close(model(ids, return_type="loss"), expected, rtol=1e-6, atol=1e-6)
    assert model(ids, return_type=None) is None
    sums = [model(text, return_type="loss") * (len(text.split()) - 1) for text in TEXTS]
    # Seven predictions in three texts.
    logits, loss = model(TEXTS, return_type="both")
    assert_close(loss, sum(sums) / 7, rtol=1e-4, atol=1e-4)
    assert logits.shape == (3, 5, 101)


def test_text_and_tokens_go_both_ways():
    model = on("native", "llama")
    assert model.to_str_tokens("w3 w1") == ["w3", "w1"]
    assert model.to_str_tokens(["w3 w1", "w2"]) == [["w3", "w1"], ["w2"]]
    assert model.to_str_tokens(torch.tensor([[6, 4]])) == ["w3", "w1"]
    assert model.to_str_tokens("w3", prepend_bos=True) == ["<s>", "w3"]
    assert model.to_string([6, 4]) == "w3 w1"
    assert model.to_string(torch.tensor([[6, 4], [3, 5]])) == ["w3 w1", "w0 w2"]
    assert model.to_single_token("w7") == 10
    assert model.to_single_str_token(10) == "w7"
    with pytest.raises(ValueError, match=r"'w3 w1' is 2 tokens, \['w3', 'w1'\]"):
        model.to_single_token("w3 w1")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_it_writes_what_a_bridge_writes(family):
    model = tiny_model(family)
    bridge = model.to_transformer_lens()
    text = bridge.generate(
        "w3 w1 w4", max_new_tokens=7, do_sample=False, prepend_bos=False, verbose=False
    )
    assert model.generate("w3 w1 w4", max_new_tokens=7) == text
    ids = tokens(2, 5)
    given = {"max_new_tokens": 7, "do_sample": False}
    expected = bridge.generate(ids, **given, stop_at_eos=False, verbose=False)
    assert torch.equal(model.generate(ids, **given, stop_at_eos=False), expected)
    assert model.generate(TEXTS, 3) == [model.generate(text, 3) for text in TEXTS]
    # The first new token of the first row ends it; the row is filled with it.
    stop = int(expected[0, 5])
    stopped = model.generate(ids, **given, eos_token_id=stop)
    assert stopped[0, 5:].tolist() == [stop] * (stopped.shape[1] - 5)


def test_drawing_takes_a_seed_and_ends_are_the_models_own():
    model = on("native", "llama")
    drawn = [model.generate("w3", 9, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert model.generate("w3", 9, top_k=1) == model.generate("w3", 9)
    assert model.generate("w3", 9, do_sample=True) != model.generate("w3", 9)
    # The tokenizer ends texts with 2; here that is all that the model can write.
    with model.hooks([("hook_unembed", lambda logits, _hook: 0 * logits + torch.eye(101)[2])]):
        assert model.generate(tokens(1, 3)).shape == (1, 4)
        assert model.generate(tokens(1, 3), stop_at_eos=False).shape == (1, 13)
    with pytest.raises(ValueError, match=r"prompts have .* tokens, so their rows are no tensor"):
        model.generate(TEXTS, return_type="tokens")


def test_functions_know_the_name_of_where_they_are_and_are_gone_afterwards():
    model, names = on("native", "gpt2"), []
    before = model(tokens(1, 5))

    def double(tensor, hook):
        names.append((hook.name, hook.layer))
        return tensor * 2

    hooks = [(lambda name: name.endswith("mlp.hook_pre"), double), ("hook_embed", double)]
    changed = model.run_with_hooks(tokens(1, 5), fwd_hooks=hooks)
    assert names == [
        ("hook_embed", None),
        *((f"blocks.{layer}.mlp.hook_pre", layer) for layer in range(3)),
    ]
    assert not torch.allclose(changed, before)
    assert torch.equal(model(tokens(1, 5)), before)
    loss = model.run_with_hooks("w3 w1", [("hook_embed", lambda *_: None)], return_type="loss")
    assert torch.equal(loss, model("w3 w1", return_type="loss"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m("w1", return_type="logit"), "nearest|logits"),
        (lambda m: m(torch.tensor([[5]]), return_type="loss"), "rows of two tokens or more"),
        (lambda m: m("w1 w2", attention_mask=torch.ones(1, 2).int()), "goes with token ids"),
        (lambda m: m.generate("w1", return_type="text"), "give 'input', 'str' or 'tokens'"),
        (lambda m: m.run_with_hooks("w1", [("hook_embd", print)]), "nearest is 'hook_embed'"),
        (lambda m: probes.load_model(m.hf_model).to_string([5]), "has no tokenizer"),
    ],
)
def test_mistakes_get_one_line(call, message):
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match=message):
        call(model)
