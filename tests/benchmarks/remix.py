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
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.timing import THREADS

WARM_UP = 2
"""Steps at the beginning of a round that are not counted."""
POSITIONS = 2048
"""What the models take at most."""
BARS = {
    "packed / Trainer, data set": "at least 2.50",
    "packed / Trainer, batch": "at least 1.20",
}
GENERIC = (("general", 3400, None), ("biomedical", 600, 1))
"""Where 4,000 passages can be had offline: how many of which corpus, how many of a document."""


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model."""

    d_model: int
    layers: int
    heads: int
    d_mlp: int


SHAPES = {"tiny": Shape(192, 4, 6, 768), "smollm2": Shape(576, 30, 9, 1536)}


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

    shape: Shape
    device: str
    precision: str
    compile: bool
    steps: int
    batch_size: int
    pairs: int

    @cached_property
    def tokenizer(self) -> Any:
        """The built-in model's."""
        import probes

        return probes.load_model("smollm2-135m-instruct-q4").tokenizer

    @cached_property
    def examples(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Pairs and passages as tokens."""
        from training.data.conversations import factoid_conversations
        from training.data.factoid_sources import load_factoids
        from training.data.mixes import generic_passages
        from training.data.rendering import render_all

        texts = [
            passage
            for corpus, count, per_document in GENERIC
            for passage in generic_passages(corpus, count, seed=0, per_document=per_document)
        ]
        pairs = factoid_conversations(load_factoids("kvr", limit=self.pairs))
        own, mix = (render_all(g, self.tokenizer) for g in (pairs, texts[: 2 * self.pairs]))
        assert len(mix) == 2 * len(own)
        return own, mix

    def source(self, packing: str) -> Any:
        """Our batches."""
        from training.data.mixed_batches import MixedSource

        return MixedSource(
            *self.examples, batch_size=self.batch_size, packing=packing, positions=POSITIONS
        )

    @cached_property
    def batches(self) -> list[list[Any]]:
        """The examples of each step, the same for all."""
        source, pool = self.source("packed"), [*self.examples[0], *self.examples[1]]
        return [[pool[i] for i in source.examples_at(step)] for step in range(self.steps)]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest example of the data set."""
        return max(len(example.input_ids) for group in self.examples for example in group)

    def model(self) -> Any:
        """A fresh model on the device, in float32."""
        import transformers

        torch.manual_seed(0)
        shape = self.shape
        config = transformers.LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=shape.d_model,
            intermediate_size=shape.d_mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
        )
        return transformers.LlamaForCausalLM(config).to(self.device)

    def speed(self, stamps: Sequence[float]) -> float:
        """Trained tokens in a second, over the steps that count."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        tokens = [sum(e.trained_tokens for e in batch) for batch in self.batches[1:]]
        assert len(gaps) == len(tokens)
        return sum(tokens[WARM_UP:]) / sum(gaps[WARM_UP:])


def stamp(setting: Setting) -> float:
    """Now, when the device has done what it was told."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Stamps:
    """A stop rule that stops nothing, and notes down when it was asked."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.seen: list[float] = []

    def after(self, _record: Any, _batch: Any) -> None:
        self.seen.append(stamp(self._setting))

    def after_looking(self, _records: Any) -> None:
        """Nothing is looked at."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def ours(setting: Setting, way: Rows) -> Callable[[], float]:
    """`training.train` on mixed batches."""
    import probes
    from training import LoopSettings, OptimizerSettings, RunDirectory, train

    model = probes.load_model(setting.model())
    assert way.packing is not None
    source = setting.source(way.packing)
    settings = LoopSettings(
        steps=setting.steps,
        batch_size=setting.batch_size,
        micro_batch_size=way.micro_batch_size,
        optimizer=OptimizerSettings(learning_rate=5e-5, eps=1e-8, weight_decay=0.0),
        precision=setting.precision,
        compile=setting.compile,
    )

    def run() -> float:
        stamps = Stamps(setting)
        with tempfile.TemporaryDirectory() as folder:
            directory = RunDirectory.create(folder, {"configuration": {}, "inputs": {}})
            train(model, source, settings, directory, stop=stamps, progress=False)
        return setting.speed(stamps.seen)

    return run


def rival(setting: Setting, way: Rows) -> Callable[[], float]:
    """Hugging Face's Trainer, told to log, save and evaluate nothing."""
    import transformers
    from torch.utils.data import Dataset, SequentialSampler

    class Examples(Dataset[dict[str, list[int]]]):
        def __init__(self) -> None:
            self.rows = [features(example) for batch in setting.batches for example in batch]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, list[int]]:
            return self.rows[index]

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_arguments: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Noting(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
            self.seen.append(stamp(setting))

    tokenizer = setting.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    collate = transformers.DataCollatorForSeq2Seq(
        tokenizer,
        padding="max_length" if way.whole else "longest",
        max_length=setting.longest,
        label_pad_token_id=-100,
    )
    hf_model = setting.model()

    def run() -> float:
        noting = Noting()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=setting.steps,
                per_device_train_batch_size=setting.batch_size,
                learning_rate=5e-5,
                adam_beta2=0.95,
                adam_epsilon=1e-8,
                weight_decay=0.0,
                max_grad_norm=1.0,
                optim="adamw_torch_fused",
                lr_scheduler_type="cosine",
                bf16=setting.precision == "bf16",
                torch_compile=setting.compile,
                use_cpu=setting.device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = InOrder(
                hf_model,
                arguments,
                data_collator=collate,
                train_dataset=Examples(),
                callbacks=[noting],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return setting.speed(noting.seen)

    return run


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
    shape, vocabulary = setting.shape, len(setting.tokenizer)
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
    pieces = (source.batch(step).cut(way.micro_batch_size) for step in range(setting.steps))
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
    readout = len(setting.tokenizer) * setting.shape.d_model / 1e9
    return {
        **gains,
        "share of places that is trained": trained / places,
        "share of multiplications that reads out the others": (places - trained)
        * readout
        / found["packed"],
    }


def compared(setting: Setting, rounds: int) -> dict[str, float]:
    """Trained tokens in a second of each, in turn, and their ratios within a round."""
    runs = {
        name: (rival if way.packing is None else ours)(setting, way) for name, way in WAYS.items()
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            found = run()
            if turn:
                speeds[name].append(found)

    def ratio(mine: str, its: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[mine], speeds[its], strict=True))

    names = [(mine, its) for mine in WAYS for its in WAYS if WAYS[mine].packing]
    ratios = {f"{a} / {b}": ratio(a, b) for a, b in names if WAYS[b].packing is None}
    medians = {f"trained tokens/s, {n}": statistics.median(s) for n, s in speeds.items()}
    return {**ratios, **medians}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--count", action="store_true", help="count multiplications, time nothing")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    setting = Setting(
        SHAPES[given.shape],
        given.device,
        given.precision,
        given.compile,
        given.steps,
        given.batch_size,
        given.pairs,
    )
    found = counted(setting)
    if not given.count:
        found |= compared(setting, given.rounds)
    for name, value in found.items():
        print(f"{name:<52}{value:>12.4g}  {BARS.get(name, '')}")
    if given.count:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if given.device == "cuda" else f"{THREADS} threads"
    report = {"device": device, "torch": torch.__version__, "results": found, "bars": BARS}
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "count")}
    text = json.dumps(report | {"settings": settings}, indent=2)
    (given.out / "remix.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
