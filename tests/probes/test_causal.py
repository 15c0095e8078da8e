"""Causal tracing against runs by hand, one row at a time, with plain hooks on an untouched copy."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import probes
from probes import causal
from probes.causal import Noise, causal_recovery, subject_positions
from probes.prompts import LensItem, lens_items
from tests.models import FAMILIES, N_LAYERS, tiny_hf_model, tiny_model, tokens
from tests.reference.causal_tracing import MODULES, ByHand

SITES = ("resid_post", "mlp_out", "attention_out")
PROMPT, SUBJECT, TARGET, DRAWS = 11, (2, 5), 47, 2


def an_item(length=PROMPT, subject=SUBJECT, seed=0, target=TARGET):
    return LensItem(tuple(tokens(1, length, seed)[0].tolist()), (target, 3), subject=subject)


def traced(model, items, seed=7, draws=DRAWS, **settings):
    generator = torch.Generator().manual_seed(seed)
    # Tiny models hardly know their targets, so any drop at all is let through.
    settings = {"least_drop": 1e-9} | settings
    return causal_recovery(model, items, generator=generator, draws=draws, **settings)


def noise_of(result, item):
    """The noise that was added, from the seed that the result has on record."""
    noise = Noise(result.provenance.configuration["noise_seed"], result.noise_std)
    draws = result.provenance.configuration["draws"]
    start, stop = item.subject
    return noise.of(item, draws, stop - start, 42)


@pytest.mark.parametrize("family", MODULES)
def test_every_number_is_that_of_runs_by_hand(family):
    model, item = tiny_model(family, torch.float64), an_item()
    result = traced(model, [item])
    hand = ByHand(model.hf_model, family, list(item.prompt_ids), TARGET)
    noise, subject = noise_of(result, item), [2, 3, 4]
    # float64 sums in another order, through three layers.
    close = {"rel": 1e-9, "abs": 1e-9}
    assert float(result.clean[0]) == pytest.approx(hand.log_prob(), **close)
    assert float(result.corrupted[0]) == pytest.approx(hand.restored(noise, subject), **close)
    for row, site in enumerate(SITES):
        for layer in range(N_LAYERS):
            expected = hand.restored(noise, subject, site, [layer], [4, PROMPT - 1])
            assert float(result.restored[row, layer, 0]) == pytest.approx(expected, **close)
    assert len(set(result.restored.flatten().tolist())) > 6, "restoring must make a difference"


@pytest.mark.parametrize(
    ("positions", "expected_at"),
    [
        ("both", [4, 10]),
        ("subject-last", [4]),
        ("subject", [2, 3, 4]),
        ("last", [10]),
    ],
)
def test_positions_say_where_clean_values_are_put_back(positions, expected_at):
    model, item = tiny_model("llama", torch.float64), an_item()
    result = traced(model, [item], positions=positions, sites=["mlp_out"])
    hand = ByHand(model.hf_model, "llama", list(item.prompt_ids), TARGET)
    expected = hand.restored(noise_of(result, item), [2, 3, 4], "mlp_out", [1], expected_at)
    assert float(result.restored[0, 1, 0]) == pytest.approx(expected, rel=1e-9)
    assert result.restored_at == (tuple(expected_at),)
    assert result.subjects == ((2, 3, 4),)


@pytest.mark.parametrize(
    ("window", "layers"),
    [(2, [[0], [0, 1], [1, 2]]), (3, [[0, 1], [0, 1, 2], [1, 2]])],
)
def test_a_window_restores_neighbouring_layers_of_an_output_but_not_of_the_stream(window, layers):
    model, item = tiny_model("gpt2", torch.float64), an_item()
    result = traced(model, [item], window=window)
    hand = ByHand(model.hf_model, "gpt2", list(item.prompt_ids), TARGET)
    noise = noise_of(result, item)
    for layer in range(N_LAYERS):
        for row, site in enumerate(SITES):
            chosen = [layer] if site == "resid_post" else layers[layer]
            expected = hand.restored(noise, [2, 3, 4], site, chosen, [4, 10])
            assert float(result.restored[row, layer, 0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("family", [*FAMILIES, "codegen", "falcon", "bloom"])
def test_the_stream_after_the_last_block_restored_at_the_readout_is_the_clean_run(family):
    model = tiny_model(family, torch.float64)
    for positions in ("both", "last"):
        result = traced(model, [an_item()], sites=["resid_post"], positions=positions)
        assert abs(float(result.clean - result.corrupted)) > 1e-3, "noise must reach the target"
        # The same float64 vector through the norm and unembedding, in a batch of another size.
        assert_close(result.restored[0, -1], result.clean, rtol=1e-12, atol=1e-12)
    # The stream after the last block elsewhere can no longer reach the readout.
    result = traced(model, [an_item()], sites=["resid_post"], positions="subject")
    assert_close(result.restored[0, -1], result.corrupted, rtol=1e-12, atol=1e-12)


def test_restoring_the_whole_subject_before_the_first_block_undoes_the_corruption():
    model = tiny_model("llama", torch.float64)
    result = traced(model, [an_item()], sites=["resid_pre"], positions="subject")
    assert_close(result.restored[0, 0], result.clean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_backends_agree(backend, family):
    expected = traced(tiny_model(family), [an_item()], sites=[*SITES, "resid_mid"])
    other = probes.load_model(tiny_hf_model(family), backend=backend)
    found = traced(other, [an_item()], sites=[*SITES, "resid_mid"])
    # float32 products summed by other kernels, through three layers.
    for name in ("clean", "corrupted", "restored"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    assert found.noise_std == pytest.approx(expected.noise_std, rel=1e-12)


def test_an_item_does_not_depend_on_the_others_nor_on_how_rows_are_batched(monkeypatch):
    model = tiny_model("llama", torch.float64)
    one, other = an_item(), an_item(length=7, subject=(0, 2), seed=5, target=13)
    together, done = [], []
    for items in ([one, other], [other, one]):
        together.append(traced(model, items, on_items=done.append))
    assert done == [1, 1, 1, 1]
    # float64 sums of other batch sizes.
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert_close(together[0].restored, together[1].restored.flip(-1), **close)
    monkeypatch.setattr("probes.activation_patching.BATCH_TOKENS", 5 * PROMPT)
    monkeypatch.setattr("probes.activation_patching.LOGITS_BYTES", 4 * 101 * 3)
    alone = traced(model, [one])
    assert_close(alone.restored[..., 0], together[0].restored[..., 0], **close)
    assert_close(alone.corrupted[0], together[0].corrupted[0], **close)


def test_a_generator_gives_the_same_noise_again_and_then_other_noise():
    model, generator = tiny_model("llama"), torch.Generator().manual_seed(7)
    first, second = (
        causal_recovery(model, [an_item()], generator=generator, sites=["mlp_out"], draws=2)
        for _ in range(2)
    )
    again = traced(model, [an_item()], sites=["mlp_out"])
    assert first.corrupted.tolist() == again.corrupted.tolist()
    assert first.corrupted.tolist() != second.corrupted.tolist()


def test_noise_is_normal_of_its_size_and_its_own_for_every_draw_and_prompt():
    noise = Noise(seed=3, std=0.7)
    one, other = noise.of(an_item(), 5, 13, 101), noise.of(an_item(seed=1), 5, 13, 101)
    # 13,130 draws; a right test falls below 1e-3 once in a thousand seeds, and this seed is fixed.
    values = torch.stack([one, other]).flatten().numpy()
    assert stats.kstest(values, "norm", args=(0, 0.7)).pvalue > 1e-3
    assert len({float(x) for x in torch.stack([one, other])[:, :, 0, 0].flatten()}) == 10
    same_prompt = noise.of(an_item(target=5), 5, 13, 101)
    assert torch.equal(one, same_prompt), "targets of one prompt are compared under the same noise"


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_std_is_that_of_what_the_hook_point_shows(family, monkeypatch):
    monkeypatch.setattr(causal, "_VOCABULARY_CHUNK", 7)
    model = tiny_model(family)
    rows = torch.arange(101).split(53)
    found = [
        probes.capture(model, {"input_ids": row[None]}, [probes.Site.EMBED])["hook_embed"]
        for row in rows
    ]
    expected = torch.cat([rows[0] for rows in found]).double().std(correction=0)
    # Sums of 4,242 float32 values in float64.
    assert causal.embedding_std(model) == pytest.approx(float(expected), rel=1e-10)


def test_noise_scales_with_the_asked_number_of_deviations():
    model = tiny_model("llama")
    weak, strong = (
        traced(model, [an_item()], sites=["mlp_out"], noise=noise) for noise in (0.01, 3.0)
    )
    assert strong.noise_std == pytest.approx(300 * weak.noise_std)
    assert abs(float(weak.clean - weak.corrupted)) < abs(float(strong.clean - strong.corrupted))


def test_an_edit_that_is_attached_is_in_every_run():
    model, item = tiny_model("gpt2", torch.float64), an_item()
    plain = traced(model, [item])
    shift = torch.randn(42, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with model.hooks([("blocks.1.hook_mlp_out", lambda tensor, _point: tensor + shift)]):
        edited = traced(model, [item])
    hf_model = tiny_hf_model("gpt2", torch.float64)
    hf_model.transformer.h[1].mlp.c_proj.bias.data += shift
    hand = ByHand(hf_model, "gpt2", list(item.prompt_ids), TARGET)
    expected = hand.restored(noise_of(edited, item), [2, 3, 4], "attention_out", [2], [4, 10])
    assert float(edited.restored[2, 2, 0]) == pytest.approx(expected, rel=1e-9)
    again = traced(model, [item])
    assert torch.equal(again.restored, plain.restored), "the model is left as it was"


def test_a_prompt_of_one_token_is_all_subject():
    model = tiny_model("llama", torch.float64)
    result = traced(model, [an_item(length=1, subject=None)], sites=["resid_post"])
    assert result.subjects == result.restored_at == ((0,),)
    # Its stream is all there is, at every layer.
    assert_close(result.restored[0, :, 0], result.clean.expand(N_LAYERS), rtol=1e-12, atol=1e-12)


def test_recovery_by_hand_and_nothing_where_the_corruption_took_nothing():
    clean, corrupted = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-5.0, -2.05, -1.0])
    restored = torch.tensor([[[-5.0, -2.0, -2.0], [-2.0, -2.5, -3.0], [0.0, 0.0, 0.0]]])
    result = dataclasses.replace(
        traced(tiny_model("llama"), [an_item()]),
        **{"clean": clean, "corrupted": corrupted, "restored": restored, "least_drop": 0.1},
    )
    found = result.recovery
    assert found[0, :, 0].tolist() == [0.0, 0.75, 1.25]
    assert found[:, :, 1:].isnan().all(), "a drop of 0.05 nats, and a rise"


def test_a_result_counts_items_without_recovery_and_writes_itself_out():
    items = [an_item(seed=seed, target=target) for seed, target in ((0, 47), (1, 11), (2, 5))]
    everything = traced(tiny_model("llama"), items, sites=["resid_post", "mlp_out"])
    drops = (everything.clean - everything.corrupted).tolist()
    least = sorted(drops)[1] + 1e-6
    result = traced(tiny_model("llama"), items, sites=["resid_post", "mlp_out"], least_drop=least)
    assert least > 0, "seeds were chosen so that two items drop"
    assert result.measurable.tolist() == [drop >= least for drop in drops]
    assert result.n_unmeasurable == 2
    best = drops.index(max(drops))
    assert_close(result.mean_recovery, result.recovery[:, :, best])
    assert_close(result.gain, result.restored - result.corrupted)

    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["recovery"][1][2][best] == float(result.recovery[1, 2, best])
    assert written["recovery"][0][0].count(None) == written["unmeasurable_items"] == 2
    frame = result.to_dataframe()
    assert len(frame) == 2 * N_LAYERS * 3
    row = frame.query("site == 'mlp_out' and layer == 2 and item == 1").iloc[0]
    assert row["restored"] == float(result.restored[1, 2, 1])
    assert row["clean"] == float(result.clean[1])
    assert row["corrupted"] == float(result.corrupted[1])
    assert math.isnan(row["recovery"]) == (best != 1)


def test_results_without_any_drop_have_no_mean():
    result = traced(tiny_model("llama"), [an_item()], sites=["mlp_out"], least_drop=1e6)
    assert result.n_unmeasurable == 1
    assert result.mean_recovery.isnan().all()
    assert result.to_dict()["mean_recovery"] == [[None] * N_LAYERS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0.0}, r"noise is 0\.0; give a positive number .* the clean one"),
        ({"noise": float("nan")}, r"noise is nan; give a positive"),
        ({"draws": 0}, r"window is 1 and draws is 0; give at least 1"),
        ({"window": 0}, r"window is 0 and draws is 2; give at least 1"),
        ({"least_drop": 0.0}, r"least_drop is 0\.0; give a positive number of nats"),
        ({"sites": []}, r"no site to restore; give some of resid_pre, resid_mid, resid_post, mlp_"),
        ({"sites": ["mlp_ot"]}, r"'mlp_ot' cannot be restored; give some of resid_pre, "),
        ({"sites": ["logits"]}, r"'logits' cannot be restored; give some of resid_pre, "),
        ({"positions": "first"}, r"positions must be one of both, subject-last, .* found 'first'"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        traced(tiny_model("llama"), [an_item()], **settings)
    assert "\n" not in str(caught.value)


def test_no_items_and_models_without_the_site_or_with_another_readout_are_refused():
    with pytest.raises(ValueError, match="there are no items to trace"):
        traced(tiny_model("llama"), [])
    with pytest.raises(ValueError, match="gpt_neox runs attention and MLP in parallel"):
        traced(tiny_model("gpt_neox"), [an_item()], sites=["resid_mid"])
    model = tiny_model("llama")
    with (
        model.hooks([("hook_unembed", lambda logits, _point: logits.flip(-1))]),
        pytest.raises(ValueError, match="the readout of the last layer differs from the logits"),
    ):
        traced(model, [an_item()])


def test_a_family_whose_mlp_output_no_module_has_is_refused_by_name():
    config = transformers.GraniteConfig(
        vocab_size=101,
        hidden_size=42,
        intermediate_size=29,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        residual_multiplier=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = probes.load_model(transformers.GraniteForCausalLM(config).double().eval())
    with pytest.raises(ValueError, match=r"granite was recognised .* there is no mlp_out, read"):
        traced(model, [an_item()])
    result = traced(model, [an_item()], sites=["resid_post"])
    assert_close(result.restored[0, -1], result.clean, rtol=1e-12, atol=1e-12)


def test_the_built_in_model_moves_a_capital_from_its_subject_to_the_readout(smollm2):
    items = lens_items(smollm2, ["The capital of France is"], [" Paris"])
    subject, last = (
        traced(smollm2, items, sites=["resid_post"], positions=positions, draws=1)
        for positions in ("subject", "last")
    )
    assert last.subjects == ((1, 3),)
    assert float(last.clean - last.corrupted) > 1
    # What the paper's figure shows: an early site at the subject, a late one at the readout.
    assert subject.recovery[0, 0, 0] > 0.8
    assert subject.recovery[0, -2, 0] < 0.2
    assert last.recovery[0, 0, 0] < 0.2
    assert last.recovery[0, -2, 0] > 0.8


def by_bytes():
    """A tokenizer that splits nearly everything into bytes, with special tokens in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = ["The capital of France is Paris"] * 3 + ["the this is it"] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "<|extra|>"]
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def by_pieces():
    """A SentencePiece-like tokenizer, whose pieces lose their space when decoded alone."""
    pieces = ["<s>", "▁The", "▁capital", "▁of", "▁Par", "is", "▁is", ".", "▁"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def subject_text(tokenizer, text, front=()):
    """Content words as `subject_positions` finds them, put together again."""
    ids = (*front, *tokenizer(text, add_special_tokens=False)["input_ids"])
    model = SimpleNamespace(tokenizer=tokenizer, name="it")
    positions = subject_positions(model, LensItem(ids, (1,), prompt=text))
    return tokenizer.decode([ids[p] for p in positions]), positions, ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The capital of France is", " capital France"),
        ("What is the capital of France?", " capital France"),
        ("In the US, it is", " US"),
        ("Q: Who wrote l'été, Émile's book? A:", " wrote l'été Émile's book"),
        # Nothing but function words: all tokens before the last.
        ("What is it", "What is"),
    ],
)
def test_content_words_are_the_subject_where_an_item_has_none(text, expected):
    tokenizer = by_bytes()
    found, positions, ids = subject_text(tokenizer, text)
    # A space that is a token of its own is in no word.
    assert found.replace(" ", "") == expected.replace(" ", "")
    assert len(ids) - 1 not in positions


def test_the_last_token_is_left_out_of_the_content_words_but_not_of_a_given_subject():
    assert subject_text(by_bytes(), "The capital of France")[0] == " capital"
    assert subject_text(by_bytes(), "The capital of Denmark")[0] == " capitalDenmar"
    model = tiny_model("llama")
    assert subject_positions(model, an_item(length=5, subject=(3, 5))) == (3, 4)


def test_special_tokens_are_no_subject_though_they_spell_words():
    tokenizer = by_bytes()
    front = tokenizer.convert_tokens_to_ids(["<s>", "<|extra|>"])
    found, positions, _ = subject_text(tokenizer, "The capital is", front)
    assert found.strip() == "capital"
    assert min(positions) > 2


def test_pieces_of_words_belong_to_their_word():
    found, positions, ids = subject_text(by_pieces(), "The capital of Paris is.")
    assert [by_pieces().convert_ids_to_tokens(ids[p]) for p in positions] == [
        "▁capital",
        "▁Par",
        "is",
    ]
    assert found == "capital Paris"


def test_prompts_without_a_subject_are_refused():
    bare = probes.load_model(tiny_hf_model("llama"))
    with pytest.raises(ValueError, match="has no tokenizer to find the content words"):
        traced(bare, [an_item(subject=None)])
    with pytest.raises(ValueError, match=r"subject \(9, 12\) lies outside a prompt of 11 tokens"):
        traced(bare, [an_item(subject=(9, 12))])
    with pytest.raises(ValueError, match="has only special tokens, so nothing in it can be its s"):
        traced(tiny_model("llama"), [LensItem((1, 2), (5,), prompt="<s></s>")])
