"""The data and the observers of a run, against rows, rounds and scores put together by hand."""

import dataclasses
import json

import pytest
import torch

import probes
from probes.scoring import PaddedMean
from tests.models import tiny_model
from training.choices import InjectionMode, OncePlacement
from training.ckl_config import ProbeReduction, smoke
from training.ckl_run import ckl_data, ckl_observers
from training.start_or_resume import Start

ROW = 11
BATCH = 5
END = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    texts = [" ".join(f"w{(5 * i + j * i * i) % 97}" for i in range(17)) for j in range(43)]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    passages = [
        {
            "train_context": f"w{i} w1 w2",
            "paraphrases": [f"w{i} w3", f"w{i} w4 w5 w6"],
            **{f"{kind}_input": [f"w{i} w7"] for kind in ("mem", "gen", "hard_gen")},
            **{f"{kind}_target": ["w8 w9"] for kind in ("mem", "gen", "hard_gen")},
        }
        for i in range(10, 14)
    ]
    (folder / "passages.json").write_text(json.dumps(passages))
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture
def config(folder):
    def make(**changes):
        given = {
            "corpus": str(folder / "corpus.jsonl"),
            "knowledge": (str(folder / "passages.json"),),
            "row_length": ROW,
            "batch_size": BATCH,
            "steps": 13,
            "shuffle": False,
            "paraphrase": 1,
            "duplication": 1,
            "once": 2,
            "held_out": 0,
            "injection_interval": 4,
            "injection_rounds": 3,
            "injection_first": 1,
            "tasks": (),
            "evaluation_corpora": (),
            "entropy_tokens": None,
            "cloze": None,
            "lags": (0, 2),
        }
        return dataclasses.replace(smoke(), **{**given, **changes})

    return make


def rows_by_hand(folder, model):
    """Documents end to end, an end token after each, cut into rows."""
    tokens = []
    for line in (folder / "corpus.jsonl").read_text().splitlines():
        tokens += [*model.tokenizer.encode(json.loads(line)["text"]), END]
    return torch.tensor(tokens[: len(tokens) // ROW * ROW]).view(-1, ROW)


def test_rows_come_in_the_order_of_the_corpus(config, folder, model):
    data = ckl_data(config(), model)
    rows = rows_by_hand(folder, model)
    assert data.steps == 13
    for step in (0, 2, 3, 12):
        expected = rows[step * BATCH : (step + 1) * BATCH]
        assert torch.equal(data.source.batch(step).input_ids, expected)


def test_shuffled_rows_are_the_same_rows_in_an_order_of_the_seed(config, folder, model):
    quiet = {"injection_first": 12, "injection_rounds": 1, "shuffle": True}
    found = [ckl_data(config(seed=seed, **quiet), model).source for seed in (1, 1, 2)]
    taken = [torch.cat([source.batch(step).input_ids for step in range(12)]) for source in found]
    assert torch.equal(taken[0], taken[1])
    assert not torch.equal(taken[0], taken[2])
    rows = {tuple(row) for row in rows_by_hand(folder, model)[: 13 * BATCH].tolist()}
    assert {tuple(row) for row in taken[0].tolist()} < rows


def test_a_later_epoch_goes_through_the_same_rows(config, folder, model):
    data = ckl_data(config(epochs=2, steps=12), model)
    assert data.source.steps_available == 12
    rows = rows_by_hand(folder, model)
    assert torch.equal(data.source.batch(6).input_ids, rows[:BATCH])


def test_steps_that_epochs_do_not_divide_end_in_the_last_one(config, folder, model):
    settings = config(epochs=4)
    # Three epochs of four batches, and one batch of the fourth.
    assert settings.rows_needed() == 4 * BATCH
    data = ckl_data(settings, model)
    rows = rows_by_hand(folder, model)
    assert torch.equal(data.source.batch(12).input_ids, rows[:BATCH])


def test_without_steps_the_corpus_decides(config, folder, model):
    data = ckl_data(config(steps=None), model)
    assert data.steps == len(rows_by_hand(folder, model)) // BATCH


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        # Versions of passage 0, the text of 1, and 2 and 3 once each.
        (
            {},
            {
                1: ["w10 w1 w2", "w11 w1 w2", "w12 w1 w2"],
                5: ["w10 w3", "w11 w1 w2", "w13 w1 w2"],
                9: ["w10 w4 w5 w6", "w11 w1 w2"],
            },
        ),
        (
            {
                "once_placement": OncePlacement.FIRST,
                "injection_rounds": 2,
                "injection_cycles": 2,
                "injection_interval": 3,
            },
            {
                1: ["w10 w1 w2", "w11 w1 w2", "w12 w1 w2", "w13 w1 w2"],
                4: ["w10 w3", "w11 w1 w2"],
                7: ["w10 w1 w2", "w11 w1 w2", "w12 w1 w2", "w13 w1 w2"],
                10: ["w10 w3", "w11 w1 w2"],
            },
        ),
    ],
)
def test_passages_stand_in_front_of_rows_in_their_rounds(changes, rounds, config, folder, model):
    data = ckl_data(config(**changes), model)
    rows = rows_by_hand(folder, model)
    for step in range(13):
        expected = rows[step * BATCH : (step + 1) * BATCH].clone()
        for place, text in enumerate(rounds.get(step, [])):
            passage = torch.tensor([*model.tokenizer.encode(text), END])
            expected[place] = torch.cat([passage, expected[place]])[:ROW]
        assert torch.equal(data.source.batch(step).input_ids, expected)
    assert data.source.injections_at(2) is None


def test_the_mode_reaches_the_source(config, model):
    data = ckl_data(config(injection_mode=InjectionMode.EXTRA_ROW), model)
    assert data.source.batch(1).input_ids.shape == (BATCH + 3, ROW)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        (ProbeReduction.TOKEN_MEAN, "token_mean"),
        (ProbeReduction.SUM, "sum"),
        (ProbeReduction.PADDED_MEAN, PaddedMean(16, 4)),
    ],
)
def test_probes_are_scored_by_the_reduction_asked_for(reduction, expected, config, model):
    settings = config(probe_reduction=reduction)
    data = ckl_data(settings, model)
    looks = ckl_observers(settings, model, data, Start("tiny", None, None))
    (observer,) = looks.observers
    (record,) = observer.observe(model, 0)
    items = [probe.pair for probe in data.knowledge.probes]
    if isinstance(expected, PaddedMean):
        # Two tokens of target after two of prompt: three predictions in a row, whatever the batch.
        sums = probes.target_log_probs(model, items, "sum")
        assert record.log_probs == pytest.approx((sums / 3).tolist(), abs=1e-6)
    else:
        scores = probes.target_log_probs(model, items, expected).tolist()
        # The same forward passes.
        assert record.log_probs == pytest.approx(scores, abs=1e-6)


def test_probes_often_and_everything_else_at_lags(config, folder, model):
    settings = config(
        probe_every=3,
        evaluation_corpora=(str(folder / "corpus.jsonl"),),
        evaluation_tokens=101,
        evaluate_every=None,
    )
    looks = ckl_observers(settings, model, ckl_data(settings, model), Start("tiny", None, None))
    often, seldom = ([s for s in range(14) if one.due(s)] for one in looks.observers)
    # The last injection is in batch 9, so part of update 10.
    assert often == [0, 3, 6, 9, 10, 12, 13]
    assert seldom == [0, 10, 12, 13]
    assert looks.inputs["held_out"][str(folder / "corpus.jsonl")]["tokens"] == 101
