"""How the benchmarks measure: alternating runs for time, fresh processes for memory."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
THREADS = 2


def alternating(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that a drift of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], numerator: str, denominator: str) -> float:
    """Median over rounds of the ratio within a round."""
    pairs = zip(seconds[numerator], seconds[denominator], strict=True)
    return statistics.median(a / b for a, b in pairs)


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
