r"""Which factoids does a model know already, before it is taught any?

A factoid is **familiar** to a model if the model answers it right in a few-shot prompt, and
unfamiliar otherwise. The prompt is a number of other items of the set with their canonical answers,
then the item without one, each put by the template of the set and parted by empty lines. The other
items are the first of an order drawn by a seed that are not the item itself (nor ask the same
question) and do not accept any of its answers, so that no answer can be copied from the prompt.

The answer is what the model writes up to the first line break or its end token. It is right if,
normalised, it equals one of the accepted answers (`Match.ALIASES` of `training.recall`).

With a cache, answers are kept in a file named after everything that decides them: the weights, the
items, the template and all settings. What is right is decided anew.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2.
Shots, prompt and decoding are not given there; the defaults are ours.
"""

import hashlib
import json
import random
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from probes.generation import generate
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from training.choices import Template
from training.data.factoids import FactoidSet, PromptTemplate, prompt_and_target
from training.data.rendering import decoded, render_prompt
from training.recall import Match, is_right, normalised
from training.runs.durable_files import write_whole

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
        """Share of the factoids that are familiar."""
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
    path = None if cache is None else cache / f"familiarity-{_name(settings)}.json"
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
            held = {"settings": settings, "answers": answers}
            write_whole(path, json_text(held, f"{path}", indent=1) + "\n")
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


def _name(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _kept(path: Path | None, settings: dict[str, Any], items: int) -> list[str] | None:
    """The answers to so many items in a file; None if they are not kept."""
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
