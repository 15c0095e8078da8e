"""The plan of a run of continual knowledge learning.

Example:
    >>> from training.ckl.recipes import paper_1b
    >>> ckl_plan(paper_1b()).value("training", "tokens")
    '209,715,200 in 1,600 steps of 128 rows of 1024'
"""

from training.ckl.config import CklConfig
from training.commands.plan import Plan, Section, every, shown_task, training_section, with_changes


def ckl_plan(config: CklConfig, recipe: CklConfig | None = None) -> Plan:
    """What a run of continual knowledge learning would do."""
    at = f" at {config.revision}" if config.revision else ""
    sections: list[Section] = [
        ("model", (("start", f"{config.model}{at}"), ("edits", "; ".join(_edits(config))))),
        (
            "texts",
            (
                ("corpus", f"{config.corpus or 'to be given'}, {_epochs(config)}"),
                ("knowledge", _knowledge(config)),
                ("injections", _injections(config)),
            ),
        ),
        training_section(config, config.steps, config.row_length),
        (
            "looked at",
            (
                ("probes", _probes(config)),
                ("the rest", _everything_else(config)),
                ("which is", "; ".join(_looks(config)) or "nothing"),
                ("checkpoints", _kept(config)),
            ),
        ),
    ]
    return Plan(
        "continual knowledge learning",
        with_changes(sections, config, recipe),
        tuple(config.missing()),
    )


def _edits(config: CklConfig) -> list[str]:
    found = []
    if config.resuscitates:
        kind = f"control {config.control} of a resuscitation" if config.control else "resuscitation"
        found.append(
            f"{kind}: ratio {config.resuscitation_ratio:g}, factor "
            f"{config.resuscitation_factor:g}, at {config.resuscitation_site}"
        )
    if config.attention_temperature is not None:
        found.append(
            f"attention temperature {config.attention_temperature:g}, {config.temperature_schedule}"
        )
    return [*found, f"as {config.edit_form}"] if found else ["none"]


def _epochs(config: CklConfig) -> str:
    rows = config.rows_needed()
    times = "once" if config.epochs == 1 else f"{config.epochs} times"
    what = "all of it" if rows is None else f"{rows:,} rows of it"
    return f"{what}, {times}, {'shuffled' if config.shuffle else 'in order'}"


def _knowledge(config: CklConfig) -> str:
    source = ", ".join(config.knowledge) or "to be given"
    counts = [
        f"{count} {name}"
        for name, count in (
            ("paraphrased", config.paraphrase),
            ("duplicated", config.duplication),
            ("once", config.once),
            ("held out", config.held_out),
        )
        if count
    ]
    return f"{source}: {config.passages} passages ({', '.join(counts)})"


def _injections(config: CklConfig) -> str:
    rounds = config.injection_rounds * config.injection_cycles
    return (
        f"{rounds} rounds, {config.injection_interval} steps apart, in batches "
        f"{config.first_injection} to {config.last_injection}; {config.injection_mode}"
    )


def _probes(config: CklConfig) -> str:
    scored = f"{every(config.probe_every)}, {config.probe_reduction}"
    if config.generate_every is None:
        return scored
    return f"{scored}; targets generated {every(config.generate_every)}"


def _everything_else(config: CklConfig) -> str:
    when = ["before", "after"]
    if config.evaluate_every is not None:
        when.insert(1, every(config.evaluate_every))
    if config.lags:
        when.append(f"{' and '.join(map(str, config.lags))} steps after the last injection")
    return ", ".join(when)


def _looks(config: CklConfig) -> list[str]:
    found = [shown_task(name, config.task_limit) for name in config.tasks]
    found += [
        f"loss on {config.evaluation_tokens:,} tokens of {name}"
        for name in config.evaluation_corpora
    ]
    if config.cloze is not None:
        found.append("cloze items of earlier facts" + (", if any" * (config.cloze == "auto")))
    if config.entropy_tokens is not None:
        found.append(f"three entropies on {config.entropy_tokens:,} tokens")
    return found


def _kept(config: CklConfig) -> str:
    return "the last" if config.checkpoint_every is None else every(config.checkpoint_every)
