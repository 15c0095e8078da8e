"""What a stage of continual memorization costs, against Hugging Face's Trainer.

    python -m tests.benchmarks.remix                              # two cores, some minutes
    python -m tests.benchmarks.remix --shape smollm2 --steps 8    # longer
    python -m tests.benchmarks.remix --count                      # multiplications alone, at once

All train the same model on the same examples in the same order, in one process, in turn: key-value
pairs and passages of 50 + 50 words at 1:2, in the Tulu form, with the built-in model's tokenizer.
Trainer gets the rows padded to the longest of the whole data set, as the released trainer does, or
to the longest of each batch (`DataCollatorForSeq2Seq`); pads are masked and not trained on in
either. A round is some steps of each; what counts is tokens that are trained on (answers and their
ends) over the time from one update to the next. Prints a table and writes `remix.json`.

Before that it counts, for each way to make rows, the multiplications of a forward pass, so that what
the clock says can be told from what there is to compute.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import transformers

import probes
from tests.benchmarks.contenders import (
    SHAPES,
    Stamps,
    facts,
    llama,
    ours,
    trainer,
    training_options,
)
from tests.benchmarks.timing import in_turn, parsed, ratio, show, write
from training import LoopSettings, OptimizerSettings
from training.data.factoids import load_factoids
from training.data.mixed_batches import MixedSource
from training.data.mixes import generic_passages
from training.data.rendering import factoid_conversations, render_all

WARM_UP = 2
"""Steps at the beginning of a round that are not counted."""
POSITIONS = 2048
"""What the models take at most."""
BARS = {
    "packed / Trainer, data set": "at least 2.50",
    "packed / Trainer, batch": "at least 1.20",
}
GENERIC = (("general", 3400), ("biomedical", 600))
"""Where 4,000 passages can be had offline: how many of which corpus."""


def cut_up(corpus: str) -> Any:
    """The documents of a corpus as pieces of 100 words."""
    import probes

    words = [text.split() for text in probes.load_corpus(corpus).documents()]
    pieces = [" ".join(w[i : i + 100]) for w in words for i in range(0, len(w) - 99, 100)]
    return probes.Corpus.from_texts(pieces, name=corpus)


@dataclass(frozen=True)
class Rows:
    """A way to make rows of a batch.

    Attributes:
        packing: how our source makes them; None for Trainer's.
        micro_batch_size: rows of a forward pass; None for all.
        whole: pad to the longest of the data set, not of the batch.
    """

    packing: str | None = None
    micro_batch_size: int | None = None
    whole: bool = False


WAYS = {
    "packed": Rows("packed"),
    "bucketed": Rows("bucketed", 4),
    "Trainer, data set": Rows(whole=True),
    "Trainer, batch": Rows(),
}


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common."""

    given: argparse.Namespace

    @cached_property
    def tokenizer(self) -> Any:
        """The built-in model's."""
        return probes.load_model("smollm2-135m-instruct-q4").tokenizer

    @cached_property
    def examples(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Pairs and passages as tokens."""
        texts = [
            passage
            for corpus, count in GENERIC
            for passage in generic_passages(cut_up(corpus), count, seed=0)
        ]
        pairs = factoid_conversations(load_factoids("kvr", limit=self.given.pairs))
        own, mix = (render_all(g, self.tokenizer) for g in (pairs, texts[: 2 * self.given.pairs]))
        assert len(mix) == 2 * len(own)
        return own, mix

    def source(self, packing: str) -> Any:
        """Our batches."""
        return MixedSource(
            *self.examples, batch_size=self.given.batch_size, packing=packing, positions=POSITIONS
        )

    @cached_property
    def batches(self) -> list[list[Any]]:
        """The examples of each step, the same for all."""
        source, pool = self.source("packed"), [*self.examples[0], *self.examples[1]]
        return [[pool[i] for i in source.examples_at(step)] for step in range(self.given.steps)]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest example of the data set."""
        return max(len(example.input_ids) for group in self.examples for example in group)

    def speed(self, run: Stamps) -> Callable[[], float]:
        """Trained tokens in a second, over the steps that count."""

        def measured() -> float:
            gaps = [later - earlier for earlier, later in itertools.pairwise(run())]
            tokens = [sum(e.trained_tokens for e in batch) for batch in self.batches[1:]]
            assert len(gaps) == len(tokens)
            return sum(tokens[WARM_UP:]) / sum(gaps[WARM_UP:])

        return measured


def contender(setting: Setting, way: Rows) -> Stamps:
    """`training.train` on mixed batches, or Hugging Face's Trainer on padded ones."""
    given, tokenizer = setting.given, setting.tokenizer
    hf_model = llama(SHAPES[given.shape], len(tokenizer), POSITIONS, given.device)
    if way.packing is not None:
        settings = LoopSettings(
            steps=given.steps,
            batch_size=given.batch_size,
            micro_batch_size=way.micro_batch_size,
            optimizer=OptimizerSettings(learning_rate=5e-5, eps=1e-8, weight_decay=0.0),
            precision=given.precision,
            compile=given.compile,
        )
        return ours(hf_model, setting.source(way.packing), settings, given.device)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    collate = transformers.DataCollatorForSeq2Seq(
        tokenizer,
        padding="max_length" if way.whole else "longest",
        max_length=setting.longest,
        label_pad_token_id=-100,
    )
    return trainer(
        hf_model,
        [features(example) for batch in setting.batches for example in batch],
        given.device,
        given.precision,
        collate=collate,
        max_steps=given.steps,
        per_device_train_batch_size=given.batch_size,
        learning_rate=5e-5,
        adam_epsilon=1e-8,
        weight_decay=0.0,
        torch_compile=given.compile,
    )


def features(example: Any) -> dict[str, list[int]]:
    """One example as Trainer takes it."""
    pairs = zip(example.input_ids, example.trained, strict=True)
    return {
        "input_ids": list(example.input_ids),
        "attention_mask": [1] * len(example.input_ids),
        "labels": [token if trained else -100 for token, trained in pairs],
    }


def multiplications(setting: Setting, way: Rows) -> float:
    """Of the matrix products of all forward passes, in units of 10^9."""
    shape, vocabulary = SHAPES[setting.given.shape], len(setting.tokenizer)
    products = 4 * shape.d_model**2 + 3 * shape.d_model * shape.d_mlp
    found = 0
    for rows, length in row_shapes(setting, way):
        attention = 2 * length * shape.d_model
        each = shape.layers * (products + attention) + vocabulary * shape.d_model
        found += rows * length * each
    return found / 1e9


def row_shapes(setting: Setting, way: Rows) -> list[tuple[int, int]]:
    """Rows and their length, of every forward pass."""
    if way.packing is None:
        return [
            (len(b), setting.longest if way.whole else max(len(e.input_ids) for e in b))
            for b in setting.batches
        ]
    source = setting.source(way.packing)
    pieces = (source.batch(step).cut(way.micro_batch_size) for step in range(setting.given.steps))
    return [tuple(piece.input_ids.shape) for step in pieces for piece in step]


def counted(setting: Setting) -> dict[str, float]:
    """Multiplications of each way, and how many are spent on what is not trained."""
    found = {name: multiplications(setting, way) for name, way in WAYS.items()}
    gains = {
        f"multiplications, {name} / packed": found[name] / found["packed"]
        for name in WAYS
        if name != "packed"
    }
    trained = sum(example.trained_tokens for batch in setting.batches for example in batch)
    places = sum(rows * length for rows, length in row_shapes(setting, WAYS["packed"]))
    readout = len(setting.tokenizer) * SHAPES[setting.given.shape].d_model / 1e9
    return {
        **gains,
        "share of places that is trained": trained / places,
        "share of multiplications that reads out the others": (places - trained)
        * readout
        / found["packed"],
    }


def compared(setting: Setting, rounds: int) -> dict[str, float]:
    """Trained tokens in a second of each, in turn, and their ratios within a round."""
    runs = {name: setting.speed(contender(setting, way)) for name, way in WAYS.items()}
    speeds = in_turn(runs, rounds, warmup=0)
    mine = [name for name, way in WAYS.items() if way.packing]
    ratios = {f"{a} / {b}": ratio(speeds, a, b) for a in mine for b in WAYS if b not in mine}
    medians = {f"trained tokens/s, {n}": statistics.median(s) for n, s in speeds.items()}
    return {**ratios, **medians}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = training_options(__doc__, rounds=1, steps=6, shapes=("tiny", "smollm2"))
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--count", action="store_true", help="count multiplications, time nothing")
    given = parsed(parser, argv)
    if given.quick:
        given.steps = WARM_UP + 2
    setting = Setting(given)
    found = counted(setting)
    if given.count:
        show(found, BARS)
    else:
        found |= compared(setting, given.rounds)
        write(given.out, "remix", found, BARS, **facts(given))


if __name__ == "__main__":
    main()
