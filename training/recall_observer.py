"""Recall observer: which items a model answers right, looked at during a run.

Under the match `tokens`, the default, this is one pass over the taught answers and cheap; it also
gives their log-probabilities, in nats. Other matches need the answers written out, once for all of
them: a step of the model for every token. See `training.recall` for what each counts as right.

Example:
    >>> RecallObserver("primary", items, Cadence(every=50))                      # doctest: +SKIP
    >>> RecallObserver("primary-written", items, Cadence(last=400), how=("strict", "aliases"))
    ...                                                                          # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import Any

from probes.exact_match import target_readings
from probes.hooked_model import HookedModel
from training.observers import Cadence, shared_out
from training.recall import Match, as_match, is_right
from training.recall_items import RecallItem, written_answers
from training.runs.records import RecallRecord, Record


class RecallObserver:
    """Asks items, and records which are answered right.

    Args:
        name: of the list of items.
        items: what to ask.
        cadence: when.
        how: what counts as right; one record for each, in this order.
        max_new_tokens: of an answer that is written out; None for 16 more than the longest that was
            taught.

    Raises:
        ValueError: there are no items, nothing is said to count, or something unknown or twice.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[RecallItem],
        cadence: Cadence,
        *,
        how: Sequence[Match | str] = (Match.TOKENS,),
        max_new_tokens: int | None = None,
    ) -> None:
        if not items:
            raise ValueError(f"there are no items to ask in {name!r}; give at least one")
        self._matches = [as_match(match) for match in how]
        if not self._matches or len(set(self._matches)) < len(self._matches):
            raise ValueError(
                f"{name!r} is to be matched by {', '.join(self._matches) or 'nothing'}: give each "
                "match once, and at least one"
            )
        self._name = name
        self._items = list(items)
        self._cadence = cadence
        self._max_new_tokens = max_new_tokens

    def due(self, step: int) -> bool:
        """Whether to look after this many updates."""
        return self._cadence.due(step)

    def items(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The items, one a row."""
        return {self._name: [item.row for item in self._items]}

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """For each match, which items are answered right."""
        written: list[str] = []
        if any(match.needs_text for match in self._matches):
            written = written_answers(
                model, self._items, max_new_tokens=self._max_new_tokens, distributed=shared_out()
            )
        return [
            self._by_text(written, match, step)
            if match.needs_text
            else self._by_tokens(model, step)
            for match in self._matches
        ]

    def _by_tokens(self, model: HookedModel, step: int) -> RecallRecord:
        pairs = [item.pair for item in self._items]
        found = target_readings(model, pairs, distributed=shared_out())
        correct = found.matches.int().tolist()
        return RecallRecord(step, self._name, correct, found.sums.tolist(), Match.TOKENS)

    def _by_text(self, written: Sequence[str], match: Match, step: int) -> RecallRecord:
        pairs = zip(written, self._items, strict=True)
        correct = [int(is_right(answer, item.accepted, match)) for answer, item in pairs]
        return RecallRecord(step, self._name, correct, None, match)
