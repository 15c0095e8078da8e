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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from probes.generation import generate
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from training.choices import Template
from training.data.factoids import Factoid, FactoidSet, PromptTemplate, prompt_and_target
from training.data.rendering import Ids, render_prompt
from training.recall import Match, is_right, normalised
from training.runs.durable_files import write_whole

DEFAULT_SHOTS = 4
DEFAULT_NEW_TOKENS = 32
BETWEEN_SHOTS = "\n\n"
FORM = 1
"""Raise it with any change of how prompts are put together, so that no kept answer is taken."""


@dataclass(frozen=True)
class FamiliaritySplit:
    """A set of factoids in two, by whether a model knows them, and how it was asked."""

    familiar: FactoidSet = field(repr=False)
    unfamiliar: FactoidSet = field(repr=False)
    answers: dict[str, str] = field(repr=False)
    """What it answered, by identifier."""
    configuration: dict[str, Any]

    @property
    def share(self) -> float:
        """Share of the factoids that are familiar."""
        return len(self.familiar) / (len(self.familiar) + len(self.unfamiliar))


def familiarity(
    model: HookedModel,
    factoids: FactoidSet,
    *,
    shots: int = DEFAULT_SHOTS,
    prompt: PromptTemplate | None = None,
    temperature: float | None = None,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    seed: int = 0,
    cache: Path | None = None,
    on_items: Callable[[int], None] | None = None,
) -> FamiliaritySplit:
    """Split factoids by whether a model answers them right."""
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to ask in words: load it with one")
    template = prompt or factoids.template
    settings = {
        "form": FORM,
        "model_sha256": model.content_hash(),
        "factoids_sha256": factoids.content_hash,
        "shots": shots,
        "prompt": asdict(template),
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    kept = None if cache is None else KeptAnswers(cache, settings)
    answers = None if kept is None else kept.read([factoid.identifier for factoid in factoids])
    if answers is None:
        texts = few_shot_prompts(factoids, shots=shots, prompt=template, seed=seed)
        asked = [render_prompt(text, model.tokenizer, Template.PLAIN) for text in texts]
        found = _written(model, asked, max_new_tokens, temperature, seed, on_items)
        answers = dict(zip([f.identifier for f in factoids], found, strict=True))
        if kept is not None:
            kept.write(answers)
    return _split(factoids, answers, settings)


def few_shot_prompts(
    factoids: FactoidSet, *, shots: int, prompt: PromptTemplate, seed: int
) -> list[str]:
    """The text that each factoid is asked by."""
    if shots < 0:
        raise ValueError(f"shots is {shots}: give 0 or more")
    order = list(factoids)
    random.Random(seed).shuffle(order)
    accepted = {f.identifier: frozenset(map(normalised, f.answers)) for f in order}

    def others(item: Factoid) -> Iterator[Factoid]:
        for other in order:
            shares_answer = accepted[other.identifier] & accepted[item.identifier]
            if not shares_answer and other.question != item.question:
                yield other

    texts = []
    for item in factoids:
        chosen = list(islice(others(item), shots))
        if len(chosen) < shots:
            raise ValueError(
                f"{shots} shots were asked for, but {factoids.name} has {len(chosen)} other items "
                f"beside {item.identifier!r} with other answers: ask for fewer shots"
            )
        told = ["".join(prompt_and_target(shot, prompt)) for shot in chosen]
        texts.append(BETWEEN_SHOTS.join([*told, prompt_and_target(item, prompt)[0]]))
    return texts


def _written(
    model: HookedModel,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    temperature: float | None,
    seed: int,
    on_items: Callable[[int], None] | None,
) -> list[str]:
    """What the model writes after each prompt, up to a line break."""
    rows = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=line_ends(model.tokenizer),
        temperature=temperature,
        generator=None if temperature is None else torch.Generator().manual_seed(seed),
        on_items=on_items,
    )
    texts = [_decoded(model.tokenizer, row) for row in rows]
    return [text.partition("\n")[0].strip() for text in texts]


def line_ends(tokenizer: Any) -> list[int]:
    """Tokens after which nothing of an answer can come: line breaks, and the end token."""
    texts = [_decoded(tokenizer, [token]) for token in range(len(tokenizer))]
    found = [token for token, text in enumerate(texts) if text.startswith("\n")]
    end = tokenizer.eos_token_id
    return found if end is None or end in found else [*found, end]


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _split(
    factoids: FactoidSet, answers: dict[str, str], settings: dict[str, Any]
) -> FamiliaritySplit:
    right = {
        f.identifier: is_right(answers[f.identifier], f.answers, Match.ALIASES) for f in factoids
    }
    familiar = tuple(f for f in factoids if right[f.identifier])
    unfamiliar = tuple(f for f in factoids if not right[f.identifier])
    counts = {"familiar": len(familiar), "unfamiliar": len(unfamiliar)}
    return FamiliaritySplit(
        replace(factoids, factoids=familiar),
        replace(factoids, factoids=unfamiliar),
        answers,
        settings | counts,
    )


class KeptAnswers:
    """Answers in a file that is named after what decides them."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._settings = settings
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        self.path = folder / f"familiarity-{name}.json"

    def read(self, identifiers: Sequence[str]) -> dict[str, str] | None:
        """The answers to some items; None if they are not kept."""
        if not self.path.exists():
            return None
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            answers = dict(zip(identifiers, map(str, held["answers"]), strict=True))
            is_same = held["settings"] == self._settings
        except (ValueError, KeyError, TypeError):
            is_same = False
        if not is_same:
            raise ValueError(
                f"{self.path} does not hold answers to these items: delete it to ask again"
            )
        return answers

    def write(self, answers: dict[str, str]) -> None:
        """Keep the answers, in the order of the items."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held = {"settings": self._settings, "answers": list(answers.values())}
        write_whole(self.path, json_text(held, f"{self.path}", indent=1) + "\n")
