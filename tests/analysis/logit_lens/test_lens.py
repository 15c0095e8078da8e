"""`analysis.lens`: what an item's numbers are made of."""

import pytest
import torch

import analysis
from tests.models import tiny_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
TARGETS = [[20, 21], [22], [23, 24, 25]]


def test_the_first_token_is_read_at_the_readout_position():
    model = tiny_model("llama")
    lens = analysis.lens(model, PROMPTS, TARGETS, positions="all", top_k=3)
    for index, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        logits = model(torch.tensor([prompt]))[0, -1].detach()
        assert int(lens.rank[-1, index]) == int((logits > logits[target[0]]).sum())
        expected = float(logits.log_softmax(-1)[target[0]])
        # float32 logits, alone or in a padded batch.
        assert float(lens.log_prob[-1, index]) == pytest.approx(expected, abs=1e-5)
    assert lens.layer_labels == ("0", "1", "2")
    assert lens.kl[-1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("span", "of_ranks", "of_log_probs"),
    [
        ("every", max, sum),
        ("mean", lambda r: round(sum(r) / len(r)), lambda v: sum(v) / len(v)),
    ],
)
def test_a_span_is_put_together_token_by_token(span, of_ranks, of_log_probs):
    lens = analysis.lens(tiny_model("llama"), PROMPTS, TARGETS, positions="all", span=span)
    read = lens.per_token
    for index in range(len(PROMPTS)):
        rows = [
            row
            for row in range(len(read.item))
            if int(read.item[row]) == index and int(read.place[row]) >= 0
        ]
        assert len(rows) == len(TARGETS[index])
        for layer in range(3):
            ranks = [int(read.readout.rank[layer, row]) for row in rows]
            log_probs = [float(read.readout.log_prob[layer, row]) for row in rows]
            assert int(lens.rank[layer, index]) == of_ranks(ranks)
            # One float32 sum of at most three numbers, in another order.
            expected = of_log_probs(log_probs)
            assert float(lens.log_prob[layer, index]) == pytest.approx(expected, rel=1e-5)


def test_controls_are_ranked_where_the_target_is():
    model = tiny_model("llama")
    lens = analysis.lens(model, PROMPTS, TARGETS, controls={"other": [30, 31, 32]})
    swapped = analysis.lens(model, PROMPTS, [[30], [31], [32]])
    assert torch.equal(lens.control_rank("other"), swapped.rank)
    with pytest.raises(ValueError, match="no control is named 'frequency'; this result has other"):
        lens.control_rank("frequency")


def test_localization_is_of_the_ranks():
    lens = analysis.lens(tiny_model("llama"), PROMPTS, TARGETS)
    for item in range(len(PROMPTS)):
        found = [layer for layer in range(3) if int(lens.rank[layer, item]) < 40]
        assert int(lens.first_layer(40)[item]) == (found[0] if found else -1)


def test_provenance_names_model_and_settings():
    lens = analysis.lens(tiny_model("gpt2"), PROMPTS, TARGETS, norm=False, source="some")
    origin = lens.provenance
    assert origin.architecture == "gpt2"
    assert origin.corpus == "some"
    assert origin.documents == 3
    assert origin.tokens == 10
    assert origin.configuration["norm"] is False
    assert origin.configuration["lens"] == "logit"
    assert "without the final norm" in lens.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": "some"}, "span must be one of first, every, mean, found 'some'"),
        ({"positions": "none"}, "positions must be one of last, all, found 'none'"),
        ({"top_k": 0}, "top_k is 0: give 1 or more"),
        ({"positions": (7,)}, "position 7 does not exist"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        analysis.lens(tiny_model("llama"), PROMPTS, TARGETS, **options)
