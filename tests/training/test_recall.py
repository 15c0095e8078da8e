"""Recall: matches by hand, and records of the observer against one question at a time."""

import json

import pytest
import torch

import probes
from tests.models import tiny_hf_model, tiny_model, tiny_tokenizer, tokens
from tests.probes.test_generation import by_hand, model_of
from tests.training.loop_runs import model_of as fresh
from tests.training.loop_runs import run, settings_of
from training.data.factoids import Factoid, FactoidSet
from training.data.mixed_batches import MixedSource
from training.data.rendering import Rendered, factoid_conversations, render_all
from training.observers import Cadence
from training.recall import (
    Match,
    RecallObserver,
    accepted_answers,
    is_right,
    normalised,
    recall_items,
    written_answers,
)
from training.runs.records import RecallRecord, as_line, from_line, read_items, records_of

END = 2


def rows_of(model, count=7, right=lambda number: number % 2 == 0):
    """Rows whose answers the model would write, or nearly; each ends in the end token."""
    rows = []
    for number in range(count):
        prompt = tokens(1, 2 + (3 * number) % 7, seed=number)[0].tolist()
        answer = by_hand(model.hf_model, prompt, 1 + number % 3)
        if not right(number):
            answer[-1] = 3 + (answer[-1] + 1) % 97
        ids = (*prompt, *answer, END)
        trained = (False,) * len(prompt) + (True,) * (len(answer) + 1)
        rows.append(Rendered(ids, trained, f"item-{number}", "made up"))
    return rows


def always():
    return Cadence(every=1)


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        # strict, normalised, aliases, substring
        ("Paris", ("Paris",), (1, 1, 1, 1)),
        ("  paRIS\n", ("Paris ",), (1, 1, 1, 1)),
        ("Paris.", ("Paris",), (0, 1, 1, 0)),
        ("the  Eiffel tower", ("Eiffel Tower",), (0, 1, 1, 0)),
        ("USA", ("United States", "U.S.A."), (0, 0, 1, 0)),
        ("States", ("United States",), (0, 0, 0, 1)),
        ("United States of America", ("United States",), (0, 0, 0, 0)),
        ("", ("Paris",), (0, 0, 0, 1)),
        ("...", ("Paris", "London"), (0, 0, 0, 0)),
        ("the", ("The The", "The"), (0, 0, 1, 1)),
        ("a", ("an",), (0, 0, 0, 1)),
        ("+", ("-",), (0, 0, 0, 0)),
        ("+", (" +",), (1, 1, 1, 1)),
        ("another", ("other",), (0, 0, 0, 0)),
        ("Straße", ("STRASSE",), (0, 0, 0, 0)),
    ],
)
def test_what_each_match_calls_right(answer, accepted, right):
    texts = [match for match in Match if match.needs_text]
    assert texts == ["strict", "normalised", "aliases", "substring"]
    assert [is_right(answer, accepted, match) for match in texts] == [bool(one) for one in right]


def test_normalisation_is_that_of_squad():
    """Against the four steps of its evaluation, one after the other."""
    for text in ("The Cat, the (dog) & a bee!", "an   A-Team's\tthe", "1,234.5 km", "Theatre Anna"):
        lower = text.lower()
        bare = "".join(c for c in lower if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        words = [word for word in bare.split() if word not in ("a", "an", "the")]
        assert normalised(text) == " ".join(words)


@pytest.mark.parametrize(
    ("accepted", "match", "message"),
    [
        ((), "strict", "no answer is accepted: give the canonical one"),
        (("a",), "stirct", "match must be one of tokens, strict, .* found 'stirct'"),
        (("a",), "tokens", "compares tokens and not texts; .* choose from strict, normalised"),
    ],
)
def test_what_cannot_be_matched_is_refused(accepted, match, message):
    with pytest.raises(ValueError, match=message):
        is_right("a", accepted, match)


def test_items_are_made_from_rows_and_what_is_accepted():
    factoids = FactoidSet(
        "two",
        "none",
        "made up",
        (Factoid("w1 w2", ("w3 w4", "w5"), "one"), Factoid("w6", ("w7",), "two")),
    )
    tokenizer = tiny_tokenizer()
    rows = render_all(factoid_conversations(factoids), tokenizer, "plain")
    first, second = recall_items(rows, tokenizer, accepted_answers(factoids))
    assert (first.prompt_ids, first.answer_ids) == (rows[0].prompt_ids, rows[0].answer_ids)
    assert first.answer_ids == (6, 7, END)
    assert (first.accepted, second.accepted) == (("w3 w4", "w5"), ("w7",))
    assert first.source == "two"
    assert first.prompt.endswith("w1 w2\nAnswer:") or "w1 w2" in first.prompt
    # Without a list, the answer in the row is the only one, its end left out.
    assert [item.accepted for item in recall_items(rows, tokenizer)] == [("w3 w4",), ("w7",)]
    with pytest.raises(ValueError, match="item 'two' has no accepted answer; give at least"):
        recall_items(rows, tokenizer, {"one": ("w3 w4",)})
    with pytest.raises(ValueError, match="there are no rows to ask about"):
        recall_items([], tokenizer)


def test_factoids_that_share_an_identifier_are_told_apart():
    pair = [Factoid("one?", ("a",), "x"), Factoid("two?", ("b",), "x")]
    with pytest.raises(ValueError, match="two factoids are called 'x' and have other answers"):
        accepted_answers(pair)


def test_tokens_are_recorded_with_their_log_probabilities():
    model = model_of("llama")
    items = recall_items(rows_of(model), tiny_tokenizer())
    observer = RecallObserver("seven", items, always())
    (record,) = observer.observe(model, 11)
    assert (record.step, record.items, record.match) == (11, "seven", "tokens")
    expected = [by_hand(model.hf_model, i.prompt_ids, len(i.answer_ids)) for i in items]
    assert record.correct == [
        int(tuple(row) == item.answer_ids) for row, item in zip(expected, items, strict=True)
    ]
    for item, found in zip(items, record.log_probs, strict=True):
        with torch.no_grad():
            logits = model.hf_model(torch.tensor([item.prompt_ids + item.answer_ids])).logits[0]
        at = logits.log_softmax(-1)[len(item.prompt_ids) - 1 : -1]
        whole = float(at.gather(1, torch.tensor(item.answer_ids)[:, None]).sum())
        # float64, rows that may share their start.
        assert found == pytest.approx(whole, abs=1e-10)
    assert [row["identifier"] for row in observer.items()["seven"]] == [
        f"item-{i}" for i in range(7)
    ]


def test_written_answers_end_where_taught_answers_end():
    """The head's row of the end token is made that of a word; of equal ones, the end comes first."""
    model = model_of("qwen3")
    model.tokenizer = tiny_tokenizer()
    prompts = [tokens(1, 2 + number % 7, seed=number)[0].tolist() for number in range(11)]
    later = [token for prompt in prompts for token in by_hand(model.hf_model, prompt, 4)[1:]]
    common = max(set(later), key=later.count)
    head = model.hf_model.lm_head.weight
    with torch.no_grad():
        head[END] = head[common]
    expected, rows = [], []
    for number, prompt in enumerate(prompts):
        written = by_hand(model.hf_model, prompt, 5)
        answer = written[: written.index(END)] if END in written else written
        # A pad inside an answer is seen.
        expected.append(" ".join(f"w{token - 3}" if token else "<pad>" for token in answer))
        # Every third item was taught something else.
        taught = answer if answer and number % 3 else [47, *answer[1:]]
        ids = (*prompt, *taught, END)
        trained = (False,) * len(prompt) + (True,) * (len(taught) + 1)
        rows.append(Rendered(ids, trained, f"item-{number}"))
    items = recall_items(rows, model.tokenizer)
    found = written_answers(model, items, max_new_tokens=5)
    assert found == expected
    assert len({len(text.split()) for text in found}) > 1
    records = RecallObserver(
        "written", items, always(), how=("strict", "tokens", "aliases")
    ).observe(model, 3)
    assert [record.match for record in records] == ["strict", "tokens", "aliases"]
    whole = written_answers(model, items)
    right = [int(text == item.accepted[0]) for text, item in zip(whole, items, strict=True)]
    assert records[0].correct == records[2].correct == right
    assert records[0].log_probs is None
    assert any(records[1].correct)
    # Token for token with its end is text for text; the other way round needs the end to come.
    assert all(t <= s for t, s in zip(records[1].correct, records[0].correct, strict=True))


def test_a_record_goes_to_a_file_and_back():
    record = RecallRecord(160, "primary", [1, 0, 1], [-0.5, -7.25, -0.125], Match.STRICT)
    assert from_line(as_line(record)) == record
    assert json.loads(as_line(record))["record"] == "recall"


@pytest.mark.parametrize(
    ("items", "how", "message"),
    [
        ([], ("tokens",), "there are no items to ask in 'mine'; give at least one"),
        (None, (), "'mine' is to be matched by nothing: give each match once"),
        (None, ("strict", "strict"), "matched by strict, strict: give each match once"),
        (None, ("loose",), "match must be one of tokens, .* found 'loose'"),
    ],
)
def test_observers_that_make_no_sense_are_refused(items, how, message):
    if items is None:
        items = recall_items(rows_of(tiny_model("llama"), count=1), tiny_tokenizer())
    with pytest.raises(ValueError, match=message):
        RecallObserver("mine", items, always(), how=how)


def test_texts_need_a_tokenizer():
    model = probes.load_model(tiny_hf_model("llama"))
    items = recall_items(rows_of(model), tiny_tokenizer())
    with pytest.raises(ValueError, match="has no tokenizer to read its answers with; load it"):
        written_answers(model, items)
    model.tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="max_new_tokens is 0: give 1 or more"):
        written_answers(model, items, max_new_tokens=0)


def test_a_run_learns_to_answer_and_says_so(tmp_path):
    """The observer in the loop, also where a backward pass computes blocks again (no cache then)."""
    model = fresh()
    rows = rows_of(model, count=5, right=lambda _: False)
    items = recall_items(rows, model.tokenizer)
    source = MixedSource(rows, batch_size=5, epochs=29)
    observer = RecallObserver("primary", items, always(), how=("tokens", "strict"))
    settings = settings_of(steps=29, batch_size=5, gradient_checkpointing=True)
    run(tmp_path / "run", model, source, settings, observers=[observer])
    records = records_of(tmp_path / "run", RecallRecord)
    assert [record.match for record in records] == ["tokens", "strict"] * 30
    shares = [sum(record.correct) / 5 for record in records]
    assert shares[0] == shares[1] == 0.0
    assert shares[-1] == shares[-2] == 1.0
    assert [row["identifier"] for row in read_items(tmp_path / "run", "primary")] == [
        item.identifier for item in items
    ]


def test_an_answer_by_itself_is_one_and_not_its_letters():
    for match in ("strict", "normalised", "aliases", "substring"):
        assert is_right("Paris", "Paris", match)
        assert not is_right("P", "Paris", match) or match == "substring"
