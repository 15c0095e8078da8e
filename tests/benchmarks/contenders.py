"""Who trains in the benchmarks of training: our loop and Hugging Face's Trainer.

Each is a function that trains for some steps and gives the times at which its updates were done.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.utils.data import SequentialSampler

import probes
from tests.benchmarks.timing import options
from training import RunDirectory, train


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model."""

    d_model: int
    layers: int
    heads: int
    d_mlp: int


SHAPES = {
    "tiny": Shape(192, 4, 6, 768),
    "smollm2": Shape(576, 30, 9, 1536),
    "1b": Shape(2048, 16, 16, 8192),
}
Stamps = Callable[[], list[float]]


def llama(shape: Shape, vocabulary: int, positions: int, device: str) -> Any:
    """A fresh model on the device, in float32."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).to(device)


def stamp(device: str) -> float:
    """Now, when the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class _Noting:
    """A stop rule that stops nothing, and notes down when it was asked."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seen: list[float] = []

    def after(self, _record: Any, _batch: Any) -> None:
        self.seen.append(stamp(self._device))

    def after_looking(self, _records: Any) -> None:
        """Nothing to say."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def ours(hf_model: Any, source: Any, settings: Any, device: str) -> Stamps:
    """`training.train`, with records, timing lines, and progress off the terminal."""
    model = probes.load_model(hf_model)

    def run() -> list[float]:
        noting = _Noting(device)
        with tempfile.TemporaryDirectory() as folder:
            directory = RunDirectory.create(folder, {"configuration": {}, "inputs": {}})
            train(model, source, settings, directory, stop=noting, progress=False)
        return noting.seen

    return run


def trainer(
    hf_model: Any, rows: Any, device: str, precision: str, *, collate: Any = None, **settings: Any
) -> Stamps:
    """Hugging Face's Trainer on rows in their order, told to log, save and evaluate nothing."""

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_arguments: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Noting(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
            self.seen.append(stamp(device))

    def run() -> list[float]:
        noting = Noting()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                adam_beta2=0.95,
                max_grad_norm=1.0,
                optim="adamw_torch_fused",
                lr_scheduler_type="cosine",
                bf16=precision == "bf16",
                use_cpu=device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **settings,
            )
            made = InOrder(
                hf_model, arguments, data_collator=collate, train_dataset=rows, callbacks=[noting]
            )
            made.remove_callback(transformers.PrinterCallback)
            made.train()
        return noting.seen

    return run


def training_options(
    description: str | None, *, rounds: int, steps: int, shapes: tuple[str, ...]
) -> argparse.ArgumentParser:
    """The options of both."""
    parser = options(description, rounds=rounds, quick=1)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--shape", choices=shapes, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    return parser


def facts(given: argparse.Namespace) -> dict[str, Any]:
    """Where it was measured, and with which settings, for the file."""
    device = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "count")}
    return {"device": device, "settings": settings}
