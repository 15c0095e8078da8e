"""The plan of a study: which runs of continual knowledge learning, from which starts, edited how.

From checkpoints of one pretraining run, evenly spread over its steps, and from the last one edited:
resuscitated at every site that the model has, and with every control of that. Each with several
seeds; all runs of the first seed come first, so that a study that is stopped early has something of
everything.

Example:
    >>> evenly_spread([0, 1, 2, 4, 8, 25, 50, 75, 100], 4)
    [25, 50, 75, 100]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.checkpoints import step_of
from analysis.command_words import configured
from interventions.choices import ResuscitationSite
from training.ckl.config import CklConfig
from training.commands.fields import Control, EditForm
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER

RATIO, FACTOR = 0.5, 2.0
"""Of the resuscitations, where nothing else is asked for: the paper's."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study.

    Attributes:
        name: of its folder.
        config: all of it.
    """

    name: str
    config: CklConfig

    def words(self, recipe: CklConfig, recipe_name: str, out: Path) -> list[str]:
        """The arguments of `python -m training.ckl` that make it, or go on with it."""
        words = configured(self.config, recipe, recipe_name)
        return [*words, "--out", str(out / self.name), "--resume"]


def plan_study(
    config: CklConfig,
    trajectory: Path,
    *,
    checkpoints: int,
    seeds: int,
    sites: Sequence[ResuscitationSite],
    controls: Sequence[Control] = tuple(Control),
) -> list[PlannedRun]:
    """All runs, in the order in which they are to be made."""
    if min(checkpoints, seeds) < 1:
        raise ValueError(
            f"a study needs 1 or more --checkpoints and --seeds, found {checkpoints} and {seeds}"
        )
    names = {step_of(path.name): path.name for path in _folders(trajectory)}
    steps = evenly_spread([step for step in names if step is not None], checkpoints)
    edited = _edited(config, sites, controls)
    plan = []
    for seed in range(config.seed, config.seed + seeds):
        start = replace(config, model=str(trajectory), seed=seed)
        plan += [
            PlannedRun(f"{names[step]}-seed-{seed}", replace(start, revision=names[step]))
            for step in steps
        ]
        last = names[steps[-1]]
        plan += [
            PlannedRun(f"{last}-{name}-seed-{seed}", replace(start, revision=last, **fields))
            for name, fields in edited.items()
        ]
    return plan


def evenly_spread(steps: Sequence[int], count: int) -> list[int]:
    """Those steps that are nearest to equal parts of the way to the last one; 0 is left out."""
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


def _folders(trajectory: Path) -> list[Path]:
    folders = checkpoint_folders(trajectory / CHECKPOINTS_FOLDER)
    if not folders:
        raise ValueError(
            f"--trajectory {trajectory} has no checkpoints; give the --out folder of "
            "training.pretrain"
        )
    return folders


def _edited(
    config: CklConfig, sites: Sequence[ResuscitationSite], controls: Sequence[Control]
) -> dict[str, dict[str, Any]]:
    """The fields in which edited runs differ, by the names of the edits."""
    strength = {
        "resuscitation_ratio": config.resuscitation_ratio or RATIO,
        "resuscitation_factor": config.resuscitation_factor or FACTOR,
    }
    found: dict[str, dict[str, Any]] = {
        str(site): {**strength, "resuscitation_site": site} for site in sites
    }
    for control in controls:
        # Neurons that start afresh have to learn, which a hook would keep them from.
        form = EditForm.WEIGHTS if control is Control.REDO else config.edit_form
        name = f"control-{control}".replace("_", "-")
        found[name] = {**strength, "control": control, "edit_form": form}
    return found
