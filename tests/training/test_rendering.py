"""Rendering: conversations as rows of tokens, against the released trainer's rows typed again."""

import copy
from functools import cache

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.models import tiny_tokenizer
from tests.reference import released_collator
from tests.refusals import refused
from training.data.factoids import ANSWER_IS, PLAIN, Factoid, FactoidSet
from training.data.rendering import (
    Conversation,
    Rendered,
    Turn,
    factoid_conversations,
    render,
    render_all,
    render_prompt,
    rows_hash,
)

TEXTS = [
    "The value of key 3f9c2e is? 81ab04 Complete the following partial passage: user assistant",
    "Who wrote the first program? Ada Lovelace did, in 1843. Question: and when?\nThe answer is:",
]
ENDS = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
CHATML = (
    "{% for message in messages %}<s>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ message['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CONVERSATIONS = {
    "one turn": [("The value of key 3f9c2e is?", "81ab04")],
    "space around": [("  Who wrote it?\n", " \n Ada Lovelace ")],
    "lines within": [("Line one\n\nline two", "first\n\nsecond\n third")],
    "three turns": [("Who?", "Ada"), ("When,\nthen?", "1843 "), (" Where?", "London\n\nUK")],
}


def conversation(turns, identifier="item-7", source="set"):
    return Conversation(tuple(Turn(*turn) for turn in turns), identifier, source)


def fast(backend, **given):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **{**ENDS, **given}
    )


def trained_backend(split, vocabulary=360):
    backend = Tokenizer(models.BPE(unk_token="<pad>"))
    backend.pre_tokenizer = split
    # Every character that the tests use, so that nothing is unknown.
    texts = [*TEXTS, "".join(map(chr, range(32, 127))) + "\n"] * 3
    special = ["<pad>", "<s>", "</s>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False),
    )
    return backend


def framed(backend, single):
    backend.post_processor = TemplateProcessing(
        single=single, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return backend


@cache
def tokenizer_of(kind):
    """A tokenizer of each kind that there is among models."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    match kind:
        case "bytes":
            from training.model_shapes import train_byte_pairs

            return train_byte_pairs(TEXTS, 270)
        case "begun":
            return fast(framed(trained_backend(byte_level), "<s> $A"))
        case "begun and ended":
            return fast(framed(trained_backend(byte_level), "<s> $A </s>"))
        case "underlined":
            first = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
            return fast(framed(trained_backend(first), "<s> $A"))
        case "joining":
            letters = {chr(i): i + 3 for i in range(128)}
            words = {"<pad>": 0, "<s>": 1, "</s>": 2, **letters, "\nA": 131, "? ": 132}
            return fast(Tokenizer(models.BPE(words, [("\n", "A"), ("?", " ")])))
    raise AssertionError(kind)


KINDS = ("bytes", "begun", "begun and ended", "underlined", "joining")
CLEAN = ("bytes", "begun", "underlined")
"""Tokenizers that join nothing across a border and do not end a text of their own accord."""


def messages(turns):
    pairs = ((("user", prompt), ("assistant", answer)) for prompt, answer in turns)
    return [message for pair in pairs for message in pair]


def labels_of(row):
    return [i if flag else -100 for i, flag in zip(row.input_ids, row.trained, strict=True)]


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("kind", CLEAN)
def test_official_rows_are_those_of_the_released_trainer(kind, turns):
    tokenizer = tokenizer_of(kind)
    ids, labels = released_collator.encoded(messages(turns), tokenizer)
    row = render(conversation(turns), tokenizer, compat="official")
    assert (list(row.input_ids), labels_of(row)) == (ids, labels)


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("kind", CLEAN)
def test_rows_differ_from_the_released_ones_in_the_line_after_an_answer_alone(kind, turns):
    tokenizer = tokenizer_of(kind)
    ids, labels = released_collator.encoded(messages(turns), tokenizer)
    # The released trainer goes on training until the next speaker's name.
    closed, expected = False, []
    for token, label in zip(ids, labels, strict=True):
        closed = closed and label != -100
        expected.append(-100 if closed else label)
        closed = closed or token == tokenizer.eos_token_id
    row = render(conversation(turns), tokenizer)
    assert (list(row.input_ids), labels_of(row)) == (ids, expected)
    assert (expected == labels) == (len(turns) == 1)


def test_official_rows_of_the_built_in_tokenizer(smollm2):
    for turns in CONVERSATIONS.values():
        ids, labels = released_collator.encoded(messages(turns), smollm2.tokenizer)
        row = render(conversation(turns), smollm2.tokenizer, compat="official")
        assert (list(row.input_ids), labels_of(row)) == (ids, labels)


def test_rows_by_hand():
    turns = [("w5 w6", "w7"), ("w8", "w9 w10")]
    unknown, end = 0, 2
    tulu = render(conversation(turns), tiny_tokenizer())
    first = [unknown, 8, 9, unknown, 10, end]
    assert list(tulu.input_ids) == [*first, unknown, 11, unknown, 12, 13, end]
    assert [i for i, flag in enumerate(tulu.trained) if flag] == [4, 5, 9, 10, 11]
    assert (tulu.prompt_ids, tulu.answer_ids) == (tulu.input_ids[:9], (12, 13, end))
    assert (tulu.identifier, tulu.source, tulu.trained_tokens) == ("item-7", "set", 5)
    plain = render(conversation(turns), tiny_tokenizer(), "plain")
    assert list(plain.input_ids) == [8, 9, 10, end, 11, 12, 13, end]
    assert [i for i, flag in enumerate(plain.trained) if flag] == [2, 3, 5, 6, 7]


@pytest.mark.parametrize("template", ["tulu", "plain", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_in_evaluation_is_the_beginning_of_the_row(kind, template):
    tokenizer = tokenizer_of(kind)
    tokenizer.chat_template = CHATML
    for turns in CONVERSATIONS.values():
        row = render(conversation(turns), tokenizer, template)
        first = render_prompt(turns[0][0], tokenizer, template)
        assert row.input_ids[: len(first)] == first
        assert row.trained.index(True) == len(first)
        if len(turns) == 1:
            assert (row.prompt_ids, row.answer_ids[-1]) == (first, tokenizer.eos_token_id)
        assert row.prompt_ids + row.answer_ids == row.input_ids
        trained = [i for i, flag in zip(row.input_ids, row.trained, strict=True) if flag]
        space = " " if template == "plain" else ""
        answers = "".join(f"{space}{answer.strip()}</s>" for _, answer in turns)
        assert text_of(tokenizer, trained) == answers.replace("</s>", tokenizer.eos_token)


def text_of(tokenizer, ids):
    """Tokens as text, without what decoders do at the beginning."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    if "Ġ" in tokenizer.get_vocab() or "Ċ" in tokenizer.get_vocab():
        return "".join(pieces).replace("Ġ", " ").replace("Ċ", "\n")
    return "".join(pieces).replace("▁", " ")


def test_an_end_that_the_tokenizer_adds_is_not_doubled():
    turns = CONVERSATIONS["three turns"]
    one, other = (
        render(conversation(turns), tokenizer_of(kind)) for kind in ("begun", "begun and ended")
    )
    assert one.input_ids == other.input_ids
    assert one.input_ids[0] == 1
    assert one.input_ids.count(1) == 1
    assert one.input_ids.count(2) == 3


def test_a_token_across_a_border_is_split():
    tokenizer = tokenizer_of("joining")
    turns = CONVERSATIONS["three turns"]
    joined = tokenizer.convert_tokens_to_ids("\nA")
    row = render(conversation(turns), tokenizer)
    assert joined in tokenizer("<|assistant|>\nAda")["input_ids"]
    assert joined not in row.input_ids
    official = render(conversation(turns), tokenizer, compat="official")
    ids, labels = released_collator.encoded(messages(turns), tokenizer)
    assert joined in ids
    assert (list(official.input_ids), labels_of(official)) == (ids, labels)


def test_the_released_evaluation_does_not_strip_its_prompt():
    tokenizer = tokenizer_of("begun")
    prompt = "Who?\nThe answer is: "
    trained = render(conversation([(prompt, "Ada")]), tokenizer, compat="official")
    asked = render_prompt(prompt, tokenizer, compat="official")
    assert list(asked) == tokenizer(f"<|user|>\n{prompt}\n<|assistant|>\n")["input_ids"]
    assert asked != trained.prompt_ids
    assert render_prompt(prompt, tokenizer) == trained.prompt_ids


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_chats_are_trained_on_what_their_template_marks(turns):
    tokenizer = tokenizer_of("begun")
    tokenizer.chat_template = CHATML
    chat = [{"role": role, "content": said.strip()} for role, said in messages(turns)]
    found = tokenizer.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    row = render(conversation(turns), tokenizer, "chat")
    length = len(row.input_ids)
    assert list(row.input_ids) == found["input_ids"][:length]
    assert list(map(int, row.trained)) == found["assistant_masks"][:length]
    # What is left over is the line break after the last end.
    assert text_of(tokenizer, found["input_ids"][length:]) == "\n"


def test_sets_say_what_they_left_out():
    conversations = [
        conversation([(f"w{i}", " ".join(["w3"] * i))], f"item {i}") for i in range(1, 8)
    ]
    found = render_all(conversations, tiny_tokenizer(), "plain", 6)
    assert [len(row.input_ids) for row in found] == [3, 4, 5, 6]
    assert found.too_long == ("item 5", "item 6", "item 7")
    assert found.configuration["too_long"] == ["item 5", "item 6", "item 7"]
    assert (found.configuration["items"], found.configuration["template"]) == (4, "plain")
    assert found[1:3] == found.items[1:3]
    assert not render_all(conversations, tiny_tokenizer(), "plain").too_long


def test_hashes_tell_tokens_labels_and_sources_apart():
    made = Rendered
    rows = [
        made((3, 4, 2), (False, True, True), "a", "set"),
        made((3, 4, 2), (False, False, True), "a", "set"),
        made((3, 4, 2), (False, True, True), "a", "other"),
        made((34, 2), (False, True), "a", "set"),
    ]
    assert len({rows_hash([row]) for row in rows}) == 4
    assert rows_hash(rows[:2]) != rows_hash(rows[1::-1])


def test_factoids_are_conversations_of_one_turn():
    items = (Factoid("Who?", ("Ada Lovelace", "Ada"), "a"), Factoid("When?", ("1843",), "b"))
    asked = FactoidSet("popqa", "none", "nowhere", items, ANSWER_IS)
    one, two = factoid_conversations(asked)
    assert [(turn.prompt, turn.answer) for turn in one.turns] == [
        ("Question: Who?\nThe answer is:", "Ada Lovelace")
    ]
    assert (two.identifier, two.source) == ("b", "popqa")
    official = factoid_conversations(asked, source="D_A", compat="official")
    assert official[0].turns[0].prompt == "Question: Who?\nThe answer is: "
    assert official[0].source == "D_A"
    bare = FactoidSet("kvr", "none", "nowhere", items, PLAIN)
    assert factoid_conversations(bare, compat="official")[0].turns[0].prompt == "Who?"


def without_end():
    tokenizer = copy.deepcopy(tokenizer_of("bytes"))
    tokenizer.eos_token = None
    return tokenizer


def chatting(template):
    tokenizer = copy.deepcopy(tokenizer_of("begun"))
    tokenizer.chat_template = template
    return tokenizer


def silent():
    """A tokenizer that knows one word, and drops all else."""
    return fast(Tokenizer(models.BPE({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}, [])))


BAD = {
    "empty answer": (lambda: render_turns([("Who?", " \n")]), "item 'item-7' has answer ' .n'"),
    "answer without tokens": (
        lambda: render_turns([("a", "zz")], tokenizer=silent()),
        "answer 'zz' of item 'item-7' has no tokens: give text",
    ),
    "prompt without tokens": (
        lambda: render_turns([("", "Ada")], "plain"),
        "the prompt of item 'item-7' has no tokens",
    ),
    "asked nothing": (
        lambda: render_prompt(" ", tokenizer_of("bytes"), "plain"),
        "prompt ' ' has no tokens",
    ),
    "all too long": (
        lambda: render_all([conversation([("w1", "w2")])], tiny_tokenizer(), "plain", 2),
        "none of 1 conversations is left to train on: the shortest has 3 tokens, and max_length is 2",
    ),
    "no conversations": (
        lambda: render_all([], tiny_tokenizer()),
        "none of 0 conversations is left",
    ),
    "no turns": (lambda: conversation([]), "conversation 'item-7' has no turns"),
    "no tokenizer": (
        lambda: render(conversation([("Who?", "Ada")]), None),
        "rows are made by a tokenizer, and there is none",
    ),
    "no end": (
        lambda: render_turns([("Who?", "Ada")], tokenizer=without_end()),
        "the tokenizer has none: give it an eos_token",
    ),
    "split end": (
        lambda: render_turns(
            [("Who?", "Ada")],
            tokenizer=fast(trained_backend(None), split_special_tokens=True),
        ),
        "splits its own end token '</s>'",
    ),
    "no chat template": (
        lambda: render_turns([("Who?", "Ada")], "chat", tokenizer=chatting(None)),
        "template 'chat' is the tokenizer's own, and this tokenizer has none",
    ),
    "chat rewritten": (
        lambda: render_turns(
            CONVERSATIONS["three turns"],
            "chat",
            tokenizer=chatting("{{ messages | length }}" + CHATML),
        ),
        "another way once it goes on",
    ),
    "endless chat": (
        lambda: render_turns(
            [("Who?", "Ada")],
            "chat",
            tokenizer=chatting("{% for m in messages %}{{ m['content'] }}\n{% endfor %}"),
        ),
        "puts nothing after an answer",
    ),
    "official chat": (
        lambda: render_turns([("Who?", "Ada")], "plain", compat="official"),
        "knows the template 'tulu' alone, not 'plain'",
    ),
}


def render_turns(turns, template="tulu", *, tokenizer=None, **given):
    tokenizer = tokenizer or tokenizer_of("bytes")
    return render(conversation(turns), tokenizer, template, **given)


@pytest.mark.parametrize(("attempt", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(attempt, message):
    with refused(message):
        attempt()
