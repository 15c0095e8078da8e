r"""A study of continual knowledge learning over a trajectory: `python -m analysis.ckl_study`.

Runs `training.ckl` from checkpoints of one pretraining run, and from the last of them with every
resuscitation and every control of one; then reports it all as `analysis.ckl_report` does. Writes
`runs/`, `logs/` and, once all runs are over, `report/` into `--out`. A study that was stopped goes
on where it was. To share it out over machines with one disk, give each a `--shard`.

Example:
    $ python -m analysis.ckl_study --trajectory runs/tiny --out runs/study
    $ python -m analysis.ckl_study --trajectory runs/tiny --out runs/study --shard 1/2
    $ python -m analysis.ckl_study --recipe paper-1b --trajectory allenai/OLMo-1B-hf \
          --revisions step118000-tokens495B step738000-tokens3095B --checkpoints 2 \
          --corpus pubmed.jsonl --knowledge paraphrase70.json once60.json \
          --processes-per-run 8 --dry-run --out runs/paper
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.checkpoints import Starts, starts_along
from analysis.jobs import REPORT, RUNS, same_runs, training_job
from analysis.study_runs import RunsFields, refuse_chosen, run_study
from interventions.choices import ResuscitationSite
from probes.cli import command_main, refuse_foreign
from training.ckl import COMMAND
from training.ckl_config import CklConfig
from training.options import Control, EditForm

PROGRAM = "analysis.ckl_study"
RATIO, FACTOR = 0.5, 2.0  # the resuscitation of Kim et al., where nothing else is asked for
Changes = Mapping[str, Any]  # settings in which runs differ from others
_CHOSEN_BY_THE_STUDY = ("model", "revision", "resuscitation_site", "control")


@dataclass(frozen=True, kw_only=True)
class CklStudyArguments(RunsFields):
    """Run continual knowledge learning over a trajectory and report what came of it."""

    trajectory: str
    """Run directory of training.pretrain, or hub id, whose checkpoints runs begin from."""
    revisions: tuple[str, ...] = ()
    """Revisions of a hub model to choose from, separated by spaces or commas; or checkpoints of a
    run directory, all where none are named."""
    recipe: str
    """Recipe of training.ckl, where the defaults below are from."""
    checkpoints: int = 8
    """How many checkpoints, evenly spread over the trajectory up to its last."""
    edits: bool = True
    """Whether to begin from the last checkpoint edited as well, every way."""
    config: CklConfig


def plan_study(
    config: CklConfig,
    starts: Starts,
    *,
    seeds: int,
    sites: Iterable[ResuscitationSite],
    controls: Iterable[Control] = tuple(Control),
) -> dict[str, CklConfig]:
    """The settings of all runs by their names, those of the first seed first."""
    if seeds < 1:
        raise ValueError(f"a study needs 1 or more --seeds, found {seeds}")
    arms: list[tuple[str, Changes]] = [
        (str(revision), {"revision": revision}) for revision in starts.revisions
    ]
    last, strength = arms[-1], (config.resuscitation_ratio, config.resuscitation_factor)
    edit = resuscitation(strength[0] or RATIO, strength[1] or FACTOR)
    for site in sites:
        arms.append((f"{last[0]}-{site}", {**last[1], **edit, "resuscitation_site": site}))
    for control in controls:
        name, changes = control_arm(control)
        arms.append((f"{last[0]}-control-{name}", {**last[1], **edit, **changes}))
    return {
        f"{name}-seed-{seed}": replace(config, model=starts.model, seed=seed, **changes)
        for seed in range(config.seed, config.seed + seeds)
        for name, changes in arms
    }


def resuscitation(ratio: float = RATIO, factor: float = FACTOR) -> Changes:
    """The settings of a resuscitation."""
    return {"resuscitation_ratio": ratio, "resuscitation_factor": factor}


def control_arm(control: Control) -> tuple[str, Changes]:
    """The name of a control and the settings that make it of a resuscitation."""
    return str(control).replace("_", "-"), {"control": control}


def _run(arguments: CklStudyArguments, given: Sequence[str]) -> None:
    config, name, runs = arguments.config, arguments.recipe, arguments.out / RUNS
    why = "it starts from --trajectory and tries every site and control; leave it out"
    refuse_chosen(config, COMMAND.recipes[name](), _CHOSEN_BY_THE_STUDY, why)
    if missing := config.missing():
        raise ValueError(f"recipe {name!r} leaves to be given: {'; '.join(missing)}")
    hooked = config.edit_form is EditForm.HOOKS
    controls = [one for one in Control if one is not Control.REDO or not hooked]
    starts = starts_along(arguments.trajectory, arguments.revisions, arguments.checkpoints)
    plan = plan_study(
        config,
        starts,
        seeds=arguments.seeds,
        sites=_sites(starts) if arguments.edits else (),
        controls=controls if arguments.edits else (),
    )
    jobs = [
        training_job(
            *(COMMAND, run, plan[run], name, runs),
            also=others,
            processes=arguments.processes_per_run,
        )
        for run, others in same_runs(plan).items()
    ]
    edits = sum(job.config.is_edited for job in jobs) // arguments.seeds
    names = ", ".join(map(str, starts.revisions))
    bases_text = f"{len(starts.revisions)} checkpoints ({names})"
    left_out = "" if Control.REDO in controls else "; none is redo, which hooks cannot make"
    if run_study(jobs, arguments, f"{bases_text} and {edits} edits of the last", left_out):
        from analysis.arms import ckl_arms
        from analysis.ckl_report import NAME, write_report
        from analysis.numbers import command_line
        from analysis.runs import read_run

        out = arguments.out / REPORT
        refuse_foreign(out, f"{NAME}.json", "report")
        arms = ckl_arms([read_run(runs / job.name) for job in jobs])
        write_report(arms, out, command_line(PROGRAM, given))


def _sites(starts: Starts) -> Sequence[ResuscitationSite]:
    from tempfile import TemporaryDirectory

    from analysis.edit_measures import sites_of
    from probes import load_model
    from training.stand_ins import StandIns

    # The family decides, so that a tiny model of it answers for one of the hub.
    with TemporaryDirectory(prefix="stand-ins-") as folder:
        tiny = StandIns(Path(folder), many=True).model(starts.model, starts.revisions[-1])
        return sites_of(load_model(tiny, device="cpu"), ())


main = command_main(CklStudyArguments, _run, program=PROGRAM, defaults=COMMAND.recipe_defaults)

if __name__ == "__main__":
    sys.exit(main())
