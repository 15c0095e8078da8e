"""What localizing costs: against the bare forward pass, and against TransformerLens's logit lens.

Run as `make bench`; prints a table and writes `lens.json`. TriviaQA questions on the asset; times
are medians of alternating runs in one process, on two threads. The command with one prompt is timed
whole, from the start of its process to the end.
"""

import tempfile
from collections.abc import Sequence

import torch

import probes
from probes.lens import LensSettings, batches_of, padded_batch, read_lens, target_ranks
from probes.localization import localize
from probes.prompts import lens_items
from tests.benchmarks.entropy_workers import ASSET
from tests.benchmarks.timing import (
    alternating,
    help_of,
    options,
    parsed,
    ratio,
    whole_command,
    write,
)
from training.data.factoids import load_factoids, prompt_and_target

BARS = {
    "localization / bare trunk": "at most 1.25 (goal 1.10)",
    "TransformerLens logit_lens / ours": "at least 1.25 (goal 1.5)",
    "analysis.logit_lens --help, seconds": "at most 1.0 (goal 0.4)",
    "analysis.logit_lens of one prompt, seconds": "at most 4",
}


def one_prompt(repeats: int) -> dict[str, float]:
    """Seconds of the whole command, page and files and all."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", ASSET, "--prompt", "The capital of France is", "--target", " Paris"]
        words += ["--out", f"{folder}/lens", "--overwrite"]
        seconds = whole_command("analysis.logit_lens", *words, repeats=repeats)
    return {"analysis.logit_lens of one prompt, seconds": seconds}


def localization(rounds: int, questions: int) -> dict[str, float]:
    """Time of the lens over the bare trunk's on the same batches, and of TransformerLens's."""
    model = probes.load_model(ASSET)
    factoids = load_factoids("triviaqa", limit=questions)
    pairs = [prompt_and_target(factoid, factoids.template) for factoid in factoids]
    items = lens_items(model, [prompt for prompt, _ in pairs], [target for _, target in pairs])
    settings = LensSettings(top_k=10)
    floor = {
        "bare": lambda: _bare(model, items, settings),
        "ranks": lambda: localize(target_ranks(model, items), 10, model.d_vocab),
        "ours": lambda: read_lens(model, items, settings),
    }
    against_floor = alternating(floor, rounds)
    bridge = model.to_transformer_lens()
    rivals = {"ours": floor["ours"], "TransformerLens": lambda: _rival(bridge, items, settings)}
    against_rival = alternating(rivals, max(1, rounds // 3), warmup=0)
    tokens = sum(len(item.prompt_ids) for item in items)
    width, vocabulary = model.d_model, model.d_vocab
    weights = sum(p.numel() for layer in model.anatomy.layers for p in layer.block.parameters())
    unembedded = len(items) * model.n_layers * width * vocabulary
    return {
        "localization / bare trunk": ratio(against_floor, "ranks", "bare"),
        "every readout / bare trunk": ratio(against_floor, "ours", "bare"),
        "TransformerLens logit_lens / ours": ratio(against_rival, "TransformerLens", "ours"),
        "tokens of a question": tokens / len(items),
        "unembedding / trunk, in multiplications": unembedded / (tokens * weights),
        "slowest / fastest bare trunk": max(against_floor["bare"]) / min(against_floor["bare"]),
    }


def _bare(model, items, settings):
    with torch.no_grad():
        for batch in batches_of(items, settings):
            model.trunk(padded_batch([items[i] for i in batch], settings, model.engine.config))


def _rival(bridge, items, settings):
    """Ranks, log-probabilities, entropies and top tokens of every layer, as its users get them."""
    from transformer_lens.tools.analysis import logit_lens

    for batch in batches_of(items, settings):
        some = [items[i] for i in batch]
        tokens = padded_batch(some, settings, bridge.original_model.config)["input_ids"]
        # Its positions are the same for all rows of a call, so rows go in one by one.
        for row, item in zip(tokens, some, strict=True):
            ids = row[None, : len(item.prompt_ids)]
            result = logit_lens(bridge, ids, positions=-1, return_type="log_probs")
            values = result.values
            target = item.target_ids[0]
            (values > values[..., target, None]).sum(-1)
            torch.special.entr(values.exp()).sum(-1)
            values.topk(settings.top_k, dim=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    given = parsed(options(__doc__, rounds=3, quick=1), argv)
    found = help_of("analysis.logit_lens", given.rounds) | one_prompt(given.rounds)
    found |= localization(given.rounds, questions=12 if given.quick else 64)
    write(given.out, "lens", found, BARS)


if __name__ == "__main__":
    main()
