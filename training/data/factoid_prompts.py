r"""What a factoid is, and how it becomes the text a model is asked to continue.

A **factoid** is a question with a short answer: a subject, a relation and an object where the set
names them. A **template** has two halves: the prompt, with `{question}` in it, and the target, with
`{answer}`. Prompt and target follow each other without anything between them, so the space that
parts them belongs to the target, where tokenizers put it.

| template          | prompt                                 | used for                           |
|-------------------|----------------------------------------|------------------------------------|
| `QUESTION_ANSWER` | `Question: {question}\nAnswer:`        | questions, unless said otherwise   |
| `ANSWER_IS`       | `Question: {question}\nThe answer is:` | the paper's form of questions      |
| `PLAIN`           | `{question}`                           | key-value recall, finished prompts |

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.5.

Example:
    >>> factoid = Factoid("Which city does David Soul come from?", ("Chicago",), "1", "David Soul")
    >>> prompt_and_target(factoid, QUESTION_ANSWER)
    ('Question: Which city does David Soul come from?\nAnswer:', ' Chicago')
    >>> start, stop = subject_span(factoid, QUESTION_ANSWER)
    >>> prompt_and_target(factoid, QUESTION_ANSWER)[0][start:stop]
    'David Soul'
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Factoid:
    """One question and its answers.

    Attributes:
        question: the question, or the text that the answer continues.
        answers: what is accepted, the canonical answer first.
        identifier: what the item is called in its set; no two share one.
        subject: what the question is about, where the set says it.
        relation: what is asked of the subject, where the set says it.
    """

    question: str
    answers: tuple[str, ...]
    identifier: str
    subject: str | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        if not self.question or not self.answers or not all(self.answers):
            raise ValueError(
                f"factoid {self.identifier!r} has question {self.question!r} and answers "
                f"{list(self.answers)}: give a question and at least one answer, none of them empty"
            )

    @property
    def object(self) -> str:
        """The canonical answer."""
        return self.answers[0]


@dataclass(frozen=True)
class PromptTemplate:
    """How a factoid is put to a model.

    Attributes:
        prompt: text with `{question}` in it once.
        target: text with `{answer}` in it once.
    """

    prompt: str = "Question: {question}\nAnswer:"
    target: str = " {answer}"

    def __post_init__(self) -> None:
        for text, field in ((self.prompt, "{question}"), (self.target, "{answer}")):
            if text.count(field) != 1:
                raise ValueError(
                    f"template {text!r} holds {field} {text.count(field)} times: write it once"
                )


QUESTION_ANSWER = PromptTemplate()
ANSWER_IS = PromptTemplate("Question: {question}\nThe answer is:")
PLAIN = PromptTemplate("{question}")


def prompt_and_target(factoid: Factoid, template: PromptTemplate) -> tuple[str, str]:
    """The prompt of a factoid, and its canonical answer as what follows the prompt."""
    # Not str.format: a question may hold braces.
    return (
        template.prompt.replace("{question}", factoid.question),
        template.target.replace("{answer}", factoid.object),
    )


def subject_span(factoid: Factoid, template: PromptTemplate) -> tuple[int, int] | None:
    """Where the subject stands in the prompt of a factoid.

    It is looked for in the question, as whole words, first as it is written and then in any case;
    the first place counts.

    Returns:
        Character positions `(start, stop)` in the prompt; None where the factoid names no subject
        or its question does not hold it.
    """
    if not factoid.subject:
        return None
    words = rf"(?<!\w){re.escape(factoid.subject)}(?!\w)"
    found = re.search(words, factoid.question) or re.search(words, factoid.question, re.IGNORECASE)
    if not found:
        return None
    shift = template.prompt.index("{question}")
    return shift + found.start(), shift + found.end()
