"""The same tasks in TransformerLens: the same numbers, and our time and memory over theirs.

    python -m tests.benchmarks.side_by_side

Caching everything, a patching sweep over layers and positions, and the greedy generation of 64
tokens (`--quick`: 16), on the asset, with a `TransformerBridge` over a copy of it; each library as
its own users call it. Both take turns in one process on two threads, and ratios of time are medians
within a round. The numbers of the last round are compared. Memory is the peak of a run over what was
held before it, with what it returns still held, and the least of the rounds; freed memory is given
back to the system in between. Prints a table and writes `side_by_side.json`.
"""

import contextlib
import ctypes
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import analysis
import probes
from tests.benchmarks.entropy_workers import ASSET
from tests.benchmarks.timing import (
    forget_peak,
    in_turn,
    options,
    parsed,
    peak_mb,
    ratio,
    resident_mb,
    write,
)

TEXT = (
    "The library of Alexandria was one of the largest libraries of the ancient world, and the "
    "scrolls that were kept there came from all over the Mediterranean. "
) * 4
CLEAN, CORRUPTED = "The capital of France is", "The capital of Italy is"
ANSWERS = (" Paris", " Rome")
NEW_TOKENS, QUICK_NEW_TOKENS = 64, 16
AGREEMENT = 1e-5
"""Largest difference of a tensor's values, over the largest of them."""


@dataclass(frozen=True)
class Task:
    """What both do, and what of it is compared."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    numbers: Callable[[Any], Mapping[str, Tensor]]


def caching(model: Any, bridge: Any, _new_tokens: int) -> Task:
    """All that either keeps when nothing is said about what to keep."""
    tokens = model.to_tokens(TEXT)

    def theirs() -> Any:
        with torch.no_grad():
            return bridge.run_with_cache(tokens)

    def numbers(found: Any) -> Mapping[str, Tensor]:
        logits, cache = found
        return {"logits": logits, **dict(cache.items())}

    return Task(lambda: model.run_with_cache(tokens), theirs, numbers)


def patching(model: Any, bridge: Any, _new_tokens: int) -> Task:
    """The clean stream before every layer, put into the corrupted run position by position."""
    from transformer_lens import patching as lens_patching

    clean, corrupted = model.to_tokens(CLEAN), model.to_tokens(CORRUPTED)
    right, wrong = (model.to_single_token(answer) for answer in ANSWERS)

    def ours() -> Any:
        return analysis.patching(model, clean[0].tolist(), corrupted[0].tolist(), metric=ANSWERS)

    def theirs() -> Any:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            _, cache = bridge.run_with_cache(clean)
            return lens_patching.get_act_patch_resid_pre(
                bridge, corrupted, cache, lambda logits: logits[0, -1, right] - logits[0, -1, wrong]
            )

    def numbers(found: Any) -> Mapping[str, Tensor]:
        return {"patched": found if isinstance(found, Tensor) else found.patched[0]}

    return Task(ours, theirs, numbers)


def generation(model: Any, bridge: Any, new_tokens: int) -> Task:
    """Greedy, with a key-value cache, past any end-of-sequence token."""
    tokens = model.to_tokens(CLEAN)

    def theirs() -> Any:
        return bridge.generate(
            tokens,
            max_new_tokens=new_tokens,
            stop_at_eos=False,
            do_sample=False,
            verbose=False,
        )

    def ours() -> Any:
        return model.generate(tokens, new_tokens, stop_at_eos=False)

    return Task(ours, theirs, lambda found: {"tokens": found})


TASKS = {"caching everything": caching, "patching sweep": patching, "new tokens": generation}
# Half a second each, of which every third takes half as long again.
TIMES_AS_MANY_ROUNDS = {"caching everything": 6}
BARS = {
    f"{name}: {what}": bar
    for name in TASKS
    for what, bar in {
        "ours / TransformerLens, time": "at most 1.0",
        "ours / TransformerLens, memory": "at most 1.0",
        "largest difference": f"at most {AGREEMENT}",
    }.items()
}


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of any tensor that both give, over the largest value in it."""
    shared = ours.keys() & theirs.keys()
    assert shared, "nothing is shared"
    return max(_gap(ours[name], theirs[name]) for name in shared)


def _gap(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    # Masked scores are -inf here and the lowest number there.
    both = [values.double().masked_fill(ours.isneginf(), 0.0) for values in (ours, theirs)]
    return float((both[0] - both[1]).abs().max() / both[1].abs().max())


def measured(run: Callable[[], Any], found: list[Any]) -> Callable[[], tuple[float, float]]:
    """Seconds of a run, and the MB that it needs at its peak beyond what was held.

    What the last run gave is left in `found`.
    """

    def once() -> tuple[float, float]:
        found.clear()
        # glibc keeps what is freed; other libraries of C have no such function.
        ctypes.CDLL(None).malloc_trim(0)
        before = resident_mb()
        forget_peak()
        start = time.perf_counter()
        found.append(run())
        return time.perf_counter() - start, peak_mb() - before

    return once


def compared(rounds: int, new_tokens: int) -> dict[str, float]:
    """Differences and ratios of all tasks."""
    model = probes.load_model(ASSET)
    bridge = model.to_transformer_lens()
    # What either does only once is not to be counted.
    first = caching(model, bridge, new_tokens)
    first.ours(), first.theirs()
    found = {}
    for name, make in TASKS.items():
        task = make(model, bridge, new_tokens)
        ours: list[Any] = []
        theirs: list[Any] = []
        runs = {"ours": measured(task.ours, ours), "theirs": measured(task.theirs, theirs)}
        taken = in_turn(runs, rounds * TIMES_AS_MANY_ROUNDS.get(name, 1), warmup=0)
        found[f"{name}: largest difference"] = difference(
            task.numbers(ours[0]), task.numbers(theirs[0])
        )
        seconds, mb = (
            {who: [run[place] for run in several] for who, several in taken.items()}
            for place in (0, 1)
        )
        found[f"{name}: ours / TransformerLens, time"] = ratio(seconds, "ours", "theirs")
        found[f"{name}: ours, seconds"] = statistics.median(seconds["ours"])
        # What a first run imports is not what the task holds.
        least = {who: min(several) for who, several in mb.items()}
        found[f"{name}: ours / TransformerLens, memory"] = least["ours"] / least["theirs"]
        found[f"{name}: ours, MB"] = least["ours"]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    given = parsed(options(__doc__, rounds=2, quick=1), argv)
    new_tokens = QUICK_NEW_TOKENS if given.quick else NEW_TOKENS
    found = compared(given.rounds, new_tokens)
    write(given.out, "side_by_side", found, BARS, new_tokens=new_tokens)


if __name__ == "__main__":
    main()
