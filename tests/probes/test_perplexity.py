"""Perplexity against Hugging Face's own loss, one document at a time, and the jackknife by hand."""

import math

import numpy as np
import pytest
import torch

import probes
import probes.perplexity
from probes import perplexity
from probes.choices import Coefficient, Weighting
from probes.corpus.batching import token_batches
from probes.corpus_means import Resampling, jackknife_interval
from probes.measure import KnowledgeMeter, NextTokenMeter, PassSettings, run_pass
from probes.perplexity import LossMeter, TextBytes
from tests.models import FAMILIES, padded, tiny_hf_model, tiny_model, tiny_tokenizer, tokens

LENGTHS = [11, 5, 17, 7, 1, 3]
TEXTS = [" ".join(f"w{(7 * i + 5 * n) % 97}" for i in range(n)) for n in LENGTHS]


def measure_perplexity(*arguments, **keywords):
    return perplexity.measure_perplexity(*arguments, **keywords)


def hf_loss(hf_model, ids):
    """Hugging Face's loss of one row, float64."""
    row = torch.as_tensor(ids)[None]
    with torch.no_grad():
        return float(hf_model(row, labels=row).loss)


def by_document(hf_model, rows):
    """Mean loss and number of predicted tokens of every row, by Hugging Face."""
    found = [(hf_loss(hf_model, row), len(row) - 1) if len(row) > 1 else (0, 0) for row in rows]
    return np.array(found).T


# Hugging Face takes its loss from logits rounded to float32, whatever the model. gemma2 is float32
# altogether, which costs another digit: transformers' eager attention, the only one that caps
# scores, gives NaN for padded rows in float64.
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_loss_is_that_of_hugging_face_document_by_document(family, side):
    dtype, bar = (torch.float32, 1e-5) if family == "gemma2" else (torch.float64, 1e-6)
    hf_model = tiny_hf_model(family, dtype)
    ids, mask = padded(LENGTHS, side)
    losses, counts = by_document(
        hf_model, [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
    )
    found = measure_perplexity(
        probes.load_model(hf_model), [{"input_ids": ids, "attention_mask": mask}]
    )
    assert found.mean_loss == pytest.approx((losses * counts).sum() / counts.sum(), rel=bar)
    assert found.per_document_tokens.tolist() == counts.tolist()
    several = counts > 0
    np.testing.assert_allclose(
        found.per_document_loss.numpy()[several], losses[several], rtol=bar, atol=0
    )
    assert found.per_document_loss[LENGTHS.index(1)].isnan()
    assert found.tokens == sum(LENGTHS) - len(LENGTHS)
    assert found.documents == len(LENGTHS)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_nothing_is_predicted_across_documents_or_rows(batch_size):
    """Packed rows by nested loops over their logits, each pair of neighbours on its own."""
    model = tiny_model("llama", torch.float64)
    batches = probes.token_batches(
        TEXTS, model.tokenizer, sequence_length=13, batch_size=batch_size
    )
    sums, counts = np.zeros(len(TEXTS)), np.zeros(len(TEXTS))
    for batch in batches:
        with torch.no_grad():
            log_probs = model.hf_model(batch.input_ids).logits.log_softmax(dim=-1)
        for row, (ids, documents) in enumerate(
            zip(batch.input_ids, batch.segment_ids, strict=True)
        ):
            for place in range(len(ids) - 1):
                if documents[place] == documents[place + 1] >= 0:
                    sums[documents[place]] -= float(log_probs[row, place, ids[place + 1]])
                    counts[documents[place]] += 1
    found = measure_perplexity(model, batches)
    assert found.per_document_tokens.tolist() == counts.tolist()
    # The same float64 logits, summed in another order.
    assert found.mean_loss == pytest.approx(sums.sum() / counts.sum(), rel=1e-12)
    np.testing.assert_allclose(found.per_document_loss.numpy(), sums / counts, rtol=1e-12, atol=0)
    # 44 words and 6 ends in 4 rows. Not predicted are the first tokens of the 6 documents and of the
    # 3 other rows, none of which begins with a document.
    assert (found.text_tokens, found.tokens) == (50, 50 - 6 - 3)


def test_the_chunks_of_positions_do_not_matter(monkeypatch):
    model = tiny_model("olmo2", torch.float64)
    batches = [{"input_ids": tokens(3, 19)}]
    whole = measure_perplexity(model, batches)
    monkeypatch.setattr(probes.readout, "LOGITS_BYTES", 4 * model.d_vocab * 7)
    # float64, the same products in matrices of another height.
    assert measure_perplexity(model, batches).mean_loss == pytest.approx(whole.mean_loss, rel=1e-12)


def test_half_precision_logits_are_widened_before_the_softmax():
    hf_model = tiny_hf_model("llama", torch.bfloat16)
    ids = tokens(2, 23)
    with torch.no_grad():
        logits = hf_model(ids).logits.double()[:, :-1]
    expected = -logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None]).mean()
    found = measure_perplexity(probes.load_model(hf_model), [{"input_ids": ids}])
    # The same bfloat16 logits; only the log-softmax differs, float32 against float64. One in
    # bfloat16 would be off by 1e-3.
    assert found.mean_loss == pytest.approx(float(expected), rel=1e-6)


def test_perplexity_and_its_interval_are_powers_of_e():

    found = measure_perplexity(tiny_model("gpt2"), [{"input_ids": tokens(5, 13)}])
    assert found.perplexity == math.exp(found.mean_loss)
    assert found.to_dict()["interval"] == found.interval._asdict()


@pytest.mark.parametrize("blocks", [3, 100])
def test_interval_is_the_jackknife_over_blocks_of_documents(blocks):
    """By hand: document i is in block i mod blocks; the ratio of sums without each block."""
    model = tiny_model("llama", torch.float64)
    ids, mask = padded(LENGTHS, "right")
    found = measure_perplexity(model, [{"input_ids": ids, "attention_mask": mask}], blocks=blocks)
    counts = found.per_document_tokens.numpy()
    sums = np.nan_to_num(found.per_document_loss.numpy()) * counts
    dealt = np.arange(len(LENGTHS)) % blocks
    # A block whose only document predicts nothing leaves nothing out, and is no block.
    touched = [block for block in np.unique(dealt) if counts[dealt == block].any()]
    without = [sums[dealt != b].sum() / counts[dealt != b].sum() for b in touched]
    expected = jackknife_interval(found.mean_loss, without)
    # Sums of a few float64 numbers in another order, then their differences.
    assert found.interval.low == pytest.approx(expected.low, rel=1e-9)
    assert found.interval.high == pytest.approx(expected.high, rel=1e-9)


def test_documents_are_numbered_through_batches_without_segment_ids():

    model = tiny_model("llama")
    batches = [{"input_ids": tokens(2, 11)}, {"input_ids": tokens(3, 7, seed=1)}]
    found = measure_perplexity(model, batches)
    assert found.per_document_tokens.tolist() == [10, 10, 6, 6, 6]
    assert measure_perplexity(model, batches[:1]).interval is not None
    one = measure_perplexity(model, [{"input_ids": tokens(1, 11)}])
    assert one.interval is None


@pytest.mark.parametrize("layout", ["packed", "document"])
@pytest.mark.parametrize("sequence_length", [4, 13, 31])
def test_bits_per_byte_count_the_bytes_of_the_texts(layout, sequence_length):
    model = tiny_model("llama")
    batches = probes.token_batches(
        TEXTS, model.tokenizer, sequence_length=sequence_length, batch_size=2, layout=layout
    )
    found = measure_perplexity(model, batches)
    kept = (
        TEXTS
        if layout == "packed"
        else [" ".join(text.split()[:sequence_length]) for text in TEXTS]
    )
    assert found.text_bytes == sum(len(text.encode()) for text in kept)
    ends = len(TEXTS) if layout == "packed" else 0
    words = sum(len(text.split()) for text in kept)
    per_byte = (words + ends) / found.text_bytes
    assert found.bits_per_byte == pytest.approx(math.log2(found.perplexity) * per_byte, rel=1e-12)


def test_characters_whose_bytes_lie_in_two_rows_are_counted_once(smollm2):
    texts = ["Ångström ≈ 10⁻¹⁰ m 🧠🧬", "naïve 漢字 and some ASCII", "𐌼𐌰𐌲 again"]
    for length in (2, 3, 5):
        counted = TextBytes(smollm2.tokenizer)
        for batch in token_batches(texts, smollm2.tokenizer, sequence_length=length, batch_size=3):
            counted.see(batch)
        assert counted.result() == sum(len(text.encode()) for text in texts)


def test_without_a_tokenizer_bytes_are_not_known():
    found = measure_perplexity(
        probes.load_model(tiny_hf_model("llama")), [{"input_ids": tokens(2, 7)}]
    )
    assert found.text_bytes is None
    assert found.bits_per_byte is None
    special = torch.full((1, 5), 2)
    only_special = measure_perplexity(tiny_model("llama"), [{"input_ids": special}])
    assert only_special.text_bytes == 0
    assert only_special.bits_per_byte is None


def test_it_runs_beside_other_meters_in_one_pass():
    model = tiny_model("qwen3")
    batches = probes.token_batches(TEXTS, model.tokenizer, sequence_length=13, batch_size=2)
    resampling = Resampling(blocks=3)
    loss = LossMeter(model, resampling)
    others = [KnowledgeMeter(model, Coefficient.ABS, resampling), NextTokenMeter(model, resampling)]
    settings = PassSettings(
        weighting=Weighting.INSTANCE,
        compat=None,
        blocks=3,
        until_interval=None,
        distributed=False,
    )
    run_pass(model, batches, [*others, loss], settings, None)
    found = {name: part for meter in (*others, loss) for name, part in meter.results().items()}
    expected = probes.measure_entropy(model, batches, ("knowledge", "next_token"), blocks=3)
    # The same code on the same batches: the same bits.
    assert torch.equal(found["knowledge"].per_layer, expected.knowledge.per_layer)
    assert found["next_token"].mean == expected.next_token.mean
    alone = measure_perplexity(model, batches, blocks=3)
    assert found["perplexity"].mean_loss == alone.mean_loss
    assert found["perplexity"].interval == alone.interval


def test_progress_and_hooks():

    model, seen = tiny_model("llama"), []
    batches = [{"input_ids": tokens(2, 11)}, {"input_ids": tokens(3, 7, seed=1)}]
    before = measure_perplexity(model, batches, on_batch=seen.append).mean_loss
    assert seen == [22, 21]
    with model.hooks([("blocks.1.mlp.hook_post", lambda c, _point: 3 * c)]):
        hooked = measure_perplexity(model, batches).mean_loss
    assert abs(hooked - before) > 0.01
    assert measure_perplexity(model, batches).mean_loss == before


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_give_the_same_loss(backend):
    hf_model = tiny_hf_model("llama")
    batches = [{"input_ids": tokens(3, 11)}]
    native = measure_perplexity(probes.load_model(hf_model), batches)
    other = probes.load_model(hf_model, tokenizer=tiny_tokenizer(), backend=backend)
    # float32 through other attention code.
    assert measure_perplexity(other, batches).mean_loss == pytest.approx(native.mean_loss, rel=1e-5)


def test_refusals_say_what_to_do():

    model = tiny_model("llama")
    with pytest.raises(ValueError, match="no tokens to measure: there were no batches"):
        measure_perplexity(model, [])
    with pytest.raises(ValueError, match="none of the 3 documents has two tokens in one row"):
        measure_perplexity(model, [{"input_ids": tokens(3, 1)}])
    with pytest.raises(ValueError, match="blocks must be at least 2"):
        measure_perplexity(model, [{"input_ids": tokens(3, 2)}], blocks=1)
