"""What the training loop costs: against a bare loop, and against Hugging Face's Trainer.

    python -m tests.benchmarks.training                       # two cores, a few minutes
    python -m tests.benchmarks.training --device cuda --shape smollm2 --precision bf16 --compile

All three train the same model on the same rows with the same fused AdamW, attention and precision,
in one process, in turn. A round is some steps of each; what counts is the time from one update to
the next, with whatever each does in between (ours writes two lines and checks the gradient), without
what happens once: setting up, the first steps, the checkpoint at the end. Prints a table and writes
`training.json`.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import probes
from tests.benchmarks.contenders import (
    SHAPES,
    Stamps,
    facts,
    llama,
    ours,
    stamp,
    trainer,
    training_options,
)
from tests.benchmarks.timing import in_turn, parsed, ratio, write
from training import LoopSettings, RowSource
from training.choices import Precision
from training.progress import flops_per_token, peak_flops

WARM_UP = 4
"""Steps at the beginning of a round that are not counted."""
BARS = {
    "ours / bare loop": "at most 1.03",
    "ours / HF Trainer": "at most 1.00 on two cores; on a GPU in bf16 at most 0.77 (goal 0.67)",
}
BATCHES = {"tiny": (4096, 32, 128), "smollm2": (49152, 16, 1024), "1b": (50304, 16, 1024)}
"""Size of the vocabulary, rows of a batch, and their length."""


def bare_loop(hf_model: Any, rows: torch.Tensor, batch_size: int, given: Any) -> Stamps:
    """Forward, backward, clip, step."""
    hf_model = hf_model.train()
    optimizer = torch.optim.AdamW(
        hf_model.parameters(), lr=4e-4, betas=(0.9, 0.95), eps=1e-5, fused=True
    )
    dtype = {"fp32": None, "bf16": torch.bfloat16}[given.precision]

    def run() -> list[float]:
        stamps = []
        for some in rows.split(batch_size):
            ids = some.to(given.device)
            with torch.autocast(given.device, dtype, enabled=dtype is not None):
                logits = hf_model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(hf_model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stamps.append(stamp(given.device))
        return stamps

    return run


def median_step(run: Stamps) -> Callable[[], float]:
    """Median time from one update to the next."""

    def seconds() -> float:
        gaps = [later - earlier for earlier, later in itertools.pairwise(run())]
        return statistics.median(gaps[WARM_UP:])

    return seconds


def compared(given: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step of each, in turn, and their ratios within a round."""
    shape, (vocabulary, size, length) = SHAPES[given.shape], BATCHES[given.shape]
    rows = np.random.default_rng(0).integers(3, vocabulary, (size * given.steps, length))
    tensor = torch.from_numpy(rows)
    models = [llama(shape, vocabulary, length, given.device) for _ in range(3)]
    settings = LoopSettings(
        steps=given.steps,
        batch_size=size,
        precision=given.precision,
        compile=given.compile,
    )
    runs = {
        "bare loop": bare_loop(models[0], tensor, size, given),
        "ours": ours(models[1], RowSource(rows, size), settings, given.device),
        "HF Trainer": trainer(
            models[2],
            [{"input_ids": row, "labels": row} for row in tensor],
            given.device,
            given.precision,
            max_steps=given.steps,
            per_device_train_batch_size=size,
            learning_rate=4e-4,
            adam_epsilon=1e-5,
            weight_decay=0.1,
        ),
    }
    steps = {name: median_step(run) for name, run in runs.items()}
    seconds = in_turn(steps, given.rounds, warmup=0)
    ratios = {
        f"ours / {name}": ratio(seconds, "ours", name) for name in ("bare loop", "HF Trainer")
    }
    speeds = {f"tokens/s, {n}": size * length / statistics.median(s) for n, s in seconds.items()}
    flops = flops_per_token(probes.load_model(models[1]), length) * size * length
    return {**ratios, **speeds, **utilisation(given, flops, statistics.median(seconds["ours"]))}


def utilisation(given: argparse.Namespace, flops: float, seconds: float) -> dict[str, float]:
    """Model FLOP utilisation, where the device's peak is known."""
    if given.device != "cuda":
        return {}
    peak = peak_flops(torch.cuda.get_device_name(), Precision(given.precision))
    if peak is None:
        return {}
    return {
        "model FLOP utilisation": flops / seconds / peak,
        "peak memory, GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = training_options(__doc__, rounds=2, steps=12, shapes=tuple(SHAPES))
    given = parsed(parser, argv)
    if given.quick:
        given.steps = WARM_UP + 2
    write(given.out, "training", compared(given), BARS, **facts(given))


if __name__ == "__main__":
    main()
