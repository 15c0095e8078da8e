"""Injection: where passages go in a batch, what they displace, and that all of them were met."""

import json

import numpy as np
import pytest
import torch

from tests.border_tokenizers import tokenizer_of
from tests.models import tiny_hf_model
from tests.refusals import refused
from training.batches import InjectingSource, RowSource, TrainingBatch, as_training_batch
from training.choices import Exposure
from training.data.fictional_generator import generate_knowledge
from training.engine import forward_inputs, separation_of
from training.injection import Encounter, InjectedSource, InjectionSchedule, encode_passages

ROWS, LENGTH, STEPS = 5, 11, 7
END = 2


def exposures(paraphrase=2, once=2):
    return dict(enumerate([Exposure.PARAPHRASE] * paraphrase + [Exposure.ONCE] * once))


def schedule(**options):
    settings = {"interval": 3, "rounds": 2, "first": 1} | options
    return InjectionSchedule.regular(exposures(), **settings)


def passages(longest=7):
    """Wordings of four passages: ids from 1000 on, the end token last, 3 to 7 tokens long."""
    return {
        Encounter(passage, version): torch.tensor(
            [*range(1000 + 100 * passage + 10 * version, length), END]
        )
        for passage in range(4)
        for version in range(2)
        for length in [1000 + 100 * passage + 10 * version + longest - 1 - passage - version]
    }


def host_rows(seed=0):
    return np.random.default_rng(seed).integers(3, 900, size=(ROWS * STEPS, LENGTH))


def host():
    return RowSource(host_rows(), ROWS, shuffle_seed=3)


class Padded:
    """Batches whose rows end with pads, and which keep two documents of a row apart."""

    steps_available = STEPS

    def __init__(self, with_segments=True):
        self._with_segments = with_segments

    def batch(self, step):
        ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) + 3 + 100 * step
        mask = torch.ones_like(ids)
        for row in range(ROWS):
            mask[row, LENGTH - row :] = 0
        labels = ids.masked_fill(mask == 0, -100)
        segments = torch.ones_like(ids).cumsum(1).gt(4).long().masked_fill(mask == 0, -1)
        return TrainingBatch(ids, labels, mask, segments if self._with_segments else None)

    def describe(self):
        return {"kind": "padded"}


def source(given=None, mode="prepend_truncate", **options):
    return InjectedSource(given or host(), schedule(), passages(), mode, **options)


def as_lists(batch):
    fields = (batch.input_ids, batch.labels, batch.attention_mask, batch.segment_ids)
    return [None if field is None else field.tolist() for field in fields]


@pytest.mark.parametrize("mode", ["prepend_truncate", "replace", "extra_row"])
def test_other_batches_are_the_corpus(mode):
    given = source(mode=mode)
    for step in (0, 2, 3, 5, 6):
        assert as_lists(given.batch(step)) == as_lists(host().batch(step))
        assert given.displaced_tokens(step) == 0
        assert given.injections_at(step) is None


def encounters(step):
    return [tuple(encounter) for encounter in schedule().encounters[step]]


def test_prepended_as_the_released_trainer_does():
    # Row i becomes the passage and then the row, cut off at the row's length.
    for step in (1, 4):
        plain, found = host().batch(step).input_ids, source().batch(step)
        by_hand = plain.clone()
        for row, encounter in enumerate(encounters(step)):
            by_hand[row] = torch.cat([passages()[encounter], plain[row]])[:LENGTH]
        assert found.input_ids.tolist() == by_hand.tolist()
        assert found.labels.tolist() == by_hand.tolist()
        assert found.attention_mask.tolist() == torch.ones_like(by_hand).tolist()
        assert found.segment_ids is None
        lengths = [len(passages()[encounter]) for encounter in encounters(step)]
        assert source().displaced_tokens(step) == sum(lengths)


@pytest.mark.parametrize("mode", ["replace", "extra_row"])
def test_rows_of_their_own_are_padded_and_pads_not_trained_on(mode):
    plain, found = host().batch(4), source(mode=mode).batch(4)
    met = encounters(4)
    is_extra = mode == "extra_row"
    assert found.n_rows == ROWS + (len(met) if is_extra else 0)
    own = found.rows(slice(ROWS, None) if is_extra else slice(len(met)))
    rest = found.rows(slice(ROWS) if is_extra else slice(len(met), None))
    kept = plain if is_extra else plain.rows(slice(len(met), None))
    assert as_lists(rest) == as_lists(kept)
    for row, encounter in enumerate(met):
        ids = passages()[encounter].tolist()
        pads = LENGTH - len(ids)
        assert own.input_ids[row].tolist() == ids + [END] * pads
        assert own.labels[row].tolist() == ids + [-100] * pads
        assert own.attention_mask[row].tolist() == [1] * len(ids) + [0] * pads
    assert source(mode=mode).displaced_tokens(4) == (0 if is_extra else LENGTH * len(met))


def test_documents_are_kept_apart_on_request():
    step, given = 1, Padded()
    plain = given.batch(step)
    found = source(given, document_mask=True).batch(step)
    for row, encounter in enumerate(encounters(step)):
        ids = passages()[encounter].tolist()
        kept = LENGTH - len(ids)
        ahead = [label if label == -100 else int(label) for label in plain.labels[row][1:kept]]
        assert found.labels[row].tolist() == [*ids, -100, *ahead]
        moved = [s if s == -1 else s + 1 for s in plain.segment_ids[row][:kept].tolist()]
        assert found.segment_ids[row].tolist() == [0] * len(ids) + moved
        assert found.attention_mask[row].tolist() == [1] * len(ids) + (
            plain.attention_mask[row][:kept].tolist()
        )
    untouched = slice(len(encounters(step)), None)
    assert as_lists(found.rows(untouched)) == as_lists(plain.rows(untouched))


@pytest.mark.parametrize("mode", ["prepend_truncate", "replace", "extra_row"])
def test_the_corpus_is_not_written_to(mode):
    given = Padded()
    kept = {step: given.batch(step) for step in range(STEPS)}
    given.batch = kept.__getitem__
    injected = source(given, mode, document_mask=True)
    first = as_lists(injected.batch(1))
    assert as_lists(injected.batch(1)) == first
    assert as_lists(kept[1]) == as_lists(Padded().batch(1))


def test_rows_without_document_numbers_are_one_document_each():
    found = source(Padded(with_segments=False), document_mask=True).batch(1)
    for row in range(ROWS):
        length = len(passages()[encounters(1)[row]]) if row < len(encounters(1)) else 0
        real = found.attention_mask[row].tolist()
        after = 1 if length else 0
        by_hand = [0] * length + [after if real[place] else -1 for place in range(length, LENGTH)]
        assert found.segment_ids[row].tolist() == by_hand


@pytest.mark.parametrize("mode", ["prepend_truncate", "replace"])
def test_pads_are_not_displaced_tokens(mode):
    # Row r of the host has r pads at its end, which were no loss.
    given = source(Padded(), mode, document_mask=True)
    lost = [
        max(0, len(passages()[encounter]) - row) if mode == "prepend_truncate" else LENGTH - row
        for row, encounter in enumerate(encounters(1))
    ]
    assert given.displaced_tokens(1) == sum(lost)


def test_masked_documents_change_nothing_for_one_another():
    # Through a model, as the loop runs it: logits after the passage are those of the row alone.
    hf_model = tiny_hf_model("llama")
    only = {Encounter(0, 0): torch.tensor([5, 6, END])}
    masked, joined = (
        InjectedSource(Small(), one_schedule(), only, document_mask=document_mask)
        .batch(0)
        .rows(slice(1))
        for document_mask in (True, False)
    )
    assert masked.input_ids.tolist() == joined.input_ids.tolist() == [[5, 6, END, 10, 11, 12, 13]]
    separation = separation_of(hf_model)
    with torch.no_grad():
        alone = hf_model(masked.input_ids[:, 3:]).logits
        after = [
            hf_model(
                **forward_inputs(batch, separation, torch.device("cpu")), use_cache=False
            ).logits
            for batch in (masked, joined)
        ]
    # Two paths through the attention, each with its own float32 rounding.
    assert (after[0][:, 3:] - alone).abs().max() < 1e-4
    assert (after[1][:, 3:] - alone).abs().max() > 1e-2


class Small:
    steps_available = 1

    def batch(self, step):
        del step
        return as_training_batch(torch.arange(10, 17)[None].repeat(3, 1))

    def describe(self):
        return {}


def one_schedule():
    return InjectionSchedule.regular({0: Exposure.ONCE}, interval=1, rounds=1)


def test_records_say_what_was_injected():
    given = source()
    assert isinstance(given, InjectingSource)
    record = given.injections_at(4)
    assert (record.step, record.passages) == (4, [passage for passage, _ in encounters(4)])
    assert record.displaced_tokens == given.displaced_tokens(4) > 0


def test_batches_depend_on_the_step_alone():
    forward, backward = source(), source()
    found = {step: as_lists(forward.batch(step)) for step in range(STEPS)}
    for step in reversed(range(STEPS)):
        assert as_lists(backward.batch(step)) == found[step]


def test_it_is_asserted_that_every_encounter_happened():
    given = source()
    for step in range(STEPS):
        given.batch(step)
    given.assert_complete(STEPS)
    resumed = source()
    for step in range(2, STEPS):
        resumed.batch(step)
    resumed.assert_complete(STEPS)
    source().assert_complete(STEPS)
    with pytest.raises(AssertionError, match="1 planned injections did not happen in 4 steps, the"):
        given.assert_complete(4)
    skipping = source()
    for step in (0, 1, 2, 3, 5, 6):
        skipping.batch(step)
    with pytest.raises(AssertionError, match="first at step 4"):
        skipping.assert_complete(STEPS)


def test_the_description_decides_the_batches():
    described = source().describe()
    assert json.loads(json.dumps(described)) == described
    assert described["host"] == host().describe()
    other = [
        source(mode="replace"),
        source(Padded(), document_mask=True),
        InjectedSource(host(), schedule(interval=2), passages()),
        InjectedSource(host(), schedule(), passages(longest=8)),
    ]
    assert all(given.describe() != described for given in other)
    assert source().describe() == described


class Tokenizer:
    """Every character is a token; nothing special but the end."""

    eos_token_id = END

    def __call__(self, texts, **_given):
        if isinstance(texts, str):
            return {"input_ids": [ord(character) for character in texts]}
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


def test_passages_begin_as_documents_do():
    knowledge = generate_knowledge(2, paraphrases=1, words=140)
    for kind, begun in (("begun and ended", [1]), ("olmo", [])):
        tokenizer = tokenizer_of(kind)
        for (passage, version), ids in encode_passages(knowledge, tokenizer).items():
            text = knowledge.passages[passage].version(version)
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids.tolist() == [*begun, *plain, 2]


def test_passages_are_encoded_with_their_end():
    knowledge = generate_knowledge(3, paraphrases=2, words=140)
    found = encode_passages(knowledge, Tokenizer())
    assert len(found) == 9
    for (passage, version), ids in found.items():
        text = knowledge.passages[passage].version(version)
        assert ids.tolist() == [*map(ord, text), END]
    endless = Tokenizer()
    endless.eos_token_id = None
    for tokenizer, message in ((endless, "this one has no end token"), (None, "there is none")):
        with pytest.raises(ValueError, match=message):
            encode_passages(knowledge, tokenizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: source(mode="append"), "mode must be one of prepend_truncate, replace, extra_row"),
        (
            lambda: source(Padded()),
            "keeps its documents apart, but the injected passages would not",
        ),
        (lambda: source(steps=4), "the last injection is at step 4, but the run has 4 steps"),
        (lambda: source(steps=2), "passages are injected every 3 steps, but the run has 2"),
        (
            lambda: InjectedSource(host(), schedule(), passages(longest=LENGTH + 1)),
            "passage 0, version 0, has 12 tokens with its end token, but a row has 11",
        ),
        (
            lambda: InjectedSource(Small(), one_schedule(), {}),
            "passage 0 has 0 wordings, but wording 1 is to be injected",
        ),
    ],
)
def test_what_cannot_be_injected(make, message):
    with refused(message):
        make()


def test_more_passages_than_rows_fit_only_beside_them():
    narrow = RowSource(host_rows(), 2)
    with pytest.raises(
        ValueError, match="3 passages are to be injected at step 1, but a batch has 2"
    ):
        source(narrow)
    assert source(narrow, "extra_row").batch(1).n_rows == 2 + 3


def test_passages_are_joined_where_there_are_more_than_rows():
    narrow = RowSource(host_rows(), 2)
    plain = narrow.batch(1).input_ids
    first, second, third = (passages(4)[Encounter(*one)] for one in encounters(1))
    given = InjectedSource(narrow, schedule(), passages(4), "joined")
    rows = [torch.cat([first, plain[0]]), torch.cat([second, third, plain[1]])]
    assert given.batch(1).input_ids.tolist() == [row[:LENGTH].tolist() for row in rows]
    assert given.displaced_tokens(1) == len(first) + len(second) + len(third)
    # Kept apart, each is a document, and none is predicted from the end of the one before it.
    apart = InjectedSource(narrow, schedule(), passages(4), "joined", document_mask=True).batch(1)
    ends = (len(second), len(second) + len(third))
    assert apart.segment_ids[1].tolist() == [
        *([0] * ends[0] + [1] * (ends[1] - ends[0]) + [2] * (LENGTH - ends[1]))
    ]
    ignored = (apart.labels[1] == -100).nonzero().flatten().tolist()
    assert ignored == list(ends)
    # With a row for each they are where the papers put them.
    assert as_lists(source(mode="joined").batch(1)) == as_lists(source().batch(1))
    with refused("2 passages joined in row 1 of step 1 have 13 tokens, but a row has 11"):
        InjectedSource(narrow, schedule(), passages(8), "joined")
