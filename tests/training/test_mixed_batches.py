"""Mixed batches: order, packing, what counts in the loss, and the released trainer's batches."""

import random
from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.models import D_VOCAB, POSITIONS, tiny_model, tiny_tokenizer
from tests.reference import released_collator
from tests.refusals import refused
from training.data.mixed_batches import MixedSource, OfficialSource, packed_rows
from training.data.rendering import Conversation, Rendered, Turn, render_all
from training.engine import Engine, hold_in_float32
from training.loop import train
from training.runs.directory import RunDirectory
from training.runs.records import StepRecord, read_records
from training.settings import LoopSettings

END = 2
OWN, MIX = 13, 29


def rendered(prompt, answer, identifier, source, seed):
    """A row of random words of so many tokens; the answer's end is one of them."""
    draw = random.Random(seed)
    ids = [draw.randrange(3, D_VOCAB) for _ in range(prompt + answer - 1)] + [END]
    return Rendered(tuple(ids), tuple([False] * prompt + [True] * answer), identifier, source)


def facts(count=OWN, source="kvr"):
    return [rendered(3 + i % 4, 2 + i % 3, f"fact {i}", source, i) for i in range(count)]


def passages(count=MIX, source="generic"):
    return [rendered(5 + i % 7, 7 + i % 5, f"text {i}", source, 100 + i) for i in range(count)]


def source_of(own=OWN, mix=MIX, **given):
    return MixedSource(facts(own), passages(mix), **{"batch_size": 5, "epochs": 3, **given})


def stream(source):
    return np.concatenate([source.examples_at(step) for step in range(source.steps_available)])


def unpacked(batch):
    """The examples of a batch, as `(ids, trained, sources, weights)`, found token by token."""
    found = []
    for row in range(batch.n_rows):
        segments = (
            batch.attention_mask[row] - 1 if batch.segment_ids is None else batch.segment_ids[row]
        )
        for segment in sorted(set(segments.tolist()) - {-1}):
            where = [p for p in range(len(segments)) if segments[p] == segment]
            assert where == list(range(where[0], where[-1] + 1))
            ids = tuple(int(batch.input_ids[row, p]) for p in where)
            labels = [int(batch.labels[row, p]) for p in where]
            assert all(label in (-100, i) for label, i in zip(labels, ids, strict=True))
            assert all(int(batch.attention_mask[row, p]) == 1 for p in where)
            sources = {int(batch.sources[row, p]) for p in where}
            found.append((ids, tuple(label != -100 for label in labels), sources))
    pads = batch.attention_mask == 0
    assert (batch.labels[pads] == -100).all()
    assert int((~pads).sum()) == sum(len(ids) for ids, _, _ in found)
    return found


# Order


@pytest.mark.parametrize("mixing", ["example", "batch"])
def test_every_example_is_in_every_epoch_once(mixing):
    source = source_of(mixing=mixing)
    size, epochs = OWN + MIX, 3
    # 126 examples in batches of 5: 25 full ones, and 4 more places to fill.
    assert source.steps_available == 26
    shown = stream(source)
    orders = [shown[epoch * size : (epoch + 1) * size].tolist() for epoch in range(epochs)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len({tuple(order) for order in orders}) == epochs
    counts = Counter(shown.tolist())
    assert set(counts.values()) == {3, 4}
    assert sum(count == 4 for count in counts.values()) == 26 * 5 - epochs * size
    assert [source.steps_of_epochs(n) for n in (1, 2, 3)] == [9, 17, 26]


@pytest.mark.parametrize("mixing", ["example", "batch"])
def test_batches_depend_on_the_seed_and_the_step_alone(mixing):
    one, other = (source_of(mixing=mixing, seed=11) for _ in range(2))
    backwards = [other.batch(step) for step in reversed(range(26))][::-1]
    for step, batch in enumerate(backwards):
        assert torch.equal(one.batch(step).input_ids, batch.input_ids)
        assert torch.equal(one.batch(step).labels, batch.labels)
    assert one.describe() == other.describe()
    assert stream(source_of(mixing=mixing, seed=12)).tolist() != stream(one).tolist()


def test_shuffled_together_the_mix_lies_among_the_examples():
    own, mix = 211, 419
    is_own = [i < own for i in stream(source_of(own, mix, epochs=1, batch_size=7))[: own + mix]]
    changes = sum(a != b for a, b in pairwise(is_own))
    # Of n examples among N in random order, 2 n (N - n) / N changes are expected.
    expected, deviation = 2 * own * mix / (own + mix), 11.2
    # The deviation is 2 n m / N / sqrt(N), to leading order; four of them never happen by chance.
    assert abs(changes - expected) < 4 * deviation


@pytest.mark.parametrize(
    ("own", "mix", "size"), [(13, 26, 7), (13, 29, 5), (29, 13, 11), (3, 5, 8)]
)
def test_mixed_by_batch_every_batch_has_the_same_share(own, mix, size):
    source = source_of(own, mix, batch_size=size, mixing="batch", epochs=4)
    counts = [int((source.examples_at(step) < own).sum()) for step in range(source.steps_available)]
    exact = size * own / (own + mix)
    assert set(counts) <= {int(exact), -int(-exact // 1)}
    assert 0 < min(counts) <= max(counts) < size


def test_without_a_mix_there_are_the_examples_alone():
    source = source_of(mix=0, batch_size=13, epochs=2)
    assert source.steps_available == 2
    assert source.source_names == ("kvr",)
    assert all(sorted(source.examples_at(step)) == list(range(OWN)) for step in range(2))


def test_a_source_answers_for_what_it_has_shown():
    source = source_of()
    for step in range(26):
        source.batch(step)
    source.assert_complete(26)
    resumed = source_of()
    for step in range(9, 26):
        resumed.batch(step)
    resumed.assert_complete(26)
    skipping = source_of()
    for step in (*range(4), *range(5, 26)):
        skipping.batch(step)
    with pytest.raises(
        AssertionError, match="1 batches were never made in 26 steps, the first is number 4"
    ):
        skipping.assert_complete(26)


def test_an_example_that_is_left_out_is_noticed(monkeypatch):
    source = source_of()
    for step in range(26):
        source.batch(step)
    whole = source.examples_at
    monkeypatch.setattr(
        source, "examples_at", lambda step: np.where(whole(step) == 7, 8, whole(step))
    )
    with pytest.raises(
        AssertionError, match="3 epochs are over, but example 'fact 7' was shown 0 times"
    ):
        source.assert_complete(26)


# Rows


@pytest.mark.parametrize("packing", ["packed", "bucketed"])
@pytest.mark.parametrize("normalisation", ["token", "example", "source"])
def test_rows_hold_the_examples(packing, normalisation):
    source = source_of(packing=packing, loss_normalisation=normalisation)
    everything = [*facts(), *passages()]
    for step in range(source.steps_available):
        batch = source.batch(step)
        chosen = [everything[i] for i in source.examples_at(step)]
        number = {"kvr": 0, "generic": 1}
        expected = [(e.input_ids, e.trained, {number[e.source]}) for e in chosen]
        assert sorted(unpacked(batch), key=str) == sorted(expected, key=str)
        assert batch.examples == 5
        # No room is left for another token, nor is there more than the longest example needs.
        assert batch.attention_mask[:, -1].any()
        assert batch.input_ids.shape[1] == max(len(e.input_ids) for e in chosen)
        assert (batch.segment_ids is None) == (packing == "bucketed")
        lengths = batch.attention_mask.sum(dim=1).tolist()
        assert packing == "packed" or lengths == sorted(lengths, reverse=True)
        assert (batch.weights is None) == (normalisation == "token")


def packings():
    draw = random.Random(3)
    for _ in range(53):
        lengths = [draw.randrange(100, 900) for _ in range(draw.randrange(1, 7))]
        yield lengths, draw.choice([None, 500, 1300, 100_000])


def cost(rows, lengths):
    """Multiplications over a model's width and layers; see `training.data.mixed_batches`."""
    length = max(sum(lengths[i] for i in row) for row in rows)
    return len(rows) * (length * 4096 + length * length * 2)


def partitions(items):
    """Every way to put items into rows."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]]


def test_packing_is_nearly_the_cheapest_there_is():
    excess = []
    for lengths, limit in packings():
        found = packed_rows(lengths, longest_row=limit)
        members = sorted(i for row in found for i in row)
        assert members == list(range(len(lengths)))
        allowed = max(max(lengths), limit or 0)
        assert max(sum(lengths[i] for i in row) for row in found) <= allowed
        best = min(
            cost(rows, lengths)
            for rows in partitions(members)
            if max(sum(lengths[i] for i in row) for row in rows) <= allowed
        )
        excess.append(cost(found, lengths) / best)
    assert min(excess) == 1
    # Longest first to the emptiest is at most a third longer than the best, and seldom that.
    assert max(excess) < 1.34
    assert sum(excess) / len(excess) < 1.04


def test_wider_rows_hold_fewer_pads():
    def pads(**given):
        source = source_of(batch_size=13, **given)
        batches = [source.batch(step) for step in range(source.steps_available)]
        assert all(batch.input_ids.shape[1] <= 97 for batch in batches)
        return sum(int((batch.attention_mask == 0).sum()) for batch in batches)

    assert pads(positions=97) < 0.7 * pads() < 0.7 * pads(packing="bucketed")


# Loss


def loss_by_hand(hf_model, examples, normalisation):
    """The loss of each example alone from Hugging Face, put together in plain Python."""
    means, counts, names = [], [], []
    for example in examples:
        ids = torch.tensor([example.input_ids])
        labels = torch.tensor(
            [[i if t else -100 for i, t in zip(example.input_ids, example.trained, strict=True)]]
        )
        with torch.no_grad():
            means.append(float(hf_model(input_ids=ids, labels=labels).loss))
        counts.append(sum(example.trained))
        names.append(example.source)
    totals = [mean * count for mean, count in zip(means, counts, strict=True)]
    if normalisation == "example":
        return sum(means) / len(means)
    if normalisation == "token":
        return sum(totals) / sum(counts)
    parts = []
    for name in set(names):
        own = [i for i in range(len(names)) if names[i] == name]
        parts.append(sum(totals[i] for i in own) / sum(counts[i] for i in own))
    return sum(parts) / len(parts)


def engine_loss(model, batch, micro_batch_size):
    hold_in_float32(model)
    for part in model.hf_model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    with Engine(model, LoopSettings(steps=1, batch_size=1)) as engine, torch.no_grad():
        parts = [engine.loss(piece)[0] for piece in batch.cut(micro_batch_size)]
    return float(sum(parts)) / batch.trained_weight


@pytest.mark.parametrize("normalisation", ["token", "example", "source"])
@pytest.mark.parametrize(
    ("packing", "positions", "pieces"),
    [("packed", None, None), ("packed", POSITIONS, 2), ("bucketed", None, 3)],
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_loss_is_that_of_the_examples_alone(family, packing, positions, pieces, normalisation):
    model = tiny_model(family)
    source = source_of(
        batch_size=7, packing=packing, positions=positions, loss_normalisation=normalisation
    )
    everything = [*facts(), *passages()]
    chosen = [everything[i] for i in source.examples_at(0)]
    assert {example.source for example in chosen} == {"kvr", "generic"}
    expected = loss_by_hand(model.hf_model, chosen, normalisation)
    # float32 sums of some fifty terms of about 10 nats, in another order.
    assert engine_loss(model, source.batch(0), pieces) == pytest.approx(expected, rel=1e-5)


def test_the_loop_trains_on_mixed_batches_and_tells_losses_apart(tmp_path):
    source = source_of(batch_size=7, epochs=1, mixing="batch", loss_normalisation="source")
    settings = LoopSettings(steps=source.steps_available, batch_size=7)
    manifest = {"configuration": asdict(settings), "inputs": source.describe()}
    directory = RunDirectory.create(tmp_path / "run", manifest)
    train(tiny_model("llama"), source, settings, directory, progress=False)
    source.assert_complete(6)
    steps = [r for r in read_records(tmp_path / "run") if isinstance(r, StepRecord)]
    everything = [*facts(), *passages()]
    chosen = [everything[i] for i in source.examples_at(0)]
    hf_model = tiny_model("llama").hf_model
    apart = {
        name: loss_by_hand(hf_model, [e for e in chosen if e.source == name], "token")
        for name in ("kvr", "generic")
    }
    # As above: the order of float32 sums.
    assert steps[0].loss_by_source == pytest.approx(apart, rel=1e-5)
    assert steps[0].loss == pytest.approx(sum(apart.values()) / 2, rel=1e-5)


# The released trainer's batches


def conversations(count=OWN, mix=MIX):
    draw = random.Random(17)

    def words(number):
        return " ".join(f"w{draw.randrange(90)}" for _ in range(number))

    own = [
        Conversation((Turn(words(3 + i % 4), words(1 + i % 3)),), f"fact {i}", "kvr")
        for i in range(count)
    ]
    other = [
        Conversation(
            tuple(Turn(words(5 + i % 3), words(6 + i % 5)) for _ in range(1 + i % 2)),
            f"text {i}",
            "generic",
        )
        for i in range(mix)
    ]
    return own, other


def official_of(tokenizer=None, *, longest=2048, **given):
    tokenizer = tokenizer or tiny_tokenizer()
    own, mix = (
        render_all(group, tokenizer, "tulu", longest, compat="official").items
        for group in conversations()
    )
    fields = {"batch_size": 6, "end_id": tokenizer.eos_token_id, "epochs": 2, "processes": 2}
    return OfficialSource(own, mix, **{**fields, **given})


def reference_table(tokenizer, longest=2048):
    own, mix = conversations()
    messages = [
        [pair for turn in c.turns for pair in (("user", turn.prompt), ("assistant", turn.answer))]
        for c in (*own, *mix)
    ]
    return released_collator.collated(messages, tokenizer, longest)


@pytest.mark.parametrize(("processes", "seed", "longest"), [(1, 0, 2048), (2, 3, 2048), (3, 1, 23)])
def test_official_batches_are_those_of_the_released_trainer(processes, seed, longest):
    tokenizer = tiny_tokenizer()
    table = reference_table(tokenizer, longest)
    count = len(table["input_ids"])
    assert (count < OWN + MIX) == (longest == 23)
    batches = released_collator.dealt_batches(count, 6 // processes, processes, seed)
    source = official_of(processes=processes, seed=seed, longest=longest)
    assert source.steps_available == 2 * len(batches)
    for step in range(source.steps_available):
        expected = batches[step % len(batches)]
        assert source.examples_at(step).tolist() == expected
        batch = source.batch(step)
        assert batch.input_ids.tolist() == [table["input_ids"][i] for i in expected]
        assert batch.labels.tolist() == [table["labels"][i] for i in expected]
        # Their mask has the pad's number where ours has 1: attended to, either way.
        mask = [[int(m != 0) for m in table["attention_mask"][i]] for i in expected]
        assert batch.attention_mask.tolist() == mask
    shown = {i for batch in batches for i in batch}
    assert len(source.never_trained) == count - len(shown)


def test_two_thousand_examples_lose_the_same_sixteen():
    source = OfficialSource(facts(2000), batch_size=32, end_id=END, processes=2)
    assert (source.steps_available, len(source.never_trained)) == (20 * 62, 16)


def test_what_is_kept_may_leave_no_mix():
    whole, half, none = (official_of(keep=keep) for keep in (None, OWN + 4, OWN))
    assert [source.mix_kept for source in (whole, half, none)] == [MIX, 4, 0]
    assert none.describe()["mix"] == 0
    assert int(torch.cat([none.examples_at(s) for s in range(2)]).max()) < OWN


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_official_loss_is_the_mean_over_processes(processes):
    model = tiny_model("llama")
    batch = official_of(processes=processes).batch(1)
    with torch.no_grad():
        logits = model.hf_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), batch.input_ids[:, 1:], reduction="none"
        )
    losses = torch.nn.functional.pad(losses, (1, 0))
    expected = released_collator.mean_of_process_means(losses, batch.labels, processes)
    # As above: the order of float32 sums.
    assert engine_loss(model, batch, None) == pytest.approx(float(expected), rel=1e-5)


# Bad input


def order_of(**given):
    fields = {"primary": facts(3), "mix": passages(5), "batch_size": 4, **given}
    return MixedSource(fields.pop("primary"), fields.pop("mix"), **fields)


BAD = {
    "no examples": (
        lambda: order_of(primary=[]),
        "0 examples and 5 mixed in do not make a batch of 4 with any of the stage's own",
    ),
    "too few": (
        lambda: order_of(batch_size=9),
        "3 examples and 5 mixed in do not make a batch of 9",
    ),
    "no epoch": (
        lambda: order_of(epochs=0),
        "batch_size and epochs must be 1 or more, found 4 and 0",
    ),
    "past the end": (lambda: order_of().batch(2), "there is no batch 2; these examples give 2"),
    "nothing to mix": (
        lambda: order_of(mix=[], mixing="batch", batch_size=3),
        "mixing 'batch' has nothing to mix in",
    ),
    "batch too small": (
        lambda: order_of(mix=passages(29), mixing="batch"),
        "batches of 4 cannot all have some of 3 examples and of 29 mixed in: give a batch_size of at least 11",
    ),
    "official: too few": (
        lambda: official_of(batch_size=60),
        "42 examples do not fill one batch of 60",
    ),
    "official: uneven": (
        lambda: official_of(batch_size=7),
        "2 processes cannot share batches of 7 evenly",
    ),
    "official: keep": (lambda: official_of(keep=0), "keep is 0: give 1 or more"),
    "official: past the end": (
        lambda: official_of().batch(14),
        "there is no batch 14; these examples give 14",
    ),
}


@pytest.mark.parametrize(("attempt", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(attempt, message):
    with refused(message):
        attempt()


def test_a_batch_of_the_smallest_size_allowed_has_some_of_both():
    source = order_of(mix=passages(29), mixing="batch", batch_size=11, epochs=5)
    counts = [int((source.examples_at(step) < 3).sum()) for step in range(source.steps_available)]
    assert set(counts) <= {1, 2}


def test_examples_that_name_no_set_are_told_apart_all_the_same():
    source = MixedSource(facts(3, source=""), passages(5, source=""), batch_size=4)
    assert source.source_names == ("primary", "mix")
    replayed = MixedSource(facts(3), facts(2) + passages(2), batch_size=4)
    assert replayed.source_names == ("kvr", "generic")
