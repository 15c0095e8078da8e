r"""A study of continual memorization: `python -m analysis.remix_study`.

Runs `training.remix` in many ways, with several seeds, one after the other, and reports it all as
`analysis.remix_report` does. Which ways is what `--study` says: arms beside each other, the paper's
main table, ratios of replay, sizes and lengths of mixes, three stages, familiar factoids
(`analysis.remix_study.plan`). Every option of `training.remix` that is the same for all runs can be
given. Runs that have stage A in common train it once. Writes into `--out`:

- `runs/`: a run directory each
- `logs/`: what each run printed
- `report/`: the report, once all runs are over

A study that was stopped goes on where it was: finished runs are left alone, others resumed. To
share it out over machines with one disk, give each a `--shard`; runs that share stage A stay
together, and the last machine to finish writes the report.

Example:
    $ python -m analysis.remix_study --model runs/tiny --out runs/study
    $ python -m analysis.remix_study --model runs/tiny --study mix-ratios --out runs/ratios --list
    $ python -m analysis.remix_study --model runs/tiny --out runs/study --shard 1/2
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.remix_study.choices import Study, StudySettings
from probes.cli import command_main
from training.commands.recipes import recipe_named
from training.remix import COMMAND
from training.remix.config import RemixConfig
from training.remix.recipes import REMIX_RECIPES

PROGRAM = "analysis.remix_study"
_OF_THE_STUDY = (
    *("mix", "no_mix_control", "replay", "from_stage_a", "resuscitation_ratio"),
    *("resuscitation_factor", "control", "attention_temperature"),
)


@dataclass(frozen=True, kw_only=True)
class _StudyFields:
    out: Path
    """Folder of the study; made if it is not there, gone on with if it is."""
    recipe: str
    """Of training.remix; where the defaults below are from."""
    study: Study = Study.ARMS
    """Which arms there are."""
    seeds: int = 3
    """Runs of each; the first has --seed."""
    localization: bool = True
    """Whether the report looks where in depth items are readable, which loads all models."""
    localization_items: int = 64
    """Items of stage A that are looked at for it."""
    list: bool = False
    """Print the commands, one a run, and stop."""
    shard: str | None = None
    """Only every n-th group of runs that share stage A, the i-th of them first: i/n."""
    minutes: float | None = None
    """Stop after so many, to go on later; at the end of the study."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class RemixStudyArguments(StudySettings, _StudyFields):
    """Run continual memorization in many ways and report what came of it."""

    config: RemixConfig

    def configuration(self) -> RemixConfig:
        """What all runs have in common, none of what the study tries."""
        recipe = recipe_named(self.recipe, REMIX_RECIPES)
        plain = RemixConfig(model="", data=("kvr",), batch_size=1, learning_rate=1.0)
        for name in _OF_THE_STUDY:
            if getattr(self.config, name) != getattr(recipe, name):
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--{flag} is the study's to choose: it tries several ways; leave it out, or "
                    "run training.remix"
                )
        return replace(self.config, **{name: getattr(plain, name) for name in _OF_THE_STUDY})

    def chosen(self) -> StudySettings:
        """Which arms, mixes and sets the study has."""
        return StudySettings(
            **{name: getattr(self, name) for name in StudySettings.__dataclass_fields__}
        )


def _run(arguments: RemixStudyArguments, given: Sequence[str]) -> None:
    from analysis.remix_study.plan import groups_of, plan_study
    from analysis.remix_study.runs import print_plan, report_study, study_runs
    from analysis.study_runs import RUNS, run_all, shard_of

    plan = plan_study(
        arguments.configuration(), arguments.study, arguments.chosen(), seeds=arguments.seeds
    )
    recipe = recipe_named(arguments.recipe, REMIX_RECIPES)
    folder = arguments.out / RUNS
    mine = [one for group in shard_of(groups_of(plan), arguments.shard) for one in group]
    runs = study_runs(mine, recipe, arguments.recipe, folder)
    if arguments.list:
        import shlex

        for one in runs:
            print(shlex.join(["python", "-m", "training.remix", *one.words]))
        return
    print_plan(plan, mine, folder)
    run_all(runs, arguments.out, minutes=arguments.minutes)
    report_study(
        plan,
        arguments.out,
        ["python", "-m", PROGRAM, *given],
        localized=arguments.localization_items if arguments.localization else None,
        device=arguments.config.device,
    )


main = command_main(RemixStudyArguments, _run, program=PROGRAM, defaults=COMMAND.recipe_defaults)
