"""Recall items: what a model is asked again, which answer it was taught, and which are accepted.

An item is made from a row of training, so the question is token for token the beginning of what was
trained on. Of a conversation of several turns the last is asked, after all that came before it.

Example:
    >>> rows = render_all(factoid_conversations(factoids), tokenizer)            # doctest: +SKIP
    >>> items = recall_items(rows, tokenizer, accepted_answers(factoids))        # doctest: +SKIP
    >>> items[0].accepted                                                        # doctest: +SKIP
    ('Chicago', 'Chicago, Illinois')
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.generation import generate
from probes.hooked_model import HookedModel
from training.datasets.factoid_prompts import Factoid
from training.datasets.rendering import Rendered

Ids = tuple[int, ...]
MARGIN = 16
"""Tokens that an answer may have more than the longest that was taught."""


@dataclass(frozen=True)
class RecallItem:
    """A question and its answers.

    Attributes:
        identifier: what the item is called in its set.
        source: the data set that it is from.
        prompt_ids: tokens of the question.
        answer_ids: tokens of the answer that was taught; the last one ends it.
        prompt: the question as text.
        accepted: the accepted answers, the canonical one first.
    """

    identifier: str
    source: str
    prompt_ids: Ids
    answer_ids: Ids
    prompt: str
    accepted: tuple[str, ...]

    @property
    def pair(self) -> tuple[Ids, Ids]:
        """Question and taught answer, as tokens."""
        return self.prompt_ids, self.answer_ids

    @property
    def row(self) -> dict[str, Any]:
        """The item as a line of a run's list."""
        return {
            "identifier": self.identifier,
            "source": self.source,
            "prompt": self.prompt,
            "accepted": list(self.accepted),
            "answer_tokens": len(self.answer_ids),
        }


def recall_items(
    rows: Iterable[Rendered],
    tokenizer: Any,
    accepted: Mapping[str, Sequence[str]] | None = None,
) -> list[RecallItem]:
    """What to ask of rows that were, or could be, trained on.

    Args:
        rows: rendered conversations.
        tokenizer: what they were rendered with.
        accepted: the accepted answers by the identifiers of items, the canonical one first; None
            where the answer in the row is the only one.

    Raises:
        ValueError: there are no rows, or one has no accepted answer.
    """
    items = [_item(row, tokenizer, accepted) for row in rows]
    if not items:
        raise ValueError("there are no rows to ask about; give at least one")
    return items


def accepted_answers(factoids: Iterable[Factoid]) -> dict[str, tuple[str, ...]]:
    """The accepted answers of factoids by their identifiers.

    Raises:
        ValueError: two factoids share an identifier and differ in their answers.
    """
    found: dict[str, tuple[str, ...]] = {}
    for factoid in factoids:
        if found.setdefault(factoid.identifier, factoid.answers) != factoid.answers:
            raise ValueError(
                f"two factoids are called {factoid.identifier!r} and have other answers; give each "
                "an identifier of its own"
            )
    return found


def written_answers(
    model: HookedModel,
    items: Sequence[RecallItem],
    *,
    max_new_tokens: int | None = None,
    distributed: bool = False,
) -> list[str]:
    """What a model answers, decoded greedily up to its end.

    Args:
        model: the hooked model, with its tokenizer; what is attached to it counts.
        items: what to ask. Their last tokens end an answer, and so does the tokenizer's end token.
        max_new_tokens: of an answer; None for 16 more than the longest that was taught.
        distributed: share the work out over the processes of the default group.

    Returns:
        Texts without their end, other special tokens written out; one that was cut off is as far as
        it got.

    Raises:
        ValueError: the model has no tokenizer, or `probes.generation.generate` refuses.
    """
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer to read its answers with; load it with one, or use "
            "match 'tokens'"
        )
    ends = {item.answer_ids[-1] for item in items}
    if model.tokenizer.eos_token_id is not None:
        ends.add(model.tokenizer.eos_token_id)
    longest = max(len(item.answer_ids) for item in items)
    found = generate(
        model,
        [item.prompt_ids for item in items],
        max_new_tokens=longest + MARGIN if max_new_tokens is None else max_new_tokens,
        stop_ids=sorted(ends),
        distributed=distributed,
    )
    bare = [ids[:-1] if ids[-1] in ends else ids for ids in found]
    return [_text(model.tokenizer, ids) for ids in bare]


def _item(
    row: Rendered, tokenizer: Any, accepted: Mapping[str, Sequence[str]] | None
) -> RecallItem:
    prompt, answer = row.prompt_ids, row.answer_ids
    if accepted is None:
        answers: tuple[str, ...] = (_text(tokenizer, answer[:-1]).strip(),)
    else:
        answers = tuple(accepted.get(row.identifier, ()))
    if not answers:
        raise ValueError(
            f"item {row.identifier!r} has no accepted answer; give at least the one that is taught"
        )
    text = _text(tokenizer, prompt)
    return RecallItem(row.identifier, row.source, prompt, answer, text, answers)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    # A special token inside an answer makes it another one, and is not to be passed over.
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
