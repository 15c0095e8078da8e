"""How the benchmarks measure and report: alternating runs for time, fresh processes for memory."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

ROOT = Path(__file__).parent.parent.parent
THREADS = 2
Found = TypeVar("Found")


def in_turn(
    runs: Mapping[str, Callable[[], Found]], rounds: int, warmup: int = 1
) -> dict[str, list[Found]]:
    """What each run gives, taken in turn so that a drift of the machine meets all alike."""
    found: dict[str, list[Found]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            value = run()
            if turn >= warmup:
                found[name].append(value)
    return found


def alternating(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn."""

    def timed(run: Callable[[], object]) -> Callable[[], float]:
        def seconds() -> float:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        return seconds

    return in_turn({name: timed(run) for name, run in runs.items()}, rounds, warmup)


def ratio(found: Mapping[str, list[float]], numerator: str, denominator: str) -> float:
    """Median over rounds of the ratio within a round."""
    pairs = zip(found[numerator], found[denominator], strict=True)
    return statistics.median(a / b for a, b in pairs)


def whole_command(module: str, *words: str, repeats: int) -> float:
    """Seconds that a command takes from its start to its end, the median."""

    def run() -> None:
        done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    # The first of several is not counted: it reads files that the others find in memory.
    seconds = alternating({"command": run}, repeats, warmup=int(repeats > 1))
    return statistics.median(seconds["command"])


def help_of(module: str, repeats: int) -> dict[str, float]:
    """Seconds until a command's `--help` has answered."""
    return {f"{module} --help, seconds": whole_command(module, "--help", repeats=repeats)}


def in_fresh_process(module: str, *arguments: str) -> dict[str, float]:
    """What a worker prints as its last line of JSON, from a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident_mb() -> float:
    """Memory that this process holds now, in MB."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most memory that this process has held since `forget_peak`, in MB."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak start again from what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def options(description: str | None, *, rounds: int, quick: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have; so many rounds, fewer with `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument(
        "--rounds", type=int, help=f"{rounds}, or {quick} with --quick" if rounds else None
    )
    parser.set_defaults(usual_rounds=(rounds, quick))
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    given = parser.parse_args(argv)
    given.rounds = given.rounds or given.usual_rounds[given.quick]
    del given.usual_rounds
    torch.set_num_threads(THREADS)
    return given


def show(found: Mapping[str, float], bars: Mapping[str, str]) -> None:
    """Print the numbers, and what they are to be."""
    for name, value in found.items():
        print(f"{name:<52}{value:>12.4g}  {bars.get(name, '')}")


def write(
    out: Path, name: str, found: Mapping[str, float], bars: Mapping[str, str], **facts: Any
) -> None:
    """Print the numbers, and write them as `NAME.json`."""
    show(found, bars)
    out.mkdir(parents=True, exist_ok=True)
    report = {"threads": THREADS, "torch": torch.__version__, "results": found, "bars": bars}
    (out / f"{name}.json").write_text(json.dumps(report | facts, indent=2) + "\n")
