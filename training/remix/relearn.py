"""What the last stage has left of the items of stage A: a relearning probe at the end of a chain.

`relearning.json` holds exact match and log-probability (nats) of every item of stage A before the
first step and after each: of those that are taught again, of the others, and of items that nothing
has taught. `training.relearning` says how they are read.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.hooked_model import HookedModel
from training.datasets.rendering import Rendered
from training.processes import this_process
from training.relearning import Relearned, relearn
from training.remix.config import RemixConfig
from training.remix.fitting import left_over
from training.remix.items import StageItems, load_set, rendered
from training.runs.durable_files import one_line_for_disk_errors, write_whole

RELEARNING_FILE = "relearning.json"


def write_relearning(
    config: RemixConfig,
    model: HookedModel,
    items: StageItems,
    untaught: Sequence[Rendered],
    path: Path,
) -> None:
    """Teach a few items of stage A again, on a copy of the weights, and write down what comes back.

    Args:
        config: the chain.
        model: as its last stage has left it; its weights are put back.
        items: of stage A.
        untaught: what `never_taught` has found.
        path: the file.

    Raises:
        ValueError: there are too few items, or the file cannot be written.
    """
    assert config.relearning_steps is not None
    curve = relearn(
        model,
        items.rows[: config.stages[0].items],
        count=config.relearning_items,
        steps=config.relearning_steps,
        learning_rate=config.stages[0].learning_rate,
        batch_size=min(config.batch_size, config.relearning_items),
        seed=config.seed,
        never_taught=untaught,
    )
    groups = [group for group in Relearned if group in curve.groups]
    content = {
        "configuration": curve.configuration,
        "groups": [str(group) for group in curve.groups],
        "identifiers": list(curve.identifiers),
        "exact_match": {group: curve.exact_match(group).tolist() for group in groups},
        "log_prob": {group: curve.mean_log_prob(group).tolist() for group in groups},
        "spill_over": curve.spill_over,
        "correct": curve.correct.int().tolist(),
        "log_probs": curve.log_probs.tolist(),
    }
    if this_process().is_first:
        with one_line_for_disk_errors(f"writing {path}"):
            write_whole(path, json.dumps(content) + "\n")


def refuse_relearning(config: RemixConfig, items: StageItems) -> None:
    """Make sure before the first step that some items can be taught again and others asked.

    Raises:
        ValueError: they cannot.
    """
    count, there = config.relearning_items, len(items.rows[: config.stages[0].items])
    if config.relearning_steps is not None and count >= there:
        most = f"{there - 1} or fewer" if there > 1 else "--relearning-steps None"
        raise ValueError(
            f"--relearning-items asks for {count} of the {there} items of stage A, and others have "
            f"to be left to be asked; give {most}"
        )


def never_taught(config: RemixConfig, tokenizer: Any) -> Sequence[Rendered]:
    """Items of the set of stage A after all that any stage learns of it, as many as asked for.

    Args:
        config: the chain.
        tokenizer: of the model.

    Raises:
        ValueError: there are not so many.
    """
    wanted, data = config.relearning_never_taught, config.data[0]
    if not wanted or config.relearning_steps is None:
        return ()
    there = left_over(config, wanted)
    if there < wanted:
        raise ValueError(
            f"--relearning-never-taught asks for {wanted:,} items of {data} that no stage learns, "
            f"which has {there:,}; ask for {there:,} or fewer"
        )
    taught = sum(stage.items for stage in config.stages if stage.data == data)
    return rendered(
        config, load_set(config, data, limit=wanted, offset=taught).conversations, tokenizer
    )
