"""What measuring costs: against the bare forward pass, and against what one would use instead.

Run as `make bench`; prints a table and writes `entropy.json`. Times are medians of alternating
runs in one process, memory comes from fresh processes, everything on two threads.
"""

import contextlib
import io
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch

import probes
from analysis import entropy
from tests.benchmarks import entropy_workers as workers
from tests.benchmarks.contenders import Shape, llama
from tests.benchmarks.timing import (
    alternating,
    help_of,
    in_fresh_process,
    options,
    parsed,
    ratio,
    write,
)

WORKER = "tests.benchmarks.entropy_workers"


def knowledge_against_bare_forward_and_transformer_lens(
    rounds: int, batches: int
) -> dict[str, float]:
    """Time of our pass over the bare trunk's, and of TransformerLens's full cache over ours."""
    some = workers.batches(workers.ROWS, workers.LENGTH, batches)
    model = probes.load_model(workers.ASSET)
    model.content_hash = lambda: "not hashed"
    runs = {
        "bare": workers.bare_trunk(model, some),
        "ours": workers.knowledge(model, some),
    }
    floor = alternating(runs, rounds)
    bridge = model.to_transformer_lens()
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.n_layers)]
    alternatives = {
        "TransformerLens run_with_cache, all hooks": _transformer_lens(bridge, names, some, None),
        "TransformerLens run_with_cache, filtered": _transformer_lens(bridge, names, some, names),
        "nnsight trace": _nnsight(model.to_nnsight(), some),
    }
    others = alternating({"ours": runs["ours"], **alternatives}, max(1, rounds // 3), warmup=0)
    return {
        "knowledge pass / bare trunk": ratio(floor, "ours", "bare"),
        "slowest / fastest bare trunk": max(floor["bare"]) / min(floor["bare"]),
        **{f"{name} / ours": ratio(others, name, "ours") for name in alternatives},
    }


def _transformer_lens(bridge, names, some, names_filter):
    """Cache with TransformerLens, then average the absolute coefficients."""

    def run() -> None:
        total = 0.0
        for batch in some:
            with torch.no_grad():
                _, cache = bridge.run_with_cache(batch["input_ids"], names_filter=names_filter)
            total = total + torch.stack([cache[name].abs().sum((0, 1)) for name in names])
        torch.special.entr(total / total.sum(-1, keepdim=True)).sum()

    return run


def _nnsight(wrapped, some):
    """Sum the absolute coefficients inside an nnsight trace."""
    import nnsight

    def run() -> None:
        total = 0.0
        for batch in some:
            with torch.no_grad(), wrapped.trace(batch["input_ids"]):
                sums = nnsight.save([])
                for layer in wrapped.model.layers:
                    sums.append(layer.mlp.down_proj.input.abs().sum((0, 1)))
            total = total + torch.stack(sums)
        torch.special.entr(total / total.sum(-1, keepdim=True)).sum()

    return run


def knowledge_at_shapes(
    rounds: int, batches: int, shapes: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """Time of our pass over the bare trunk's, for smaller models on random tokens."""
    found = {}
    for layers, d_model in shapes:
        shape = Shape(d_model, layers, d_model // 64, 4 * d_model)
        model = probes.load_model(llama(shape, VOCABULARY, SMALL_LENGTH, "cpu").eval())
        model.content_hash = lambda: "not hashed"
        generator = torch.Generator().manual_seed(0)
        size = (batches, workers.ROWS, SMALL_LENGTH)
        ids = torch.randint(3, VOCABULARY, size, generator=generator)
        some = [{"input_ids": rows} for rows in ids]
        runs = {"bare": workers.bare_trunk(model, some), "ours": workers.knowledge(model, some)}
        taken = alternating(runs, rounds)
        found[_at_shape(layers, d_model)] = ratio(taken, "ours", "bare")
    return found


def _at_shape(layers: int, d_model: int) -> str:
    return f"knowledge pass / bare trunk, {layers} layers x {d_model}"


def sweep_over_its_passes(checkpoints: int = 3) -> dict[str, float]:
    """Time of a sweep over local checkpoints, over the sum of its passes."""
    passes: list[float] = []
    measure = entropy.measure

    def timed(*arguments):
        start = time.perf_counter()
        found = measure(*arguments)
        passes.append(time.perf_counter() - start)
        return found

    with tempfile.TemporaryDirectory() as folder:
        for step in range(checkpoints):
            # Links: several checkpoints to load for the disk space of one.
            (Path(folder) / f"step{step}").symlink_to(probes.fetch(workers.ASSET))
        argv = f"--model {folder}/step* --corpus general --out {folder}/out --max-tokens 2048"
        quiet = contextlib.redirect_stdout(io.StringIO())
        with mock.patch.object(entropy, "measure", timed), quiet:
            start = time.perf_counter()
            assert entropy.main(argv.split()) == 0
            whole = time.perf_counter() - start
    return {f"sweep of {checkpoints} checkpoints / its passes": whole / sum(passes)}


def memory_of_the_knowledge_pass() -> dict[str, float]:
    """Peak of the pass less the peak of the bare trunk, in fresh processes."""
    peaks = {
        name: in_fresh_process(WORKER, name)["above_model_mb"] for name in ("bare", "knowledge")
    }
    return {"knowledge pass, MB above bare trunk": peaks["knowledge"] - peaks["bare"]}


def attention_against_eager() -> dict[str, float]:
    """Attention entropy of one long row, against eager patterns."""
    ours = in_fresh_process(WORKER, "attention")
    eager = in_fresh_process(WORKER, "eager_attention")
    found, expected = (torch.tensor(run["values"]) for run in (ours, eager))
    return {
        "eager output_attentions / attention pass, time": eager["seconds"] / ours["seconds"],
        "eager output_attentions / attention pass, memory": eager["above_model_mb"]
        / ours["above_model_mb"],
        "attention pass, seconds": ours["seconds"],
        "attention pass, MB above model": ours["above_model_mb"],
        "attention entropy, largest relative difference": float(
            ((found - expected).abs() / expected).max()
        ),
    }


SMALL_SHAPES = ((4, 256), (6, 320), (10, 384), (12, 512))
VOCABULARY, SMALL_LENGTH = 8192, 384
BARS = {
    **{_at_shape(*shape): "at most 1.05" for shape in SMALL_SHAPES},
    "knowledge pass / bare trunk": "at most 1.05",
    "TransformerLens run_with_cache, all hooks / ours": "at least 1.5",
    "sweep of 3 checkpoints / its passes": "at most 1.15",
    # Bare trunks of two processes differ by as much.
    "knowledge pass, MB above bare trunk": "at most 40",
    "eager output_attentions / attention pass, time": "at least 4 (goal 7)",
    "eager output_attentions / attention pass, memory": "at least 10 (goal 18)",
    "attention entropy, largest relative difference": "at most 1e-5",
    "analysis.entropy --help, seconds": "at most 1.0 (goal 0.4)",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    given = parsed(options(__doc__, rounds=5, quick=1), argv)
    batches, shapes = (1, SMALL_SHAPES[2:3]) if given.quick else (2, SMALL_SHAPES)
    found = help_of("analysis.entropy", given.rounds)
    found |= knowledge_at_shapes(given.rounds, batches, shapes)
    found |= knowledge_against_bare_forward_and_transformer_lens(given.rounds, batches)
    if not given.quick:
        found |= memory_of_the_knowledge_pass()
        found |= sweep_over_its_passes()
        found |= attention_against_eager()
    machine = platform.processor() or platform.machine()
    write(given.out, "entropy", found, BARS, machine=machine)


if __name__ == "__main__":
    main()
