"""One thing done once in a process of its own, so that its peak memory is its own.

Run as `python -m tests.benchmarks.entropy_workers NAME`; prints one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

import probes
from tests.benchmarks.timing import THREADS, forget_peak, peak_mb, resident_mb

ASSET = "smollm2-135m-instruct-q4"
ROWS, LENGTH, BATCHES = 4, 256, 4
LONG = 2048


def batches(rows: int, length: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Rows of real text from the built-in corpus, token ids only."""
    tokenizer = probes.load_model(ASSET).tokenizer
    made = probes.token_batches(
        probes.load_corpus("general"),
        tokenizer,
        sequence_length=length,
        batch_size=rows,
        max_tokens=rows * length * count,
    )
    return [{"input_ids": batch.input_ids, "segment_ids": batch.segment_ids} for batch in made]


def bare_trunk(model, some) -> Callable[[], object]:
    """The floor: Hugging Face's trunk, without unembedding, cache or hooks."""

    def run() -> None:
        with torch.no_grad():
            for batch in some:
                model.hf_model.model(input_ids=batch["input_ids"], use_cache=False)

    return run


def knowledge(model, some) -> Callable[[], object]:
    """Our pass for knowledge entropy, interval and all."""
    return lambda: probes.measure_entropy(model, some, ["knowledge"])


def attention(model, some) -> Callable[[], object]:
    """Our pass for attention entropy: mean entropy per head."""
    return lambda: probes.measure_entropy(model, some, ["attention"]).attention.per_head


def eager_attention(model, some) -> Callable[[], object]:
    """What one would write today: eager patterns from `output_attentions`, then their entropy."""

    def run() -> torch.Tensor:
        model.hf_model.set_attn_implementation("eager")
        with torch.no_grad():
            output = model.hf_model.model(
                input_ids=some[0]["input_ids"], use_cache=False, output_attentions=True
            )
        model.hf_model.set_attn_implementation("sdpa")
        found = [torch.special.entr(p).sum(-1).mean((0, 2)) for p in output.attentions]
        return torch.stack(found).double()

    return run


WORKERS = {
    "bare": (bare_trunk, ROWS, LENGTH, BATCHES),
    "knowledge": (knowledge, ROWS, LENGTH, BATCHES),
    "attention": (attention, 1, LONG, 1),
    "eager_attention": (eager_attention, 1, LONG, 1),
}


def main(name: str) -> None:
    """Run one worker on the built-in model and print seconds and peak memory."""
    torch.set_num_threads(THREADS)
    make, rows, length, count = WORKERS[name]
    some = batches(rows, length, count)
    model = probes.load_model(ASSET)
    # Hashing the weights is no part of a pass.
    model.content_hash = lambda: "not hashed"
    run = make(model, some)
    before = resident_mb()
    forget_peak()
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    report = {"seconds": seconds, "above_model_mb": peak_mb() - before, "peak_mb": peak_mb()}
    if isinstance(found, torch.Tensor):
        report["values"] = found.flatten().tolist()
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
