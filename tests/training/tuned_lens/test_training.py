"""Fitting a tuned lens: against SciPy, autograd and Hugging Face's hidden states; what it is worth."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import rel_entr

import probes
import training.tuned_lens_fit as fitting
from probes.corpus.token_batch import as_token_batch
from probes.translators import identity_translators, load_translators
from tests.models import D_VOCAB, N_LAYERS, padded, tiny_hf_model, tiny_model, tokens
from tests.probes.test_finite import BAD, PLACE, ROWS, overflowing
from tests.probes.test_translators import D_MODEL, drawn, streams_of
from training.lens_fits import compare_lenses, sampled_streams
from training.tuned_lens_fit import train_translators

LAYERS = N_LAYERS  # the stream before block 0, and two of three blocks


def batches(count, rows=3, length=13, seed=0):
    return [{"input_ids": tokens(rows, length, 100 * seed + i)} for i in range(count)]


def logits_by_hand(hf_model, stream):
    logits = hf_model.lm_head(hf_model.model.norm(stream))
    cap = getattr(hf_model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def kl_by_scipy(hf_model, stream, final):
    with torch.no_grad():
        read, model_says = (
            logits_by_hand(hf_model, s).double().softmax(-1).numpy() for s in (stream, final)
        )
    return rel_entr(model_says, read).sum(axis=-1)


@pytest.mark.parametrize("rows_at_once", [1, 5, 10_000])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_loss_is_scipys_and_its_slope_is_autograds(family, rows_at_once, monkeypatch):
    monkeypatch.setattr(fitting, "CHUNK_BYTES", 4 * D_VOCAB * rows_at_once)
    model = tiny_model(family)
    hf_model = model.hf_model
    generator = torch.Generator().manual_seed(4)
    moved = torch.randn(LAYERS, 7, D_MODEL, generator=generator)
    final = torch.randn(7, D_MODEL, generator=generator)
    kl, slope = fitting.kl_and_slope(model.anatomy, moved, final)
    for layer in range(LAYERS):
        # Sums over a vocabulary of 101 in float32.
        expected = kl_by_scipy(hf_model, moved[layer], final).mean()
        assert float(kl[layer]) == pytest.approx(expected, rel=1e-4)
    leaf = moved.clone().requires_grad_()
    log_probs = logits_by_hand(hf_model, leaf).log_softmax(-1)
    target = logits_by_hand(hf_model, final).log_softmax(-1).detach()
    loss = torch.nn.functional.kl_div(
        log_probs, target.expand_as(log_probs), log_target=True, reduction="sum"
    )
    (loss / 7).backward()
    # The same sums in another order.
    torch.testing.assert_close(slope, leaf.grad, rtol=1e-4, atol=1e-5)


def test_a_step_is_a_nesterov_step_along_autograds_gradient():
    """With all positions of one batch, and no clipping."""
    model, hf_model = tiny_model("llama"), tiny_model("llama").hf_model
    (batch,) = batches(1)
    found, history = train_translators(
        model, [batch], steps=1, rows_per_step=10_000, optimizer="sgd", learning_rate=0.3,
        momentum=0.8, largest_gradient=1e9,
    )  # fmt: skip
    assert history.positions == 3 * 13
    streams = [s.flatten(0, 1) for s in streams_of(hf_model, batch["input_ids"])]
    target = logits_by_hand(hf_model, streams[-1]).log_softmax(-1).detach()
    for layer in range(LAYERS):
        weight = torch.zeros(D_MODEL, D_MODEL, requires_grad=True)
        bias = torch.zeros(D_MODEL, requires_grad=True)
        moved = streams[layer] + streams[layer] @ weight.T + bias
        log_probs = logits_by_hand(hf_model, moved).log_softmax(-1)
        loss = (target.exp() * (target - log_probs)).sum(-1).mean()
        loss.backward()
        assert float(history.kl[0, layer]) == pytest.approx(loss.item(), rel=1e-4)
        # The first Nesterov step is (1 + momentum) gradients long; ours are (1 - momentum) shorter.
        size = 0.3 * (1 - 0.8) * (1 + 0.8)
        # Float32 sums over 39 positions and 101 tokens.
        torch.testing.assert_close(found.weight[layer], -size * weight.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.bias[layer], -size * bias.grad, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_layer_by_layer_and_keep_their_direction():
    generator = torch.Generator().manual_seed(6)
    weight, bias = torch.randn(3, 5, 5, generator=generator), torch.randn(3, 5, generator=generator)
    weight[2], bias[2] = weight[2] / 1000, bias[2] / 1000
    clipped, clipped_bias = weight.clone(), bias.clone()
    fitting._clip(clipped, clipped_bias, 0.7)
    for layer in range(3):
        before = torch.cat([weight[layer].flatten(), bias[layer]])
        after = torch.cat([clipped[layer].flatten(), clipped_bias[layer]])
        expected = before if layer == 2 else 0.7 * before / before.norm()
        torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_tuned_lens_beats_the_logit_lens_on_other_text(family, optimizer):
    model = tiny_model(family)
    before = model.content_hash()
    model.hf_model.train()
    text, other = batches(10, seed=1), batches(7, seed=2)
    translators, history = train_translators(
        model, text, steps=60, optimizer=optimizer, validation=other, validate_every=30
    )
    found = compare_lenses(model, other, translators)
    assert found.layers_nearer == LAYERS
    assert found.layer_labels == ("embed", "0", "1")
    # Not by luck: by three standard errors of the paired difference.
    assert (found.logit - found.fitted > 3 * found.difference_error).all()
    assert list(history.validation) == [30, 60]
    assert torch.equal(history.validation[60].fitted, found.fitted)
    assert history.kl.shape == (60, LAYERS)
    assert history.passes == 5
    assert model.content_hash() == before
    assert model.hf_model.training
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


def test_the_same_seed_gives_the_same_bits():
    runs = [
        train_translators(tiny_model("llama"), batches(3), steps=3, rows_per_step=5, seed=seed)[0]
        for seed in (7, 7, 8)
    ]
    assert torch.equal(runs[0].weight, runs[1].weight)
    assert not torch.equal(runs[0].weight, runs[2].weight)


def test_the_rate_falls_in_a_straight_line():
    settings = fitting.TranslatorSettings(steps=4, rows_per_step=5, learning_rate=0.8)
    fit, rates = fitting.TranslatorFit(tiny_model("llama"), settings), []
    for batch in batches(4):
        rates.append(fit._optimizer.param_groups[0]["lr"])
        fit.step(as_token_batch(batch))
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_drawn_once_each_and_never_from_pads(side):
    model = tiny_model("llama")
    ids, mask = padded([5, 11, 2], side)
    batch = as_token_batch({"input_ids": ids, "attention_mask": mask})
    generator = torch.Generator().manual_seed(0)
    streams = sampled_streams(model, batch, 1000, generator)
    assert streams.shape == (N_LAYERS + 1, 18, D_MODEL)
    expected = []
    for row in range(3):
        alone = streams_of(model.hf_model, ids[row][mask[row].bool()][None])
        expected.append(torch.stack(alone)[:, 0])
    expected = torch.cat(expected, dim=1)
    # Each position of the rows run alone is there once; padding costs float32 rounding.
    distances = torch.cdist(expected[-1], streams[-1])
    nearest = distances.argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(18))
    torch.testing.assert_close(streams[:, nearest], expected, rtol=1e-3, atol=1e-4)
    assert sampled_streams(model, batch, 7, generator).shape[1] == 7


def test_the_comparison_is_scipys():
    model = tiny_model("gemma2")
    hf_model, translators = model.hf_model, drawn(model)
    text = batches(2, seed=3)
    found = compare_lenses(model, text, translators, rows_per_batch=1000)
    assert found.positions == 2 * 3 * 13
    streams = [torch.cat(s, dim=0).flatten(0, 1) for s in zip(
        *(streams_of(hf_model, batch["input_ids"]) for batch in text), strict=True
    )]  # fmt: skip
    for layer in range(LAYERS):
        h = streams[layer]
        logit = kl_by_scipy(hf_model, h, streams[-1])
        moved = h + h @ translators.weight[layer].T + translators.bias[layer]
        tuned = kl_by_scipy(hf_model, moved, streams[-1])
        # Float32 streams and logits.
        assert float(found.logit[layer]) == pytest.approx(logit.mean(), rel=1e-4)
        assert float(found.fitted[layer]) == pytest.approx(tuned.mean(), rel=1e-4)
        error = (tuned - logit).std() / len(tuned) ** 0.5
        assert float(found.difference_error[layer]) == pytest.approx(error, rel=1e-3)
    table = found.to_dataframe()
    assert table["layer"].tolist() == ["embed", "0", "1"]
    assert table["tuned_kl"].tolist() == found.fitted.tolist()


def test_what_was_learnt_from_is_on_record():
    model = tiny_model("llama")
    texts = [" ".join(f"w{(7 * i + shift) % 97}" for i in range(9)) for shift in range(6)]
    text = probes.token_batches(texts, model.tokenizer, sequence_length=5, batch_size=2)
    steps = []
    translators, history = train_translators(
        model, text, steps=11, rows_per_step=3, on_step=steps.append
    )
    assert steps == [1] * 11
    training = translators.training
    # Six documents of 9 tokens and an end, in rows of 5, two a batch: 6 batches; 11 steps end
    # within the second pass, and the hash is that of all documents.
    assert history.passes == 1
    assert training["corpus_sha256"] == text.corpus.content_hash
    assert training["corpus"] == "texts"
    assert training["batching"]["sequence_length"] == 5
    assert (training["steps"], training["learning_rate"]) == (11, 1e-3)
    assert training["positions"] == history.positions == 33


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_learn_the_same(backend):
    native, other = (
        train_translators(model, batches(2), steps=2, rows_per_step=39, optimizer="sgd")[0]
        for model in (
            tiny_model("llama"), probes.load_model(tiny_hf_model("llama"), backend=backend)
        )
    )  # fmt: skip
    assert other.weights_sha256 == native.weights_sha256
    # Two small steps along gradients of one computation by two libraries, in float32.
    torch.testing.assert_close(other.weight, native.weight, rtol=1e-2, atol=1e-4)


def test_a_narrow_model_gets_translators_in_float32():
    model = tiny_model("llama", dtype=torch.bfloat16)
    translators, history = train_translators(model, batches(3), steps=30)
    assert translators.weight.dtype == torch.float32
    assert (history.kl[-3:].mean(0) < history.kl[:3].mean(0)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"rows_per_step": 0}, "rows_per_step is 0"),
        ({"optimizer": "muon"}, "optimizer must be one of adam, sgd, found 'muon'"),
        ({"learning_rate": 0.0}, "rate is 0.0; give a positive number"),
        ({"learning_rate": float("nan")}, "rate is nan"),
        ({"largest_gradient": -1.0}, "largest_gradient is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0; give a number between 0 and 1"),
        ({"validate_every": 3}, "validation needs validate_every"),
        ({"validation": batches(1)}, "validation needs validate_every"),
        ({"validate_every": 0, "validation": batches(1)}, "validate_every is 0"),
        ({"batches": []}, "there are no batches"),
        ({"batches": iter(batches(2)), "steps": 5}, "there are no batches .left. to learn from"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
    given = {"batches": batches(1), "steps": 1} | changes
    with pytest.raises(ValueError, match=message) as refusal:
        train_translators(tiny_model("llama"), given.pop("batches"), **given)
    assert "\n" not in str(refusal.value)


def test_nothing_to_compare_on_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="there were no batches to compare"):
        compare_lenses(model, [], drawn(model))


@pytest.mark.slow
def test_on_the_built_in_model_it_beats_the_logit_lens_at_every_layer(smollm2):
    def text(name, tokens):
        return probes.token_batches(
            probes.load_corpus(name), smollm2.tokenizer,
            sequence_length=128, batch_size=1, max_tokens=tokens,
        )  # fmt: skip

    translators, _ = train_translators(smollm2, text("general-train", None), steps=40)
    found = compare_lenses(smollm2, text("general-heldout", 512), translators, rows_per_batch=32)
    assert found.layers_nearer == smollm2.n_layers
    assert translators.weights_sha256 == smollm2.content_hash()


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_does():
    runs = []
    for device in ("cpu", "cuda"):
        model = tiny_model("llama")
        model.hf_model.to(device)
        runs.append(
            train_translators(model, batches(2), steps=2, rows_per_step=39, optimizer="sgd")[0]
        )
    assert runs[1].weight.device.type == "cuda"
    # Float32 products of two devices, two small steps.
    torch.testing.assert_close(runs[1].weight.cpu(), runs[0].weight, rtol=1e-2, atol=1e-4)


def overflowing_batches():
    """Rows of which the third overflows in float16."""
    return [{"input_ids": ROWS}]


def test_a_tuned_lens_of_a_model_that_overflows_is_refused_where_it_begins():
    place = rf"a residual stream is not finite: it begins with inf at {PLACE}, in document {BAD}"
    with pytest.raises(ValueError, match=place + r".* load it with dtype='bfloat16'"):
        train_translators(overflowing(), overflowing_batches(), steps=1, rows_per_step=10_000)


def test_translators_that_run_away_are_refused():
    with pytest.raises(ValueError, match=r"a translat(or|ed stream) is not finite, at"):
        train_translators(tiny_model("llama"), batches(3), steps=41, learning_rate=1e37)


def test_a_file_of_translators_that_are_not_finite_is_refused(tmp_path):
    model = tiny_model("llama")
    path = identity_translators(model).save(tmp_path) / "translators.safetensors"
    tensors = load_file(path)
    tensors["bias"][1, 2] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"translators.safetensors is not finite, at bias"):
        load_translators(tmp_path, model)
