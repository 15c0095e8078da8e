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

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.jobs import (
    REPORT,
    RUNS,
    RunsFields,
    refuse_chosen,
    run_study,
    same_runs,
    training_job,
)
from interventions.choices import ResuscitationSite
from probes.cli import command_main
from training.ckl import COMMAND
from training.ckl_config import CklConfig
from training.recipes import Control, EditForm

PROGRAM = "analysis.ckl_study"
RATIO, FACTOR = 0.5, 2.0
"""The resuscitation of Kim et al., where nothing else is asked for."""
Changes = Mapping[str, Any]
"""Settings in which runs differ from others."""
_CHOSEN_BY_THE_STUDY = ("model", "revision", "resuscitation_site", "control")


@dataclass(frozen=True, kw_only=True)
class CklStudyArguments(RunsFields):
    """Run continual knowledge learning over a trajectory and report what came of it."""

    trajectory: Path
    """Run directory of training.pretrain, whose checkpoints runs begin from."""
    recipe: str
    """Recipe of training.ckl, where the defaults below are from."""
    checkpoints: int = 8
    """How many checkpoints, evenly spread over the trajectory up to its last."""
    edits: bool = True
    """Whether to begin from the last checkpoint edited as well, every way."""
    config: CklConfig


def plan_study(
    config: CklConfig,
    trajectory: Path,
    *,
    checkpoints: int,
    seeds: int,
    sites: Iterable[ResuscitationSite],
    controls: Iterable[Control] = tuple(Control),
) -> dict[str, CklConfig]:
    """The settings of all runs by their names, those of the first seed first."""
    if min(checkpoints, seeds) < 1:
        raise ValueError(
            f"a study needs 1 or more --checkpoints and --seeds, found {checkpoints} and {seeds}"
        )
    names = _checkpoint_names(trajectory)
    steps = evenly_spread(list(names), checkpoints)
    arms: list[tuple[str, Changes]] = [(names[step], {"revision": names[step]}) for step in steps]
    last, strength = arms[-1], (config.resuscitation_ratio, config.resuscitation_factor)
    edit = resuscitation(strength[0] or RATIO, strength[1] or FACTOR)
    for site in sites:
        arms.append((f"{last[0]}-{site}", {**last[1], **edit, "resuscitation_site": site}))
    for control in controls:
        name, changes = control_arm(control)
        arms.append((f"{last[0]}-control-{name}", {**last[1], **edit, **changes}))
    return {
        f"{name}-seed-{seed}": replace(config, model=str(trajectory), seed=seed, **changes)
        for seed in range(config.seed, config.seed + seeds)
        for name, changes in arms
    }


def resuscitation(ratio: float = RATIO, factor: float = FACTOR) -> Changes:
    """The settings of a resuscitation."""
    return {"resuscitation_ratio": ratio, "resuscitation_factor": factor}


def control_arm(control: Control) -> tuple[str, Changes]:
    """The name of a control and the settings that make it of a resuscitation."""
    return str(control).replace("_", "-"), {"control": control}


def evenly_spread(steps: Sequence[int], count: int) -> list[int]:
    """The steps that are nearest to equal parts of the way to the last one; 0 is left out."""
    left = sorted(step for step in steps if step > 0)
    if len(left) < count:
        raise ValueError(
            f"--checkpoints {count} was asked for, found {len(left)} after step 0; ask for fewer, "
            "or pretrain with more"
        )
    last, chosen = left[-1], []
    # From the end, so that the last checkpoint is always among them.
    for part in range(count, 0, -1):
        goal = last * part / count
        # Enough of the earlier ones must be left for the parts to come.
        nearest = min(left[part - 1 :], key=lambda step: abs(step - goal))
        chosen.append(nearest)
        left = left[: left.index(nearest)]
    return chosen[::-1]


def _checkpoint_names(trajectory: Path) -> dict[int, str]:
    """The checkpoints of a run by their steps."""
    from analysis.checkpoints import step_of
    from training.runs.checkpoints import checkpoint_folders
    from training.runs.directory import CHECKPOINTS_FOLDER

    folders = checkpoint_folders(trajectory / CHECKPOINTS_FOLDER)
    if not folders:
        raise ValueError(
            f"--trajectory {trajectory} has no checkpoints; give the --out folder of "
            "training.pretrain"
        )
    steps = {path.name: step_of(path.name) for path in folders}
    return {step: name for name, step in steps.items() if step is not None}


def _run(arguments: CklStudyArguments, given: Sequence[str]) -> None:
    config, name, runs = arguments.config, arguments.recipe, arguments.out / RUNS
    why = "it starts from --trajectory and tries every site and control; leave it out"
    refuse_chosen(config, COMMAND.recipes[name](), _CHOSEN_BY_THE_STUDY, why)
    if missing := config.missing():
        raise ValueError(f"recipe {name!r} leaves to be given: {'; '.join(missing)}")
    hooked = config.edit_form is EditForm.HOOKS
    controls = [one for one in Control if one is not Control.REDO or not hooked]
    plan = plan_study(
        config,
        arguments.trajectory,
        checkpoints=arguments.checkpoints,
        seeds=arguments.seeds,
        sites=_sites(arguments.trajectory) if arguments.edits else (),
        controls=controls if arguments.edits else (),
    )
    jobs = [
        training_job(COMMAND, run, plan[run], name, runs, also=others)
        for run, others in same_runs(plan).items()
    ]
    bases = dict.fromkeys(str(job.config.revision) for job in jobs)
    edits = sum(job.config.is_edited for job in jobs) // arguments.seeds
    bases_text = f"{len(bases)} checkpoints ({', '.join(bases)})"
    left_out = "" if Control.REDO in controls else "; none is redo, which hooks cannot make"
    if run_study(jobs, arguments, f"{bases_text} and {edits} edits of the last", left_out):
        from analysis.arm_report import refuse_folder
        from analysis.arms import ckl_arms
        from analysis.ckl_report import NAME, write_report
        from analysis.numbers import command_line
        from analysis.runs import read_run

        out = arguments.out / REPORT
        refuse_folder(out, NAME)
        arms = ckl_arms([read_run(runs / job.name) for job in jobs])
        write_report(arms, out, command_line(PROGRAM, given))


def _sites(trajectory: Path) -> Sequence[ResuscitationSite]:
    """The sites that the model of a trajectory can be resuscitated at."""
    from analysis.edit_measures import sites_of
    from probes import load_model
    from training.start_models import find_start

    return sites_of(load_model(find_start(str(trajectory)).model, device="cpu"), ())


main = command_main(CklStudyArguments, _run, program=PROGRAM, defaults=COMMAND.recipe_defaults)

if __name__ == "__main__":
    sys.exit(main())
