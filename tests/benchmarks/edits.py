"""What an edit costs a forward pass: as hooks, and in the weights, over the unedited model's.

Run as `make bench`; prints a table and writes `edits.json`. The asset on random tokens; ratios are
medians over alternating runs in one process, on two threads. Three copies of the model take turns,
one bare, one with the edit attached throughout, one patched; a fourth, bare again, says how far
from 1 a ratio is by itself.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.entropy_workers import ASSET
from tests.benchmarks.timing import THREADS, alternating, ratio

ROWS, LENGTH = 2, 256
SITES = ("up", "down", "preserving", "gate")
BARS = {"hooks": "at most 1.05", "patch": "1.00"}


def overheads(rounds: int) -> dict[str, float]:
    """Time of a forward pass with each edit over one without, and of a bare copy over another."""
    import probes

    bare = probes.load_model(ASSET)
    hooked, patched, again = (_copy_of(bare) for _ in range(3))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, bare.d_vocab, (ROWS, LENGTH), generator=generator)
    found: dict[str, float] = {}
    for name, edits in _edits(bare, ids).items():
        found |= _overheads_of(name, edits, ids, rounds, bare, hooked, patched, again)
    return found


def _copy_of(model):
    import probes

    return probes.load_model(copy.deepcopy(model.hf_model))


def _edits(model, ids):
    """Every kind of edit that is both hooks and a patch."""
    import interventions
    import probes

    found = probes.measure_entropy(model, [{"input_ids": ids}], kinds=("knowledge",))
    means = found.mean_coefficients
    resuscitations = {site: interventions.Resuscitation(means, site=site) for site in SITES}
    temperature = interventions.AttentionTemperature(1.5)
    heads = torch.full((model.n_layers, model.n_heads), 1.5)
    return {
        **{site: (edit,) for site, edit in resuscitations.items()},
        "temperature": (temperature,),
        "temperatures of heads": (interventions.AttentionTemperature(heads),),
        "up and temperature": (resuscitations["up"], temperature),
    }


def _overheads_of(name, edits, ids, rounds, bare, hooked, patched, again) -> dict[str, float]:
    import interventions

    report = interventions.patch_weights(patched, *edits, check=False)
    with interventions.applied(hooked, *edits, check=False):
        models = {"bare": bare, "hooks": hooked, "patch": patched, "bare again": again}
        runs = {turn: _forward(model, ids) for turn, model in models.items()}
        seconds = alternating(runs, rounds)
    report.undo()
    return {f"{name}: {turn} / bare": ratio(seconds, turn, "bare") for turn in list(runs)[1:]}


def _forward(model, ids) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            model.hf_model(ids, use_cache=False)

    return run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    found = overheads(arguments.rounds)
    for name, value in found.items():
        bar = next((text for form, text in BARS.items() if f": {form} /" in name), "")
        print(f"{name:<48}{value:>8.3f}  {bar}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "threads": THREADS,
        "torch": torch.__version__,
        "tokens": [ROWS, LENGTH],
        "results": found,
        "bars": BARS,
    }
    (arguments.out / "edits.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
