"""Plans: what a run would do, resolved to numbers, before it does anything.

`--dry-run` prints one. Each training command makes its own from a configuration alone: no text is
read, no weight loaded. Here is what a plan is, and what several of them say.

Example:
    >>> plan = Plan("a run", (("training", (("tokens", "4,096 in 1 step"),)),))
    >>> plan.lines()
    ['a run', '', 'training', '  tokens  4,096 in 1 step']
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from training.choices import Parallel, RateCount, ScheduleKind
from training.commands.fields import EvaluationFields, LoopFields
from training.commands.recipes import changed

Lines = tuple[tuple[str, str], ...]
"""Names and values."""
Section = tuple[str, Lines]

_WIDTH = 100
_SHOWN_STEPS = 12


@dataclass(frozen=True)
class Plan:
    """Lines of a plan, in sections.

    Attributes:
        title: what is planned.
        sections: section, then name and value of each of its lines.
        missing: what has still to be given.
    """

    title: str
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = ()

    def value(self, section: str, name: str) -> str:
        """One value."""
        return dict(dict(self.sections)[section])[name]

    def lines(self) -> list[str]:
        """The plan as it is printed."""
        width = max(len(name) for _, rows in self.sections for name, _ in rows)
        found = [self.title]
        for section, rows in self.sections:
            found += ["", section]
            for name, value in rows:
                found += textwrap.wrap(
                    value,
                    _WIDTH,
                    initial_indent=f"  {name:<{width}}  ",
                    subsequent_indent=" " * (width + 4),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
        return found + ([""] * bool(self.missing)) + [f"to be given: {m}" for m in self.missing]


def training_section(
    config: LoopFields, steps: int | None, row_length: int, parameters: int | None = None
) -> Section:
    """How a model is trained."""
    rows = f"{config.batch_size} rows of {row_length}"
    lines = [
        ("tokens", f"all that the corpus has, in steps of {rows}"),
        ("learning rate", _rate(config, steps)),
        ("optimizer", _optimizer(config)),
        ("clipping", "none" if config.clip_norm is None else f"gradient norm {config.clip_norm:g}"),
        ("precision", str(config.precision)),
        ("processes", "one" if config.parallel is Parallel.NONE else str(config.parallel)),
        ("seed", str(config.seed)),
    ]
    if steps is not None:
        tokens = steps * config.batch_size * row_length
        lines[0] = ("tokens", f"{tokens:,} in {steps:,} steps of {rows}")
        if parameters is not None:
            lines.append(("arithmetic", f"about {6 * parameters * tokens:.1e} operations"))
    return "training", tuple(lines)


def with_changes(sections: Sequence[Section], config: Any, recipe: Any) -> tuple[Section, ...]:
    """Sections, and one more that says what differs from the recipe, if anything does."""
    names = [] if recipe is None else changed(config, recipe)
    if not names:
        return tuple(sections)
    lines = tuple(
        (name, f"{_shown(getattr(config, name))}, not {_shown(getattr(recipe, name))}")
        for name in names
    )
    return (*sections, ("changed from the recipe", lines))


def every(steps: int) -> str:
    """How often, in words."""
    return "every step" if steps == 1 else f"every {steps} steps"


def shown_steps(steps: Sequence[int]) -> str:
    """Steps as text, the middle of many left out."""
    if len(steps) <= _SHOWN_STEPS:
        return ", ".join(map(str, steps))
    first, last = steps[: _SHOWN_STEPS - 2], steps[-2:]
    return f"{', '.join(map(str, first))}, ..., {', '.join(map(str, last))}"


def shown_bytes(count: int) -> str:
    """A size on the disk."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def base_section(config: Any, when: str = "") -> Section:
    """The model that a run begins with, and how it is edited."""
    at = f" at {config.revision}" if config.revision else ""
    edits = []
    if config.resuscitates:
        kind = f"control {config.control} of a resuscitation" if config.control else "resuscitation"
        edits.append(
            f"{kind}: ratio {config.resuscitation_ratio:g}, factor "
            f"{config.resuscitation_factor:g}, at {config.resuscitation_site}"
        )
    if config.attention_temperature is not None:
        temperature = f"{config.attention_temperature:g}, {config.temperature_schedule}"
        edits.append(f"attention temperature {temperature}")
    made = "; ".join([*edits, f"as {config.edit_form}{when}"]) if edits else "none"
    return "model", (("base", f"{config.model}{at}"), ("edits", made))


def evaluated_on(config: EvaluationFields) -> str:
    """What a model is evaluated on beside what it is taught."""
    corpora, tokens = config.evaluation_corpora, config.evaluation_tokens
    found = [*losses(corpora, tokens), *task_names(config.tasks, config.task_limit)]
    if config.cloze is not None:
        found.append("cloze items of earlier facts" + (", if any" * (config.cloze == "auto")))
    return "; ".join([*found, *entropies(config.entropy_tokens)]) or "nothing"


def losses(corpora: Iterable[str], tokens: int) -> list[str]:
    """The loss on corpora."""
    return [f"loss on {tokens:,} tokens of {name}" for name in corpora]


def entropies(tokens: int | None) -> list[str]:
    """The three entropies, where they are measured."""
    return [] if tokens is None else [f"three entropies on {tokens:,} tokens"]


def task_names(names: Iterable[str], limit: int | None) -> list[str]:
    """Downstream tasks, and how much of each."""
    return [name if limit is None else f"{name} ({limit} questions)" for name in names]


def _rate(config: LoopFields, steps: int | None) -> str:
    warmup = f"{config.warmup_fraction:.0%} of the steps"
    if steps is not None:
        warmup = f"{config.loop_settings(steps).warmup_updates} steps"
    rises = f"rises over {warmup}, then " if config.warmup_fraction else ""
    falls = "stays"
    if config.schedule is not ScheduleKind.CONSTANT:
        falls = f"falls ({config.schedule}) to {config.final_fraction:g} of it"
    counted = (
        "" if config.schedule_count == RateCount.FROM_ONE else "; the first update has point 0"
    )
    return f"{config.learning_rate:g}; {rises}{falls}{counted}"


def _optimizer(config: LoopFields) -> str:
    decay = "none" if not config.weight_decay else f"{config.weight_decay:g} of {config.decay}"
    first, second = config.betas
    return f"AdamW, betas {first:g} and {second:g}, eps {config.eps:g}, weight decay {decay}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
