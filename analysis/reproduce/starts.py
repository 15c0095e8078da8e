"""Starts: the checkpoints that runs of a reproduction begin from, and the runs that make them.

Each seed has a trajectory of its own where they are trained here; seeds share one of the hub.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> starts_of(smoke(), Path("runs"))[0].steps
    (30, 60, 90, 120, 150, 180, 210, 240)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.checkpoints import step_of
from analysis.ckl_study.plan import evenly_spread
from analysis.command_words import configured
from analysis.reproduce.cost import parameters_of, pretraining_work
from analysis.reproduce.jobs import Job
from analysis.reproduce.scales import ReproductionScale
from training.pretrain.config import PRETRAIN_RECIPES, PretrainConfig
from training.runs.checkpoints import checkpoint_name

SMALLER = "smaller"


@dataclass(frozen=True)
class Starts:
    """Checkpoints of one trajectory.

    Attributes:
        model: run directory or hub id.
        revisions: of it, by growing age.
        steps: updates of each.
        parameters: of the model.
        needs: jobs that make it.
    """

    model: str
    revisions: tuple[str, ...]
    steps: tuple[int, ...]
    parameters: int
    needs: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The oldest checkpoint."""
        return self.revisions[-1]


def starts_of(
    scale: ReproductionScale, folder: Path, *, smaller: bool = False
) -> tuple[Starts, ...]:
    """The starts of every seed."""
    wanted = scale.trajectory
    config = wanted.smaller if smaller else wanted.config
    return tuple(
        _from_hub(scale) if config is None else _own(scale, config, _name(seed, smaller), folder)
        for seed in range(scale.seeds)
    )


def trajectory_jobs(
    scale: ReproductionScale, folder: Path, *, smaller: bool = False
) -> Iterator[Job]:
    """The runs that make the starts; none where they are on the hub."""
    wanted = scale.trajectory
    config = wanted.smaller if smaller else wanted.config
    if config is None:
        return
    recipe = PRETRAIN_RECIPES[wanted.recipe]()
    for seed in range(scale.seeds):
        name, seeded = _name(seed, smaller), replace(config, seed=seed)
        words = [
            *configured(seeded, recipe, wanted.recipe),
            *("--out", str(folder / name), "--resume"),
        ]
        yield Job(name, "training.pretrain", tuple(words), pretraining_work(seeded), config=seeded)


def _own(scale: ReproductionScale, config: PretrainConfig, name: str, folder: Path) -> Starts:
    steps = tuple(evenly_spread(config.checkpoint_steps(), scale.checkpoints))
    return Starts(
        str(folder / name),
        tuple(map(checkpoint_name, steps)),
        steps,
        parameters_of(config),
        (name,),
    )


def _from_hub(scale: ReproductionScale) -> Starts:
    by_step = {step_of(name) or 0: name for name in scale.trajectory.revisions}
    steps = tuple(evenly_spread(list(by_step), scale.checkpoints))
    return Starts(
        scale.trajectory.model,
        tuple(by_step[step] for step in steps),
        steps,
        scale.trajectory.parameters,
    )


def _name(seed: int, smaller: bool) -> str:
    return f"{SMALLER if smaller else 'trajectory'}-seed-{seed}"
