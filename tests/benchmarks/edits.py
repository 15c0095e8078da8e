"""What an edit costs a forward pass: as hooks, and in the weights, over the unedited model's.

Run as `make bench`; prints a table and writes `edits.json`. The asset on random tokens; ratios are
medians over alternating runs in one process, on two threads. Three copies of the model take turns,
one bare, one with the edit attached throughout, one patched; a fourth, bare again, says how far
from 1 a ratio is by itself.
"""

import copy
from collections.abc import Callable, Sequence

import torch

import interventions
import probes
from tests.benchmarks.entropy_workers import ASSET
from tests.benchmarks.timing import alternating, options, parsed, ratio, write

ROWS, LENGTH, QUICK_LENGTH = 2, 128, 64
QUICK = ("preserving", "temperature")
SITES = ("up", "down", "preserving", "gate")
BARS = {"hooks": "at most 1.05", "patch": "1.00"}


def overheads(rounds: int, length: int, *, quick: bool) -> dict[str, float]:
    """Time of a forward pass with each edit over one without, and of a bare copy over another."""
    bare = probes.load_model(ASSET)
    hooked, patched, again = (probes.load_model(copy.deepcopy(bare.hf_model)) for _ in range(3))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, bare.d_vocab, (ROWS, length), generator=generator)
    found: dict[str, float] = {}
    of_all = _edits(bare, ids)
    for name, edits in {n: of_all[n] for n in of_all if not quick or n in QUICK}.items():
        found |= _overheads_of(name, edits, ids, rounds, bare, hooked, patched, again)
    return found


def _edits(model, ids):
    """Every kind of edit that is both hooks and a patch."""
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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    given = parsed(options(__doc__, rounds=3, quick=1), argv)
    length = QUICK_LENGTH if given.quick else LENGTH
    found = overheads(given.rounds, length, quick=given.quick)
    bars = {name: BARS[form] for name in found for form in BARS if f": {form} /" in name}
    write(given.out, "edits", found, bars, tokens=[ROWS, length])


if __name__ == "__main__":
    main()
