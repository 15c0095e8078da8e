r"""The plan of a reproduction: all runs that its claims need, each once, those that wait last.

Experiments change a few settings of runs that begin from checkpoints of a trajectory: of one for
each seed where they are trained here, of one for all on the hub. A part is cut from the whole plan
of its scale, so that runs are called and made the same whatever else is asked for. With \(N\)
parameters a run costs \(6 N\) operations for a token that is trained on, \(2 N\) for one that is
read (Kaplan et al., 2020, "Scaling Laws for Neural Language Models": section 2.1).

Example:
    >>> from analysis.reproduce_scales import SCALES
    >>> jobs = plan_part(whole_plan(SCALES["smoke"](), Path("runs")), [Experiment.ENTROPIES])
    >>> [job.name for job in jobs if "seed-0" in job.name]
    ['trajectory-seed-0', 'entropies-seed-0']
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.checkpoints import Starts, evenly_spread, is_series, starts_along, step_of
from analysis.ckl_study import FACTOR, RATIO, Changes, control_arm, resuscitation
from analysis.claims.choices import Experiment
from analysis.claims.selection import Pretrained
from analysis.jobs import Job, in_waves, same_runs, training_job
from analysis.remix_study import mix_amounts, placements, stage_jobs
from analysis.reproduce_scales import Knowledge, Memorization, ReproductionScale, parameters_of
from interventions.choices import ResuscitationSite
from training.choices import NoMixControl, Replay
from training.ckl import COMMAND as CKL
from training.ckl_config import CklConfig
from training.options import Control
from training.pretrain import COMMAND as PRETRAIN
from training.pretrain_config import PretrainConfig
from training.recipes import option_words
from training.remix_config import RemixConfig
from training.runs.checkpoints import checkpoint_name

_TRAINED, _READ = 6, 2  # operations of a token and a parameter
_PROBES_OF_A_PASSAGE, _TOKENS_OF_A_PROBE = 15, 40
_TOKENS_OF_A_PAIR, _TOKENS_OF_A_WORD = 24, 1.5
"""Tokens of a short fact, question and answer, and of a random word."""

_VARIANTS = ("relu_output", "relu_gate")
_UPDATE_ROWS = 4

_AT_EVERY_AGE = (Experiment.AGES, Experiment.EDITED_AGES, Experiment.FAMILIAR_TEXT)
_FACTORS = (FACTOR, 0.5, 1.0, 3.0)
_RATIOS, _FACTOR_OF_RATIOS = (0.3, 0.7, 0.9), 1.0
_TEMPERATURES = (1.5, 2.0, 3.0)
_EPOCHS = 3
_CONTROLS = tuple(control for control in Control if control is not Control.IDENTITY)

_FIRST, _LATER = "random", "generic"
_REPLAYED = {"replay": Replay.ITEMS, "replay_ratio": 0.1}
LOCATED = ("no-mixing", "both")  # arms whose facts are localized in depth
Arms = Mapping[Experiment, Mapping[str, Changes]]
"""What the runs of each experiment are called, and which settings they change."""


def whole_plan(scale: ReproductionScale, folder: Path) -> list[Job]:
    """All jobs of a scale, in an order in which they can be made."""
    starts = starts_of(scale, folder)
    smaller = starts_of(scale, folder, smaller=True) if scale.trajectory.smaller else ()
    jobs = _each_once(
        [
            *(one.job for one in (*starts, *smaller) if one.job),
            *_measuring_jobs(scale, folder, starts),
            *_knowledge_jobs(scale, folder, starts, smaller),
            *_memorization_jobs(scale, folder, starts),
        ]
    )
    # All jobs of the first seed come first, so that what is stopped early has some of everything.
    return [
        job
        for wave in in_waves(jobs)
        for job in sorted(wave, key=lambda job: int(job.name.rpartition("-")[2]))
    ]


def plan_part(whole: Sequence[Job], experiments: Collection[Experiment]) -> list[Job]:
    """The jobs of some experiments, and those that they need."""
    wanted = {job.name for job in whole if not set(experiments).isdisjoint(job.experiments)}
    # What a job needs stands before it.
    for job in reversed(whole):
        if job.name in wanted:
            wanted.update(job.needs)
    return [job for job in whole if job.name in wanted]


def located_names(scale: ReproductionScale) -> list[str]:
    """The runs whose facts are localized in depth."""
    return [f"remix-{arm}-seed-{seed}" for arm in LOCATED for seed in range(scale.seeds)]


def starts_of(
    scale: ReproductionScale, folder: Path, *, smaller: bool = False
) -> tuple[Starts, ...]:
    """The checkpoints of every seed that runs begin from."""
    wanted = scale.trajectory
    config = wanted.smaller if smaller else wanted.config
    if config is None:
        model, parameters = wanted.model, wanted.parameters
        shared = Starts(model, (None,), parameters)
        if wanted.revisions or is_series(model, ()):
            along = (model, wanted.revisions, scale.checkpoints)
            shared = starts_along(*along, parameters=parameters)
        return (shared,) * scale.seeds
    steps = evenly_spread(config.checkpoint_steps(), scale.checkpoints)
    names, seconds = tuple(map(checkpoint_name, steps)), scale.seconds(pretraining_work(config))
    kind, made = "smaller" if smaller else "trajectory", []
    for seed in range(scale.seeds):
        name, seeded = f"{kind}-seed-{seed}", replace(config, seed=seed)
        job = training_job(PRETRAIN, name, seeded, wanted.recipe, folder, seconds=seconds)
        made.append(Starts(str(folder / name), names, parameters_of(seeded), job))
    return tuple(made)


def pretrained_of(scale: ReproductionScale, *, smaller: bool = False) -> Pretrained:
    """The model that runs of a scale begin from, by its size and the age of its checkpoints."""
    wanted = scale.trajectory
    config = wanted.smaller if smaller else wanted.config
    if config is None:
        known = sorted(filter(None, map(step_of, wanted.revisions)))
        steps = tuple(evenly_spread(known, scale.checkpoints)) if known else ()
        return Pretrained(parameters=wanted.parameters, steps=steps, tokens=wanted.tokens)
    steps = tuple(evenly_spread(config.checkpoint_steps(), scale.checkpoints))
    tokens = steps[-1] * config.batch_size * config.row_length
    return Pretrained(parameters=parameters_of(config), steps=steps, tokens=tokens)


def models_of(scale: ReproductionScale) -> Iterator[str]:
    """What was trained how long at a scale, a line for each kind of training."""
    taught, stages = scale.knowledge.config, scale.memorization.config
    yield f"pretraining: {pretrained_of(scale).words}"
    if scale.trajectory.smaller and Experiment.SIZES in scale.experiments:
        yield f"pretraining of a smaller model: {pretrained_of(scale, smaller=True).words}"
    tokens = ""
    if taught.steps is not None:
        count = taught.steps * taught.batch_size * taught.row_length
        tokens = f"{taught.steps:,} steps, {count:,} tokens, "
    yield (
        f"continual knowledge learning from its checkpoints: {tokens}{taught.passages} passages, "
        f"learning rate {taught.learning_rate:g}; some runs with other settings"
    )
    model = "the last checkpoint"
    if not scale.memorization.own_start:
        words = Pretrained(parameters=scale.memorization.parameters).words
        model = f"{stages.model} ({words})"
    shown = (f"{s.items:,} items for {s.epochs} epochs at most" for s in stages.stages)
    yield f"continual memorization from {model}: {', then '.join(shown)}"


def _measuring_jobs(
    scale: ReproductionScale, folder: Path, starts: Iterable[Starts]
) -> Iterator[Job]:
    length, batches = scale.entropy_row_length, scale.update_batches
    rows = {"sequence_length": length}
    tokens = {"max_tokens": scale.entropy_tokens, "variants": [*_VARIANTS]}
    entropies = {"corpus": [*scale.corpora], **tokens, **rows}
    updates = {"corpus": scale.corpora[0], "batches": batches, "batch_size": _UPDATE_ROWS, **rows}
    reading = _READ * scale.entropy_tokens * len(scale.corpora)
    training = _TRAINED * batches * _UPDATE_ROWS * length
    measured = (
        (Experiment.ENTROPIES, "entropy", entropies, reading, "trajectory.csv"),
        (Experiment.UPDATES, "memory_updates", updates, training, "updates.csv"),
    )
    for seed, start in enumerate(dict.fromkeys(starts)):
        for experiment, program, options, work, last_file in measured:
            if experiment in scale.experiments:
                name = f"{experiment}-seed-{seed}"
                asked = {"model": start.model, "revisions": [*start.revisions], **options}
                yield Job(
                    name,
                    f"analysis.{program}",
                    (*option_words(asked), "--out", str(folder / name)),
                    scale.seconds(work * len(start.revisions) * start.parameters),
                    (experiment,),
                    start.needs,
                    last_file=last_file,
                    asked=asked,
                )


def _knowledge_jobs(
    scale: ReproductionScale, folder: Path, starts: Sequence[Starts], smaller: Sequence[Starts]
) -> Iterator[Job]:
    """Runs of continual knowledge learning; one of several experiments is there for each."""
    arms, recipe = _knowledge_arms(scale.knowledge), scale.knowledge.recipe
    for experiment in scale.experiments:
        prefix = "smaller-" if experiment is Experiment.SIZES else ""
        ages = slice(None) if experiment in _AT_EVERY_AGE else slice(-1, None)
        for name, changes in _chosen(arms.get(experiment, {}), scale.knowledge.arms):
            for seed, start in enumerate(smaller if prefix else starts):
                for revision in start.revisions[ages]:
                    run = f"ckl-{prefix}{revision or 'start'}{name}-seed-{seed}"
                    base: Changes = {"model": start.model, "revision": revision, "seed": seed}
                    config = replace(scale.knowledge.config, **base, **changes)
                    yield training_job(
                        *(CKL, run, config, recipe, folder),
                        seconds=scale.seconds(knowledge_work(config, start.parameters)),
                        processes=scale.processes_per_run,
                        experiments=(experiment,),
                        needs=start.needs,
                    )


def _chosen(arms: Mapping[str, Changes], names: Collection[str]) -> Iterator[tuple[str, Changes]]:
    return ((name, changes) for name, changes in arms.items() if name in names or not names)


def _knowledge_arms(knowledge: Knowledge) -> Arms:
    config, curves = knowledge.config, knowledge.curves
    preserving = {"resuscitation_site": ResuscitationSite.PRESERVING}
    controls = {f"-{name}": changes for name, changes in map(control_arm, _CONTROLS)}
    intervals = [n for n in knowledge.intervals if n != config.injection_interval]
    return {
        Experiment.UNEDITED: {"": curves},
        Experiment.AGES: {"": curves},
        Experiment.EDITED_AGES: {f"-up-{FACTOR:g}": resuscitation()},
        Experiment.FAMILIAR_TEXT: {"-familiar": {"corpus": knowledge.familiar_corpus}},
        Experiment.DOSES: {
            **{f"-up-{factor:g}": resuscitation(RATIO, factor) for factor in _FACTORS},
            **{f"-ratio-{r:g}": resuscitation(r, _FACTOR_OF_RATIOS) for r in _RATIOS},
        },
        Experiment.CONTROLS: {
            f"-up-{FACTOR:g}": resuscitation(),
            "-preserving": {**resuscitation(), **preserving},
            **{name: {**resuscitation(), **changes} for name, changes in controls.items()},
            **{f"-temperature-{t:g}": {"attention_temperature": t} for t in _TEMPERATURES},
        },
        Experiment.SPACINGS: {
            f"-interval-{interval}": {
                "injection_interval": interval,
                # As many encounters, and two intervals after the last one.
                "steps": interval * (config.injection_rounds + 2),
                "lags": tuple(lag for lag in config.lags if lag <= 2 * interval),
                "probe_every": min(config.probe_every, interval),
                **curves,
            }
            for interval in intervals
        },
        Experiment.BATCHES: {
            f"-batch-{rows}": {**_as_many_steps(config, rows), **curves}
            for rows in knowledge.batch_sizes
            if rows != config.batch_size
        }
        | {
            f"-batch-{rows}-same-text": _as_much_text(config, rows)
            for rows in knowledge.batch_sizes[-1:]
        },
        Experiment.RATES: {
            f"-rate-{rate:g}": {"learning_rate": rate, **curves}
            for rate in knowledge.learning_rates
            if rate != config.learning_rate
        },
        Experiment.EPOCHS: {
            f"-epochs-{_EPOCHS}": {
                "epochs": _EPOCHS * config.epochs,
                "steps": None if config.steps is None else _EPOCHS * config.steps,
                "injection_cycles": _EPOCHS * config.injection_cycles,
            }
        },
        Experiment.SIZES: {"": curves},
    }


def _as_many_steps(config: CklConfig, rows: int) -> Changes:
    """Larger batches for as many steps; text that is repeated is repeated more."""
    times = -(-rows // config.batch_size) if config.epochs > 1 else 1
    return {"batch_size": rows, "epochs": config.epochs * times}


def _as_much_text(config: CklConfig, rows: int) -> Changes:
    """Larger batches over the same text, with encounters at the same places of it (Table 1 b)."""
    fewer = rows // config.batch_size
    interval = max(config.injection_interval // fewer, 1)
    steps = None if config.steps is None else config.steps // fewer
    probe_every = min(config.probe_every, interval)
    changes = {"injection_interval": interval, "steps": steps, "probe_every": probe_every}
    return {"batch_size": rows, **changes, "evaluate_every": None, "lags": (0,)}


def _memorization_jobs(
    scale: ReproductionScale, folder: Path, starts: Sequence[Starts]
) -> Iterator[Job]:
    wanted, arms = scale.memorization, _memorization_arms(scale.memorization)
    runs: dict[str, RemixConfig] = {}
    parts: dict[str, list[Experiment]] = {}
    for experiment in scale.experiments:
        for name, changes in _chosen(arms.get(experiment, {}), wanted.arms):
            for seed in range(scale.seeds):
                config = replace(wanted.config, seed=seed, **changes)
                if wanted.own_start:
                    start = starts[seed]
                    config = replace(config, model=start.model, revision=start.revisions[-1])
                runs[run := f"remix-{name}-seed-{seed}"] = config
                parts.setdefault(run, []).append(experiment)
    for job in stage_jobs(runs, wanted.recipe, folder, processes=scale.processes_per_run):
        config = runs[job.name]
        start = starts[config.seed]
        parameters = start.parameters if wanted.own_start else wanted.parameters
        stages = len(config.data) - 1 if job.needs else None
        yield replace(
            job,
            seconds=scale.seconds(memorization_work(config, parameters, stages=stages)),
            experiments=tuple(dict.fromkeys(x for n in (job.name, *job.also) for x in parts[n])),
            needs=(*(start.needs if wanted.own_start else ()), *job.needs),
        )


def _memorization_arms(wanted: Memorization) -> Arms:
    config = wanted.config
    placed = _placed(2, wanted.generic)
    plain, both = placed["no-mixing"], placed["both"]
    at_a, later = placed["random-at-a"], placed["generic-later"]
    order = ("no-mixing", "random-at-a", "generic-later", "both", "generic-at-a", "random-later")
    longer: dict[str, Any] = {"data": (*config.data, config.data[-1])}
    for name in ("items", "epochs", "stop", "stage_learning_rates"):
        if len(values := getattr(config, name)) > 1:
            longer[name] = (*values, values[-1])
    other, familiar = wanted.other_tasks, wanted.familiar
    last, known = other.get("data", config.data)[-1], familiar.get("data", config.data)
    return {
        Experiment.MIXES: {
            **{name: placed[name] for name in order},
            "replay": _REPLAYED,
            "as-many-steps": {**both, "no_mix_control": NoMixControl.STEPS},
            "both-resuscitated": {**both, **resuscitation()},
        },
        Experiment.OTHER_TASKS: {
            **{f"other-{name}": {**other, **placed[name]} for name in order[:3]},
            "other-replay": {**other, **_REPLAYED},
        },
        Experiment.AMOUNTS: dict(
            mix_amounts(
                {"at-a": at_a["mix"], "later": later["mix"]}, wanted.mix_sizes, wanted.mix_lengths
            )
        )
        | {"other-text-later": {**later, **wanted.other_text}},
        Experiment.THREE_STAGES: {
            "three-stages-no-mixing": longer,
            "three-stages-both": {**longer, **_placed(3, wanted.generic)["both"]},
        },
        Experiment.FAMILIAR_FACTS: {
            f"familiar-{kind}-{name}": {**familiar, "data": data, **mix}
            for kind, data in (("facts", known), ("tasks", (known[0], last)))
            for name, mix in (("no-mixing", plain), *wanted.familiar_mixes.items())
        },
    }


def _placed(stages: int, generic: str) -> dict[str, Changes]:
    """Arms by what is mixed in where, with a text in the place of the generic one."""
    found = placements(stages, _FIRST, _LATER)
    return {
        name: {"mix": tuple(generic if mix == _LATER else mix for mix in changes["mix"])}
        for name, changes in found.items()
    }


def pretraining_work(config: PretrainConfig) -> float:
    """Operations of a pretraining run."""
    tokens = config.steps * config.batch_size * config.row_length
    return float(_TRAINED * tokens * parameters_of(config))


def knowledge_work(config: CklConfig, parameters: int) -> float:
    """Operations of a run of continual knowledge learning, evaluations of its probes among them."""
    steps = config.steps or config.last_injection + config.injection_interval
    evaluations = steps // config.probe_every + 2
    probed = config.passages * _PROBES_OF_A_PASSAGE * _TOKENS_OF_A_PROBE
    trained = steps * config.batch_size * config.row_length
    return float((_TRAINED * trained + _READ * evaluations * probed) * parameters)


def memorization_work(config: RemixConfig, parameters: int, *, stages: int | None = None) -> float:
    """Operations of a run in stages."""
    tokens = 0.0
    for stage in config.stages[-stages:] if stages else config.stages:
        mixed = 0.0
        if stage.mix is not None:
            mixed = stage.items * stage.mix_ratio * config.mix_words * _TOKENS_OF_A_WORD
        tokens += stage.epochs * (stage.items * _TOKENS_OF_A_PAIR + mixed)
    return float(_TRAINED * tokens * parameters)


def _each_once(jobs: Iterable[Job]) -> list[Job]:
    """Jobs by their names and by what they train, each part of all experiments that have it."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.name, []).append(job)
    trained = {name: alike[0].config for name, alike in found.items() if alike[0].config}
    for name, others in same_runs(trained).items():
        found[name] += [job for other in others for job in found.pop(other)]
    once = []
    for alike in found.values():
        parts = dict.fromkeys(part for job in alike for part in job.experiments)
        also = dict.fromkeys(name for job in alike for name in (job.name, *job.also))
        names = tuple(name for name in also if name != alike[0].name)
        once.append(replace(alike[0], experiments=tuple(parts), also=names))
    return once
