"""What evaluating during a run costs: knowledge probes and downstream tasks, on the asset.

Probes are held against one padded pass per batch of 16 with full logits, in the order of the set;
tasks against a padded row for every choice, 16 to a batch, with full logits. Tokens are split
beforehand on both sides. Run as `python -m tests.benchmarks.evaluation`; prints a table and writes
`evaluation.json`. Times are medians over rounds of alternating runs in one process, on two threads;
there is one round unless more are asked for. The published probes are those of 130 passages
(`--passages 130`), which takes minutes. Memory is the peak of a process of its own over what the
loaded model holds, for the probes of a few passages.

`--probes` takes files in the published layout; without it, as many are made up.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import probes
from probes.prompts import encoded_items
from probes.target_pass import target_sums
from tests.benchmarks.entropy_workers import ASSET
from tests.benchmarks.timing import (
    alternating,
    forget_peak,
    in_fresh_process,
    options,
    parsed,
    peak_mb,
    resident_mb,
    write,
)
from training.data.fictional_generator import generate_knowledge
from training.data.passages import load_knowledge
from training.tasks import encoded_task, load_task, task_names

BATCH = 16
MEMORY_PASSAGES = 8
"""More take no more memory: batches are as large."""
BARS = {
    "probes: padded pass / ours": "at least 3",
    "probes: our memory / padded pass": "at most 0.5",
    "tasks: padded rows / ours": "at least 2 (goal 3)",
}
Pair = tuple[Sequence[int], Sequence[int]]


def probe_pairs(model, files: Sequence[str], passages: int) -> list[Pair]:
    """The probes of some passages as tokens, passage after passage."""
    known = (
        load_knowledge([Path(file) for file in files], limit=passages)
        if files
        else generate_knowledge(passages)
    )
    items = encoded_items(model, [probe.pair for probe in known.probes])
    return [(item.prompt_ids, item.target_ids) for item in items]


def padded(model, pairs: Sequence[Pair]) -> list[float]:
    """Sums of log-probabilities, from full logits of padded batches in the order of the pairs."""
    found = []
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        width = max(len(prompt) + len(target) for prompt, target in some)
        ids = torch.zeros(len(some), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (prompt, target) in enumerate(some):
            end = len(prompt) + len(target)
            ids[row, :end] = torch.tensor([*prompt, *target])
            mask[row, :end] = 1
            labels[row, len(prompt) : end] = torch.tensor(target)
        with torch.no_grad():
            logits = model.hf_model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        losses = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        )
        found += (-losses.view(len(some), -1).sum(dim=1)).tolist()
    return found


def ours(model, pairs: Sequence[Pair]) -> list[float]:
    """The same numbers, from our pass."""
    return target_sums(model, pairs).tolist()


def against_each_other(model, pairs: Sequence[Pair], rounds: int) -> dict[str, float]:
    """Median seconds of both, in turn, having seen that the numbers are the same."""
    scores: dict[str, list[float]] = {}

    def scoring(name, run):
        return lambda: scores.__setitem__(name, run(model, pairs))

    runs = {name: scoring(name, run) for name, run in (("padded", padded), ("ours", ours))}
    seconds = alternating(runs, rounds, warmup=0)
    gap = max(abs(a - b) for a, b in zip(scores["ours"], scores["padded"], strict=True))
    # Sums of up to some hundred float32 log-probabilities after 30 layers.
    assert gap < 5e-3, f"the scores differ by {gap}"
    return {name: statistics.median(found) for name, found in seconds.items()}


def task_pairs(model, limit: int) -> dict[str, list[Pair]]:
    """The choices of every task as tokens."""
    return {n: list(encoded_task(model, load_task(n, limit)).items) for n in task_names()}


def memory_of(which: str, files: Sequence[str], passages: int) -> None:
    """Print how much more memory one way of scoring probes takes at its peak."""
    model = probes.load_model(ASSET)
    pairs = probe_pairs(model, files, passages)
    run = {"ours": ours, "padded": padded}[which]
    run(model, pairs[:2])
    forget_peak()
    before = resident_mb()
    run(model, pairs)
    print(json.dumps({"mb": peak_mb() - before}))


def memory_of_both(files: Sequence[str]) -> dict[str, float]:
    """How much more memory both ways take, each in a process of its own."""
    more = ["--passages", str(MEMORY_PASSAGES), "--probes", *files]
    memory = {
        which: in_fresh_process("tests.benchmarks.evaluation", "--memory-of", which, *more)["mb"]
        for which in ("ours", "padded")
    }
    return {
        "probes: our memory / padded pass": memory["ours"] / memory["padded"],
        "probes: our memory, MB": memory["ours"],
    }


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    """All numbers of the table."""
    model = probes.load_model(ASSET)
    pairs = probe_pairs(model, arguments.probes, arguments.passages)
    # What happens once is not to be counted.
    padded(model, pairs[:BATCH])
    ours(model, pairs[:BATCH])
    taken = against_each_other(model, pairs, arguments.rounds)
    found = {"probes: padded pass / ours": taken["padded"] / taken["ours"]}
    if not arguments.quick:
        found |= memory_of_both(arguments.probes)
    together = {"padded": 0.0, "ours": 0.0}
    for name, choices in task_pairs(model, arguments.limit).items():
        taken = against_each_other(model, choices, arguments.rounds)
        found[f"{name}: padded rows / ours"] = taken["padded"] / taken["ours"]
        together = {which: together[which] + taken[which] for which in together}
    found["tasks: padded rows / ours"] = together["padded"] / together["ours"]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = options(__doc__, rounds=1, quick=1)
    parser.add_argument("--probes", nargs="*", default=[], help="files of published probes")
    parser.add_argument("--passages", type=int, default=20, help="of 15 probes each")
    parser.add_argument("--limit", type=int, default=6, help="questions of a task")
    parser.add_argument("--memory-of", choices=("ours", "padded"))
    given = parsed(parser, argv)
    if given.quick:
        given.passages, given.limit = 3, 2
    if given.memory_of:
        memory_of(given.memory_of, given.probes, given.passages)
        return
    write(given.out, "evaluation", measured(given), BARS)


if __name__ == "__main__":
    main()
