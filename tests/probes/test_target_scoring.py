"""Target log-probabilities against Hugging Face's logits, one row at a time, by nested loops."""

import pytest
import torch

import probes
import probes.target_pass
from interventions import AttentionTemperature, applied
from probes import target_pass
from probes.target_pass import why_not_shared
from tests.models import FAMILIES, tiny_hf_model, tiny_model, tokens
from tests.reference.official_probe_score import official_scores

WINDOWED = ("mistral", "olmo3", "gemma2", "gemma3_text")
LOOSE = 3e-5
"""Logits of float32 eager attention, or of its float32 softmax in a float64 model, on sums of up to
five log-probabilities of size 10; products in another order."""


def some_items(prompts=11, seed=3):
    """Prompts of up to 12 tokens, some of which begin alike, with one to three targets each."""
    stem = tokens(1, 12, seed=seed)[0].tolist()
    found = []
    for i in range(prompts):
        own = tokens(1, 1 + (5 * i) % 12, seed=seed + 1 + i)[0].tolist()
        prompt = stem[: (3 * i) % 9] + own
        for j in range(1 + i % 3):
            found.append(
                (prompt[:12], tokens(1, 1 + (i + 2 * j) % 5, seed=100 + i + 7 * j)[0].tolist())
            )
    return found


def by_hand(hf_model, prompt, target):
    """Log-probability of each token of a target, from the logits of the row by itself."""
    with torch.no_grad():
        log_probs = hf_model(torch.tensor([prompt + target])).logits[0].double().log_softmax(-1)
    return [float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(target)]


def model_of(family, attention="sdpa", dtype=torch.float64, window=None):
    hf_model = tiny_hf_model(family, dtype)
    if family in WINDOWED and window is not None:
        hf_model.config.sliding_window = window
    if family == "gemma2":
        attention = "eager"  # the only one that caps scores
    hf_model.set_attn_implementation(attention)
    return probes.load_model(hf_model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_every_item_by_itself(family, attention):
    model = model_of(family, attention, window=53)
    items = some_items()
    expected = [sum(by_hand(model.hf_model, *item)) for item in items]
    assert why_not_shared(model) is None
    exact = attention == "sdpa" and family != "gemma2"
    for share in (True, False):
        found = probes.target_log_probs(model, items, "sum", share_prefixes=share)
        # float64 throughout, but for eager attention's softmax.
        assert found.tolist() == pytest.approx(expected, abs=1e-12 if exact else LOOSE)


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_narrower_than_a_sequence_are_respected(family):
    """The tiny models see three tokens back; a shared row would let them see all."""
    model = model_of(family)
    items = some_items()
    expected = [sum(by_hand(model.hf_model, *item)) for item in items]
    found = probes.target_log_probs(model, items, "sum")
    assert found.tolist() == pytest.approx(expected, abs=LOOSE if family == "gemma2" else 1e-12)


def test_starts_in_common_run_once():
    model = tiny_model("llama")
    stem = tokens(1, 23)[0].tolist()
    items = [(stem, [i, i + 1, i + 2]) for i in range(3, 9)]
    ran = []
    with model.hooks([("hook_embed", lambda stream, _point: ran.append(stream.shape[:2].numel()))]):
        probes.target_log_probs(model, items)
        shared = ran[-1]
        probes.target_log_probs(model, items, share_prefixes=False)
    # The last token of a target is predicted and not run.
    assert (shared, ran[-1]) == (23 + 6 * 2, 6 * (23 + 2))


def test_only_positions_that_predict_a_target_are_unembedded(monkeypatch):
    model = tiny_model("qwen2", torch.float64)
    rows = []
    real = probes.target_pass.unembed
    monkeypatch.setattr(
        probes.target_pass, "unembed", lambda a, s: (rows.append(len(s)), real(a, s))[1]
    )
    prompt = tokens(1, 17)[0].tolist()
    items = [(prompt, [5]), (prompt, [6]), (prompt, [7, 8]), (prompt, [7, 9])]
    whole = probes.target_log_probs(model, items)
    # The end of the prompt predicts four first tokens, and 7 predicts two second ones.
    assert rows == [2]
    monkeypatch.setattr(probes.target_pass, "_LOGITS_BYTES", 4 * model.d_vocab)
    # float64, the same products in matrices of another height.
    in_chunks = probes.target_log_probs(model, items)
    assert rows == [2, 1, 1]
    torch.testing.assert_close(in_chunks, whole, rtol=1e-12, atol=0)


def test_batches_do_not_matter(monkeypatch):
    model = tiny_model("gpt_neox", torch.float64)
    whole = probes.target_log_probs(model, some_items())
    monkeypatch.setattr(probes.target_pass, "_BATCH_TOKENS", {"cpu": 29})
    done = []
    in_batches = probes.target_log_probs(model, some_items(), on_items=done.append)
    assert len(done) > 3
    assert sum(done) == len(some_items())
    # float64, rows of another height.
    torch.testing.assert_close(in_batches, whole, rtol=1e-12, atol=0)


def test_reductions_by_hand():
    model = tiny_model("opt", torch.float64)
    items = some_items()
    each = [by_hand(model.hf_model, *item) for item in items]
    total = probes.target_log_probs(model, items, "sum")
    mean = probes.target_log_probs(model, items)
    padded = probes.target_log_probs(model, items, probes.PaddedMean(len(items), 1))
    longest = max(len(prompt) + len(target) for prompt, target in items)
    # float64 throughout.
    assert total.tolist() == pytest.approx([sum(x) for x in each], abs=1e-12)
    assert mean.tolist() == pytest.approx([sum(x) / len(x) for x in each], abs=1e-12)
    assert padded.tolist() == pytest.approx([sum(x) / (longest - 1) for x in each], abs=1e-12)


# 21 items over 1, 2 and 4 processes: 0, 1 and 3 of them are dealt twice; 2 over 5: all are.
@pytest.mark.parametrize("count", [21, 2])
@pytest.mark.parametrize(("batch_size", "world_size"), [(16, 4), (3, 2), (4, 1), (2, 5)])
def test_the_padded_mean_is_that_of_the_released_code(count, batch_size, world_size):
    model = tiny_model("olmo", torch.float64)
    # The longest first, so that it matters who meets them twice.
    items = sorted(some_items()[:count], key=lambda item: -len(item[0]))
    assert len(items) == count
    expected = official_scores(model.hf_model, items, batch_size, world_size)
    found = probes.target_log_probs(model, items, probes.PaddedMean(batch_size, world_size))
    # The same float64 logits, summed in another order.
    assert found.tolist() == pytest.approx([expected[i] for i in range(count)], abs=1e-12)


def test_text_is_split_as_the_lens_splits_it(smollm2):
    """Both sides of a border that the tokenizer would join, and a clean one."""
    items = [("The capital of France is", " Paris"), ("unbeliev", "able"), ("I saw a co", "at")]
    encoded = probes.prompts.lens_items(smollm2, *zip(*items, strict=True))
    ids = [(list(item.prompt_ids), list(item.target_ids)) for item in encoded]
    expected = [sum(by_hand(smollm2.hf_model, *pair)) / len(pair[1]) for pair in ids]
    for given in (items, encoded, ids, [items[0], encoded[1], ids[2]]):
        # float32 logits of 30 layers, in rows of another length.
        found = probes.target_log_probs(smollm2, given)
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_half_precision_logits_are_widened_before_the_softmax():
    hf_model = tiny_hf_model("llama", torch.bfloat16)
    items = some_items()[:1]
    found = probes.target_log_probs(probes.load_model(hf_model), items, share_prefixes=False)
    expected = by_hand(hf_model, *items[0])
    # The same bfloat16 logits; a softmax in bfloat16 would be off by 1e-2.
    assert found[0] == pytest.approx(sum(expected) / len(expected), rel=1e-6)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_run_every_item_by_itself(backend):
    hf_model = tiny_hf_model("gpt_neox")
    items = some_items(5)
    expected = [sum(by_hand(hf_model, *item)) for item in items]
    model = probes.load_model(hf_model, backend=backend)
    assert why_not_shared(model) == f"the {backend} backend makes masks and positions itself"
    # float32.
    assert probes.target_log_probs(model, items, "sum").tolist() == pytest.approx(
        expected, abs=LOOSE
    )


def test_a_model_that_counts_places_itself_gets_rows_of_their_own():
    """An edit that adds to every stream what its place in the row is, as a recurrence might."""
    model = tiny_model("llama")

    def by_place(stream, _point):
        return stream + 0.1 * torch.arange(stream.shape[1])[:, None]

    with model.hooks([("blocks.1.hook_resid_pre", by_place)]):
        assert "a token gets something else in a shared row" in why_not_shared(model)
        found = probes.target_log_probs(model, some_items())
        apart = probes.target_log_probs(model, some_items(), share_prefixes=False)
    assert torch.equal(found, apart)
    assert why_not_shared(model) is None


def test_attention_that_takes_no_mask_is_said():
    model = tiny_model("llama")
    model.hf_model.config._attn_implementation = "flash_attention_2"
    assert why_not_shared(model) == "flash_attention_2 attention takes no mask of one's own"


def test_edits_count_and_are_the_same_in_shared_rows():
    model = tiny_model("olmo2", torch.float64)
    before = probes.target_log_probs(model, some_items())
    with applied(model, AttentionTemperature(1.7)):
        found = probes.target_log_probs(model, some_items())
        apart = probes.target_log_probs(model, some_items(), share_prefixes=False)
    # float64 throughout.
    torch.testing.assert_close(found, apart, rtol=1e-12, atol=0)
    assert not torch.allclose(found, before, rtol=0.01)


def test_the_model_is_left_as_it_was():
    model = tiny_model("gpt2")
    model.hf_model.train()
    probes.target_log_probs(model, some_items(5))
    assert model.hf_model.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


def found_by_a_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_pass, "_BATCH_TOKENS", {"cpu": 61})
        model = tiny_model("llama")
        return probes.target_log_probs(model, some_items(), distributed=True).tolist()


def test_two_processes_give_what_one_gives(both_found, monkeypatch):
    monkeypatch.setattr(target_pass, "_BATCH_TOKENS", {"cpu": 61})
    one = probes.target_log_probs(tiny_model("llama"), some_items())
    # The same batches in the same order; only who runs them differs.
    assert both_found[__name__][1] == pytest.approx(one.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("items", "reduction", "message"),
    [
        ([], "sum", r"each prompt needs a target: found 0 prompts and 0 targets"),
        ([([3], [])], "sum", r"target \[\] has no tokens"),
        ([([], [3])], "sum", r"prompt \[\] has no tokens"),
        ([([3], [101])], "sum", r"target has token id 101 .*; .* has ids 0 to 100"),
        ([([3] * 60, [4, 5, 6])], "sum", r"has 63 tokens with its target; .* takes 61"),
        ([([3], [4])], "mean", r"reduction must be one of token_mean, sum, or a PaddedMean; found"),
        (["w1 w2"], "sum", r"item 0 is the string 'w1 w2'; give a list of"),
        ([("w1", "w2", "w3")], "sum", r"item 0 is a tuple of 3; give a list of"),
    ],
)
def test_what_cannot_be_scored_is_refused(items, reduction, message):
    with pytest.raises(ValueError, match=message):
        probes.target_log_probs(tiny_model("llama"), items, reduction)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("world_size", -1)])
def test_batches_of_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}: give 1 or more"):
        probes.PaddedMean(**{name: value})
