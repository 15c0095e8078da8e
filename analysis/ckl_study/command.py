r"""A study of continual knowledge learning over a trajectory: `python -m analysis.ckl_study`.

Runs `training.ckl` from checkpoints of one pretraining run, and from the last of them with every
resuscitation and every control of one, with several seeds, one after the other; then reports it all
as `analysis.ckl_report` does. Every option of `training.ckl` that is the same for all runs can be
given. Writes into `--out`:

- `runs/`: a run directory each
- `logs/`: what each run printed
- `report/`: the report, once all runs are over

A study that was stopped goes on where it was: finished runs are left alone, others resumed. To
share it out over machines with one disk, give each a `--shard`; the last one to finish writes the
report.

Example:
    $ python -m analysis.ckl_study --trajectory runs/tiny --out runs/study
    $ python -m analysis.ckl_study --trajectory runs/tiny --out runs/study --list
    $ python -m analysis.ckl_study --trajectory runs/tiny --out runs/study --shard 1/2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interventions.choices import ResuscitationSite
from probes.cli import command_main
from training.ckl import COMMAND
from training.ckl.config import CklConfig
from training.ckl.recipes import CKL_RECIPES
from training.commands.fields import Control
from training.commands.recipes import recipe_named

if TYPE_CHECKING:
    from analysis.ckl_study.plan import PlannedRun

PROGRAM = "analysis.ckl_study"
_OF_THE_STUDY = ("model", "revision", "resuscitation_site", "control")


@dataclass(frozen=True, kw_only=True)
class _StudyFields:
    trajectory: Path
    """Run directory of training.pretrain, whose checkpoints are the starts."""
    out: Path
    """Folder of the study; made if it is not there, gone on with if it is."""
    recipe: str
    """Of training.ckl; where the defaults below are from."""
    checkpoints: int = 8
    """How many starts, evenly spread over the trajectory up to its last checkpoint."""
    seeds: int = 3
    """Runs of each; the first has --seed."""
    edits: bool = True
    """Whether to start from the last checkpoint edited as well, every way."""
    list: bool = False
    """Print the commands, one a run, and stop."""
    shard: str | None = None
    """Only every n-th run, the i-th of them first: i/n."""
    minutes: float | None = None
    """Stop after so many, to go on later; at the end of the study."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class CklStudyArguments(_StudyFields):
    """Run continual knowledge learning over a trajectory and report what came of it."""

    config: CklConfig

    def configuration(self) -> CklConfig:
        """What all runs have in common."""
        recipe = recipe_named(self.recipe, CKL_RECIPES)
        for name in _OF_THE_STUDY:
            if getattr(self.config, name) != getattr(recipe, name):
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--{flag} is the study's to choose: it starts from --trajectory and tries "
                    "every site and control; leave it out"
                )
        return self.config


def _run(arguments: CklStudyArguments, given: Sequence[str]) -> None:
    from analysis.ckl_study.runs import print_plan, report_study, study_runs
    from analysis.study_runs import RUNS, run_all, shard_of

    plan = _plan(arguments)
    recipe = recipe_named(arguments.recipe, CKL_RECIPES)
    folder = arguments.out / RUNS
    mine = shard_of(plan, arguments.shard)
    runs = study_runs(mine, recipe, arguments.recipe, folder)
    if arguments.list:
        import shlex

        for one in runs:
            print(shlex.join(["python", "-m", "training.ckl", *one.words]))
        return
    print_plan(plan, mine, folder)
    run_all(runs, arguments.out, minutes=arguments.minutes)
    report_study(plan, arguments.out, ["python", "-m", PROGRAM, *given])


def _plan(arguments: CklStudyArguments) -> "list[PlannedRun]":
    from analysis.ckl_study.plan import plan_study

    config = arguments.configuration()
    if missing := config.missing():
        raise ValueError(f"recipe {arguments.recipe!r} leaves to be given: {'; '.join(missing)}")
    sites: tuple[ResuscitationSite, ...] = ()
    controls: tuple[Control, ...] = ()
    if arguments.edits:
        from analysis.edit_sweep.measurements import sites_of
        from probes import load_model
        from training.start_models import find_start

        last = find_start(str(arguments.trajectory))
        sites = sites_of(load_model(last.model, device="cpu"), ())
        controls = tuple(Control)
    return plan_study(
        config,
        arguments.trajectory,
        checkpoints=arguments.checkpoints,
        seeds=arguments.seeds,
        sites=sites,
        controls=controls,
    )


main = command_main(CklStudyArguments, _run, program=PROGRAM, defaults=COMMAND.recipe_defaults)
