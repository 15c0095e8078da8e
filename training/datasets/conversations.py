"""Conversations: what a model is taught to answer, before any template or tokenizer.

A factoid is a conversation of one turn; an item of an instruction set has one or more. Prompts and
answers are bare: the space between them, the names of the speakers and the end of an answer belong
to the template that renders them (`training.datasets.rendering`).

Example:
    >>> from training.datasets.factoids import load_factoids
    >>> conversation = factoid_conversations(load_factoids("kvr", limit=1))[0]
    >>> conversation.turns[0]
    Turn(prompt='The value of key dc6486c4 is?', answer='79e84c94')
"""

from dataclasses import dataclass

from probes.choices import Compat
from training.datasets.factoid_prompts import PromptTemplate, prompt_and_target
from training.datasets.factoids import FactoidSet


@dataclass(frozen=True)
class Turn:
    """What the user says, and what the model is to answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and where they are from.

    Attributes:
        turns: one for a factoid; later ones are read after all that came before.
        identifier: what the item is called in its set.
        source: the data set that it counts for, where losses are told apart.
    """

    turns: tuple[Turn, ...]
    identifier: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(
                f"conversation {self.identifier!r} has no turns: give a prompt and its answer"
            )


def factoid_conversations(
    factoids: FactoidSet, *, source: str | None = None, compat: Compat | str | None = None
) -> list[Conversation]:
    """Factoids as conversations of one turn, asked by the template of their set.

    The answer is the canonical one, as the template writes it.

    Args:
        factoids: the set.
        source: the data set that they count for; None for the name of the set.
        compat: "official" leaves a space at the end of prompts that ask for the answer after the
            question, as the released loaders do; it matters where such a prompt is then not
            stripped (`training.datasets.rendering.render_prompt`).
    """
    official = compat is not None and Compat(compat) is Compat.OFFICIAL
    end = " " if official and not _ends_with_question(factoids.template) else ""
    return [
        Conversation(
            (_turn(*prompt_and_target(factoid, factoids.template), end),),
            factoid.identifier,
            factoids.name if source is None else source,
        )
        for factoid in factoids
    ]


def _turn(prompt: str, target: str, end: str) -> Turn:
    """One turn of a prompt and what follows it, the space between them left out."""
    return Turn(prompt.rstrip() + end, target.strip())


def _ends_with_question(template: PromptTemplate) -> bool:
    return template.prompt.rstrip().endswith("{question}")
