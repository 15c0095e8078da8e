"""Recall: is what a model answers right, and which factoids does it know before it is taught any?

| match        | an answer is right if                                                             |
|--------------|-----------------------------------------------------------------------------------|
| `tokens`     | the model would write exactly the tokens of the answer it was taught, and its end |
| `strict`     | it is the canonical answer, but for case and for space at its ends                |
| `normalised` | it is the canonical answer once both are normalised                               |
| `aliases`    | it is one of the accepted answers, all of them normalised                         |
| `substring`  | the canonical answer contains it: the released code's rule for WebQuestions       |

Normalised text is in lower case, without punctuation and articles, with one space between words; of
a text that is nothing else ("+", say) what was taken off stays. An empty answer is wrong except
under `substring`, as in the released code.

A factoid is **familiar** to a model that answers it right (`aliases`, up to the first line break)
in a few-shot prompt: other items with their canonical answers, then the item without one, parted by
empty lines. Shots are the first of a drawn order that do not ask the same question and share no
accepted answer with it, so that none can be copied.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2
(`strict`, familiar) and the released evaluation; shots, prompt and decoding of the familiar are not
given there, and the defaults are ours. Rajpurkar et al., "SQuAD", EMNLP 2016 (normalisation).
"""

import hashlib
import json
import random
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from probes.choices import as_choice
from probes.generation import generate
from probes.hooked_model import HookedModel
from probes.prompts import Ids
from probes.scoring import target_readings
from training.choices import Template
from training.data.factoids import Factoid, FactoidSet, PromptTemplate, prompt_and_target
from training.data.rendering import Rendered, decoded, render_prompt
from training.observers import Cadence, Timed, shared_out
from training.runs.records import RecallRecord, Record, write_json

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Match(StrEnum):
    """What counts as a right answer; see the module."""

    TOKENS = "tokens"
    STRICT = "strict"
    NORMALISED = "normalised"
    ALIASES = "aliases"
    SUBSTRING = "substring"

    @property
    def needs_text(self) -> bool:
        """Whether the model has to write its answer out."""
        return self is not Match.TOKENS


def is_right(answer: str, accepted: str | Sequence[str], match: Match | str) -> bool:
    """Whether an answer is right.

    Args:
        answer: what the model wrote, its end left out.
        accepted: the accepted answers, the canonical one first; a string by itself is the one.
        match: what counts; not `tokens`, which is no question of text.

    Raises:
        ValueError: no answer is accepted, or there is no such match.
    """
    accepted = [accepted] if isinstance(accepted, str) else accepted
    if not accepted:
        raise ValueError("no answer is accepted: give the canonical one, and others after it")
    plain, canonical = answer.strip().lower(), accepted[0].strip().lower()
    match as_choice(Match, match, "match"):
        case Match.STRICT:
            return plain == canonical
        case Match.NORMALISED:
            return normalised(answer) == normalised(accepted[0])
        case Match.ALIASES:
            return normalised(answer) in map(normalised, accepted)
        case Match.SUBSTRING:
            return plain in canonical
        case Match.TOKENS:
            raise ValueError(
                "match 'tokens' compares tokens and not texts; use probes.exact_matches, or choose "
                f"from {', '.join(match for match in Match if match.needs_text)}"
            )


def normalised(text: str) -> str:
    """A text in lower case, without punctuation and articles, and with single spaces."""
    lower = text.lower()
    bare = lower.translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split() or bare.split() or lower.split())


@dataclass(frozen=True)
class RecallItem:
    """A question and its answers, as tokens and as text."""

    identifier: str
    source: str
    prompt_ids: Ids
    answer_ids: Ids  # tokens of the answer that was taught; the last one ends it
    prompt: str
    accepted: tuple[str, ...]  # the accepted answers, the canonical one first


def recall_items(
    rows: Iterable[Rendered],
    tokenizer: Any,
    accepted: Mapping[str, Sequence[str]] | None = None,
) -> list[RecallItem]:
    """What to ask of rows that can be trained on; the answer taught where no others are given."""
    items = []
    for row in rows:
        taught = (decoded(tokenizer, row.answer_ids[:-1], with_special=True).strip(),)
        answers = taught if accepted is None else tuple(accepted.get(row.identifier, ()))
        if not answers:
            raise ValueError(
                f"item {row.identifier!r} has no accepted answer; give at least the one that is "
                "taught"
            )
        prompt = decoded(tokenizer, row.prompt_ids, with_special=True)
        item = (row.identifier, row.source, row.prompt_ids, row.answer_ids, prompt, answers)
        items.append(RecallItem(*item))
    if not items:
        raise ValueError("there are no rows to ask about; give at least one")
    return items


def accepted_answers(factoids: Iterable[Factoid]) -> dict[str, tuple[str, ...]]:
    """The accepted answers of factoids by identifier; two of one identifier may not differ."""
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
        Texts without their end, other special tokens written out, since one inside an answer makes
        it another; an answer that was cut off is as far as it got.

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
    if max_new_tokens is None:
        max_new_tokens = max(len(item.answer_ids) for item in items) + 16
    found = generate(
        model,
        [item.prompt_ids for item in items],
        max_new_tokens=max_new_tokens,
        stop_ids=sorted(ends),
        distributed=distributed,
    )
    bare = [ids[:-1] if ids[-1] in ends else ids for ids in found]
    return [decoded(model.tokenizer, ids, with_special=True) for ids in bare]


class RecallObserver(Timed):
    """Asks items of a list that is so called, and records for each of `how`, in this order, which
    are answered right.

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
    ) -> None:
        super().__init__(cadence)
        if not items:
            raise ValueError(f"there are no items to ask in {name!r}; give at least one")
        self._matches = [as_choice(Match, match, "match") for match in how]
        if not self._matches or len(set(self._matches)) < len(self._matches):
            raise ValueError(
                f"{name!r} is to be matched by {', '.join(self._matches) or 'nothing'}: give each "
                "match once, and at least one"
            )
        self._name, self._items = name, list(items)

    def items(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The items, one a row."""
        rows = [
            {
                "identifier": item.identifier,
                "source": item.source,
                "prompt": item.prompt,
                "accepted": list(item.accepted),
                "answer_tokens": len(item.answer_ids),
            }
            for item in self._items
        ]
        return {self._name: rows}

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """For each match, which items are answered right."""
        written: list[str] = []
        if any(match.needs_text for match in self._matches):
            written = written_answers(model, self._items, distributed=shared_out())
        records: list[Record] = []
        for match in self._matches:
            sums = None
            if match.needs_text:
                pairs = zip(written, self._items, strict=True)
                correct = [int(is_right(answer, item.accepted, match)) for answer, item in pairs]
            else:
                asked = [(item.prompt_ids, item.answer_ids) for item in self._items]
                found = target_readings(model, asked, distributed=shared_out())
                correct, sums = found.matches.int().tolist(), found.sums.tolist()
            records.append(RecallRecord(step, self._name, correct, sums, match))
        return records


FORM = 1
"""Raise it with any change of how prompts are put together, so that no kept answer is taken."""


@dataclass(frozen=True)
class FamiliaritySplit:
    """A set of factoids in two, by whether a model knows them, and how it was asked."""

    familiar: FactoidSet = field(repr=False)
    unfamiliar: FactoidSet = field(repr=False)
    answers: dict[str, str] = field(repr=False)  # what it answered, by identifier
    configuration: dict[str, Any]

    @property
    def share(self) -> float:
        return len(self.familiar) / (len(self.familiar) + len(self.unfamiliar))


def familiarity(
    model: HookedModel,
    factoids: FactoidSet,
    *,
    shots: int = 4,
    prompt: PromptTemplate | None = None,
    max_new_tokens: int = 32,
    seed: int = 0,
    cache: Path | None = None,
) -> FamiliaritySplit:
    """Split factoids by whether a model answers them right."""
    if (tokenizer := model.tokenizer) is None:
        raise ValueError(f"{model.name} has no tokenizer to ask in words: load it with one")
    template = prompt or factoids.template
    settings = {
        "form": FORM,
        "model_sha256": model.content_hash(),
        "factoids_sha256": factoids.content_hash,
        "shots": shots,
        "prompt": asdict(template),
        "temperature": None,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    name = f"familiarity-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    path = None if cache is None else cache / name
    answers = _kept(path, settings, len(factoids))
    if answers is None:
        texts = few_shot_prompts(factoids, shots=shots, prompt=template, seed=seed)
        rows = generate(
            model,
            [render_prompt(text, tokenizer, Template.PLAIN) for text in texts],
            max_new_tokens=max_new_tokens,
            stop_ids=line_ends(tokenizer),
        )
        written = [decoded(tokenizer, row) for row in rows]
        answers = [text.partition("\n")[0].strip() for text in written]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"settings": settings, "answers": answers}, indent=1)
    pairs = list(zip(factoids, answers, strict=True))
    judged = [(one, is_right(answer, one.answers, Match.ALIASES)) for one, answer in pairs]
    familiar = replace(factoids, items=tuple(one for one, right in judged if right))
    unfamiliar = replace(factoids, items=tuple(one for one, right in judged if not right))
    counts = {"familiar": len(familiar), "unfamiliar": len(unfamiliar)}
    by_name = {one.identifier: answer for one, answer in pairs}
    return FamiliaritySplit(familiar, unfamiliar, by_name, settings | counts)


def few_shot_prompts(
    factoids: FactoidSet, *, shots: int, prompt: PromptTemplate, seed: int
) -> list[str]:
    """The text that each factoid is asked by."""
    if shots < 0:
        raise ValueError(f"shots is {shots}: give 0 or more")
    order = list(factoids)
    random.Random(seed).shuffle(order)
    accepted = {f.identifier: frozenset(map(normalised, f.answers)) for f in order}
    texts = []
    for item in factoids:
        others = (
            other
            for other in order
            if other.question != item.question
            and not accepted[other.identifier] & accepted[item.identifier]
        )
        shown = ["".join(prompt_and_target(shot, prompt)) for shot in islice(others, shots)]
        if len(shown) < shots:
            raise ValueError(
                f"{shots} shots were asked for, but {factoids.name} has {len(shown)} other items "
                f"beside {item.identifier!r} with other answers: ask for fewer shots"
            )
        texts.append("\n\n".join([*shown, prompt_and_target(item, prompt)[0]]))
    return texts


def line_ends(tokenizer: Any) -> list[int]:
    """Tokens after which nothing of an answer can come: line breaks, and the end token."""
    texts = [decoded(tokenizer, [token]) for token in range(len(tokenizer))]
    found = [token for token, text in enumerate(texts) if text.startswith("\n")]
    end = tokenizer.eos_token_id
    return found if end is None or end in found else [*found, end]


def _kept(path: Path | None, settings: dict[str, Any], items: int) -> list[str] | None:
    if path is None or not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        answers = list(map(str, held["answers"]))
        fits = held["settings"] == settings and len(answers) == items
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"{path} does not hold answers to these items: delete it to ask again")
    return answers
