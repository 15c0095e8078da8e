"""A training command: arguments from a recipe, a plan on request, or a run.

A plan says what a run would do, from its configuration alone: no text is read, no weight loaded.
`--dry-run` prints it, and tries what the run needs (`training.stand_ins` says with what, where a
model or data are not here).
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.cli import command_main, parse_arguments
from training.choices import Parallel, RateCount, ScheduleKind, Tracker
from training.options import EditForm, EvaluationFields, LoopFields, deciding_edits
from training.recipes import beginning_of, changed, from_json, recipe_named

Section = tuple[str, tuple[tuple[str, str], ...]]  # a heading, then names and values
_WIDTH = 100
_SHOWN_STEPS = 12
_FORMS = {
    EditForm.WEIGHTS: "in the weights, which are trained so",
    EditForm.HOOKS: "by hooks, a fixed gain in front of the trained weights",
}


@dataclass(frozen=True)
class Plan:
    """What is planned, its lines in sections, and what has still to be given."""

    title: str
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = ()

    def value(self, section: str, name: str) -> str:
        return dict(dict(self.sections)[section])[name]

    def lines(self) -> list[str]:
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
    first, second = config.betas
    decay = "none" if not config.weight_decay else f"{config.weight_decay:g} of {config.decay}"
    optimizer = f"AdamW, betas {first:g} and {second:g}, eps {config.eps:g}, weight decay {decay}"
    lines = [
        ("tokens", f"all that the corpus has, in steps of {rows}"),
        ("learning rate", _rate(config, steps)),
        ("optimizer", optimizer),
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


def _rate(config: LoopFields, steps: int | None) -> str:
    warmup = f"{config.warmup_fraction:.0%} of the steps"
    if steps is not None:
        warmup = f"{config.loop_settings(steps).warmup_updates} steps"
    rises = f"rises over {warmup}, then " if config.warmup_fraction else ""
    falls = "stays"
    if config.schedule is not ScheduleKind.CONSTANT:
        falls = f"falls ({config.schedule}) to {config.final_fraction:g} of it"
    from_one = config.schedule_count == RateCount.FROM_ONE
    counted = "" if from_one else "; the first update has point 0"
    return f"{config.learning_rate:g}; {rises}{falls}{counted}"


def with_changes(sections: Sequence[Section], config: Any, recipe: Any) -> tuple[Section, ...]:
    """Sections, and one more that says what differs from the recipe, if anything does."""

    def shown(value: Any) -> str:
        if isinstance(value, tuple):
            return " ".join(map(str, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    lines = tuple(
        (name, f"{shown(getattr(config, name))}, not {shown(getattr(recipe, name))}")
        for name in ([] if recipe is None else changed(config, recipe))
    )
    return (*sections, ("changed from the recipe", lines)) if lines else tuple(sections)


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
    edits += config.edit
    if "edit_form" in deciding_edits(vars(config)):
        edits.append(_FORMS[config.edit_form])
    made = f"{'; '.join(edits)}{when}" if edits else "none"
    rows = [("base", f"{config.model}{at}"), ("edits", made)]
    if config.lora_rank is not None:
        rows.append(("trained", f"adapters (LoRA) of rank {config.lora_rank}"))
    return "model", tuple(rows)


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


@dataclass(frozen=True, kw_only=True)
class RunFields:
    """The folder of a run, and how much of it is done now."""

    out: Path | None = None
    """Folder of the run; made if it is not there, and not needed to --dry-run."""
    resume: bool = False
    """Go on with the run in --out, from its last checkpoint; begin it where there is none."""
    dry_run: bool = False
    """Print what the run would do, try all that it needs, with stand-ins for models and data that
    are not on this machine, and stop before training."""
    minutes: float | None = None
    """Stop after so many with a checkpoint, to be gone on with later; at the end of the run."""
    track: Tracker | None = None
    """Show the run's numbers in wandb, trackio or tensorboard too, on this machine: each is an
    extra (pip install 'mnemoscope[tensorboard]')."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class TrainingCommand:
    """A command that trains."""

    program: str
    arguments: type[Any]  # `RunFields`, `recipe` and `config`, what decides a run
    recipes: Mapping[str, Callable[[], Any]]  # the default first
    plan: Callable[[Any, Any], Plan]  # what a run would do, from its configuration and its recipe's
    run: Callable[..., None]
    attempt: Callable[[Any, Any, Path | None], Sequence[str]]
    """Tries what a run needs, without training, from its configuration, its recipe's and perhaps
    its folder; returns lines about what it was changed to."""

    @property
    def main(self) -> Callable[..., int]:
        return command_main(
            self.arguments, self._body, program=self.program, defaults=self.defaults
        )

    def parsed(self, words: Sequence[str]) -> Any:
        defaults = self.defaults(words)
        return parse_arguments(self.arguments, words, program=self.program, defaults=defaults)

    def recipe_defaults(self, words: Sequence[str]) -> dict[str, Any]:
        """The name and the configuration of the recipe that a command line starts from."""
        name = beginning_of(words).recipe or next(iter(self.recipes))
        return {"recipe": name, "config": recipe_named(name, self.recipes)}

    def defaults(self, words: Sequence[str]) -> dict[str, Any]:
        """What a command line starts from: a recipe, or the run that is to be gone on with."""
        given = beginning_of(words)
        if given.recipe is not None or not given.resume or given.out is None:
            return self.recipe_defaults(words)
        from training.runs.directory import MANIFEST_FILE, read_manifest

        if not (Path(given.out) / MANIFEST_FILE).is_file():
            return self.recipe_defaults(words)
        stored = read_manifest(given.out)
        if stored["command"] != self.program:
            raise ValueError(
                f"--out {given.out} holds a run of {stored['command']}; go on with that, or give "
                "another folder"
            )
        kind = self.arguments.__annotations__["config"]
        config = from_json(kind, {**stored["configuration"], **stored["execution"]})
        return {"recipe": stored["recipe"], "config": config}

    def _body(self, arguments: Any, _words: Sequence[str]) -> None:
        config, minutes, name = arguments.config, arguments.minutes, arguments.recipe
        if arguments.dry_run:
            recipe = self.recipes[name]()
            print("\n".join(self.plan(config, recipe).lines()))
            lines = self._tried(config, recipe, arguments.out)
            print("\n".join(["", *lines, "tried, with a checkpoint read back: all fits"]))
            return
        if arguments.out is None:
            raise ValueError("--out is missing; give a folder for the run, or --dry-run")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"--minutes must be above 0, found {minutes:g}")
        how = {"seconds": None if minutes is None else 60 * minutes}
        if arguments.track is not None:
            from training.progress import require_tracker

            how["track"] = require_tracker(arguments.track)
        self.run(config, arguments.out, recipe=name, resume=arguments.resume, **how)

    def _tried(self, config: Any, recipe: Any, out: Path | None) -> list[str]:
        """Try a run; lines about what stood in and what was changed."""
        from tempfile import TemporaryDirectory

        from training.stand_ins import StandIns

        with TemporaryDirectory(prefix="stand-ins-") as folder:
            stand_ins = StandIns(Path(folder))
            lines = self.tried(stand_ins.configuration(config), recipe, out)
        return [*stand_ins.said, *lines]

    def tried(self, config: Any, recipe: Any, out: Path | None = None) -> Sequence[str]:
        """Try a run whose model and data are here, as one process; lines about what was changed."""
        from training.processes import group_of_one

        with group_of_one(config.parallel is not Parallel.NONE):
            return self.attempt(config, recipe, out)
