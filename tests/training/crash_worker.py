"""Runs that are killed: forks a tiny training run, kills it, and lets it go on until it is done.

A process of its own, with one thread, that imports everything once and then forks: a run takes a
second. It never computes before it forks. Nothing is synced to the disk, which a kill does not ask
for. Prints one line of JSON: for each crash, how often the run was started until it was done.

    python -m tests.training.crash_worker OUT RANDOM_MOMENTS [POINT ...]
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.distributed import checkpoint  # noqa: F401

import training.runs.checkpoints as run_checkpoints
import training.runs.records as run_records
from interventions import AttentionTemperature
from tests.training.loop_runs import model_of, rows_of, tokens
from training.injection import Encounter, InjectedSource, InjectionSchedule
from training.loop import train
from training.runs.directory import RunDirectory
from training.runs.records import InjectionRecord, PerplexityRecord, StepRecord
from training.settings import LoopSettings, OptimizerSettings

STEPS = 13


def die(*_arguments: Any) -> None:
    """As if the power were cut, but for what the kernel holds."""
    os.kill(os.getpid(), signal.SIGKILL)


class Looks:
    """Draws random numbers and records what the model says."""

    def due(self, step: int) -> bool:
        return step % 2 == 0

    def observe(self, model, step):
        torch.rand(3)
        yield PerplexityRecord(step, "seven tokens", float(model(tokens(1, 7)).std()), None, 7)


class Patience:
    """A stop rule with a memory that would end a run early if it counted any update twice."""

    def __init__(self) -> None:
        self.updates = 0

    def after(self, _record, _batch):
        self.updates += 1
        return "too many updates" if self.updates > STEPS else None

    def after_looking(self, _records):
        return None

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]


def source_of() -> InjectedSource:
    """Shuffled rows over two epochs, two passages every four steps."""
    passages = {Encounter(p, v): torch.tensor([5 + p, 9 + v, 2]) for p in (0, 1) for v in range(3)}
    rounds = {1 + 4 * i: (Encounter(0, i), Encounter(1, i)) for i in range(3)}
    return InjectedSource(rows_of(), InjectionSchedule(rounds), passages)


def trained(path: Path) -> None:
    """One run, from its beginning or from wherever it was killed."""
    settings = LoopSettings(
        steps=STEPS,
        batch_size=4,
        micro_batch_size=3,
        optimizer=OptimizerSettings(learning_rate=1e-2),
        checkpoint_every=5,
        checkpoint_steps=(0,),
        resume_every=4,
        keep_training_states=2,
    )
    source = source_of()
    manifest = {"configuration": asdict(settings), "inputs": source.describe()}
    is_there = (path / "manifest.json").is_file()
    open_it = RunDirectory.reopen if is_there else RunDirectory.create
    train(
        model_of(dropout=0.1),
        source,
        settings,
        open_it(path, manifest),
        edits=[AttentionTemperature(1.3)],
        observers=[Looks()],
        stop=Patience(),
        resume=is_there,
        progress=False,
    )


def dying_at(owner: Any, name: str, when: Callable[..., bool], *, after: bool) -> None:
    """Kill this process at the first call of a function that is meant."""
    original = getattr(owner, name)

    def patched(*arguments: Any, **keywords: Any) -> Any:
        if when(*arguments, **keywords) and not after:
            die()
        result = original(*arguments, **keywords)
        if when(*arguments, **keywords) and after:
            die()
        return result

    setattr(owner, name, patched)


def seals(step: int) -> Callable[..., bool]:
    """Whether a path is the temporary folder of a checkpoint."""
    return lambda path, *_rest: path.name == f".step-{step:06d}.partial"


def half_a_line() -> None:
    """Die with half of a record written."""
    original = run_records.AppendedLines.append

    def append(self, line):
        if self.path.name == "records.jsonl" and '"step": 7,' in line:
            with self.path.open("ab") as file:
                file.write(line.encode()[:20])
            die()
        original(self, line)

    run_records.AppendedLines.append = append


POINTS: dict[str, Callable[[], None]] = {
    "while the first manifest is written": lambda: dying_at(
        run_records,
        "sync_folder",
        lambda folder: not (folder / "records.jsonl").exists(),
        after=False,
    ),
    "before anything is recorded": lambda: dying_at(
        RunDirectory, "append", lambda *_: True, after=False
    ),
    "while weights are written": lambda: dying_at(
        transformers.PreTrainedModel, "save_pretrained", lambda *_, **__: True, after=True
    ),
    "after the temporary write": lambda: dying_at(
        run_checkpoints, "sync_tree", seals(10), after=True
    ),
    "before the rename": lambda: dying_at(Path, "rename", seals(10), after=False),
    "after the rename": lambda: dying_at(Path, "rename", seals(10), after=True),
    "after the rename of one that only bridges": lambda: dying_at(
        Path, "rename", seals(8), after=True
    ),
    "after the rename of the last": lambda: dying_at(Path, "rename", seals(STEPS), after=True),
    "while an older one is pruned": lambda: dying_at(
        Path, "unlink", lambda path, **_: path.parent.name == "step-000005", after=True
    ),
    "while one is removed": lambda: dying_at(
        Path, "rename", lambda path, _to: path.name == "step-000004", after=True
    ),
    "between record and checkpoint": lambda: dying_at(
        RunDirectory, "commit_checkpoint", lambda _s, step, *_, **__: step == 10, after=False
    ),
    "inside an injection interval": lambda: dying_at(
        RunDirectory,
        "append",
        lambda _s, record: isinstance(record, StepRecord) and record.step == 7,
        after=True,
    ),
    "between an injection and its update": lambda: dying_at(
        RunDirectory,
        "append",
        lambda _s, record: isinstance(record, InjectionRecord) and record.step == 9,
        after=True,
    ),
    "within a line": half_a_line,
    "before it says that it is done": lambda: dying_at(
        RunDirectory, "finish", lambda *_: True, after=False
    ),
}


def forked(path: Path, prepare: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run in a child; whether it came to its end."""
    child = os.fork()
    if not child:
        os.environ["PYTHONWARNINGS"] = "ignore"
        status = 1
        try:
            prepare()
            trained(path)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{path.name} failed")
    return os.WIFEXITED(status)


def main(out: Path, moments: int, points: list[str]) -> dict[str, int]:
    """The whole run, then one that is killed at each point, then ones killed at random moments."""
    os.fsync = lambda _file: None
    started = time.monotonic()
    assert forked(out / "whole", lambda: None)
    length = time.monotonic() - started
    starts = {}
    for point in points:
        assert not forked(out / point, POINTS[point]), point
        assert forked(out / point, lambda: None), point
        starts[point] = 2
    draw = random.Random()
    for number in range(moments):
        name = f"moment {number}"
        starts[name] = 1
        # One run in three is killed a second time, on its way from where it was killed first.
        for _kill in range(1 + (number % 3 == 0)):
            if not forked(out / name, lambda: None, draw.uniform(0.0, length)):
                starts[name] += 1
        assert forked(out / name, lambda: None), name
    return starts


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(POINTS))))
