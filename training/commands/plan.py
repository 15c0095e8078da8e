"""Plans: what a run would do, resolved to numbers, before it does anything.

`--dry-run` prints one and stops. `training.pretrain.plan` and `training.ckl.plan` make them from a
configuration alone, so that they answer at once: no text is read, no weight loaded. Here is what a
plan is, and the lines that both have.

Example:
    >>> plan = Plan("a run", (("training", (("tokens", "4,096 in 1 step"),)),))
    >>> plan.lines()
    ['a run', '', 'training', '  tokens  4,096 in 1 step']
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.choices import Parallel, RateCount, ScheduleKind
from training.commands.loop_fields import LoopFields
from training.commands.recipes import changed
from training.optimizer import warmup_updates

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


def shown_task(name: str, limit: int | None) -> str:
    """A downstream task, and how much of it."""
    return name if limit is None else f"{name} ({limit} questions)"


def _rate(config: LoopFields, steps: int | None) -> str:
    warmup = f"{config.warmup_fraction:.0%} of the steps"
    if steps is not None:
        warmup = f"{warmup_updates(config.loop_settings(steps))} steps"
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
