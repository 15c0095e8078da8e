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
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.timing import THREADS

WARM_UP = 4
"""Steps at the beginning of a round that are not counted."""
BARS = {
    "ours / bare loop": "at most 1.03",
    "ours / HF Trainer": "at most 1.00 on two cores; on a GPU in bf16 at most 0.77 (goal 0.67)",
}


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model and its batches."""

    d_model: int
    layers: int
    heads: int
    d_mlp: int
    vocabulary: int
    rows: int
    row_length: int


SHAPES = {
    "tiny": Shape(192, 4, 6, 768, 4096, 32, 128),
    "smollm2": Shape(576, 30, 9, 1536, 49152, 16, 1024),
    "1b": Shape(2048, 16, 16, 8192, 50304, 16, 1024),
}


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common."""

    shape: Shape
    device: str
    precision: str
    compile: bool
    steps: int

    def model(self) -> Any:
        """A fresh model on the device, in float32."""
        import transformers

        torch.manual_seed(0)
        shape = self.shape
        config = transformers.LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.row_length,
            tie_word_embeddings=True,
        )
        return transformers.LlamaForCausalLM(config).to(self.device)

    def rows(self) -> np.ndarray:
        """Enough random rows for a round."""
        generator = np.random.default_rng(0)
        size = (self.shape.rows * self.steps, self.shape.row_length)
        return generator.integers(3, self.shape.vocabulary, size)

    def seconds(self, stamps: list[float]) -> float:
        """Median time from one update to the next."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        return statistics.median(gaps[WARM_UP:])


def stamp(setting: Setting) -> float:
    """Now, when the device has done what it was told."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bare_loop(setting: Setting) -> Callable[[], float]:
    """Forward, backward, clip, step."""
    hf_model = setting.model().train()
    rows = torch.from_numpy(setting.rows())
    optimizer = torch.optim.AdamW(
        hf_model.parameters(), lr=4e-4, betas=(0.9, 0.95), eps=1e-5, fused=True
    )
    dtype = {"fp32": None, "bf16": torch.bfloat16}[setting.precision]

    def run() -> float:
        stamps = []
        for step in range(setting.steps):
            start = step * setting.shape.rows
            ids = rows[start : start + setting.shape.rows].to(setting.device)
            with torch.autocast(setting.device, dtype, enabled=dtype is not None):
                logits = hf_model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(hf_model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stamps.append(stamp(setting))
        return setting.seconds(stamps)

    return run


class Stamps:
    """A stop rule that stops nothing, and notes down when it was asked."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.seen: list[float] = []

    def after(self, _record: Any, _batch: Any) -> None:
        self.seen.append(stamp(self._setting))

    def after_looking(self, _records: Any) -> None:
        """Nothing to say."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def ours(setting: Setting) -> Callable[[], float]:
    """`training.train`, with records, timing lines, and progress off the terminal."""
    import probes
    from training import LoopSettings, RowSource, RunDirectory, train

    model = probes.load_model(setting.model())
    source = RowSource(setting.rows(), setting.shape.rows)
    settings = LoopSettings(
        steps=setting.steps,
        batch_size=setting.shape.rows,
        precision=setting.precision,
        compile=setting.compile,
    )

    def run() -> float:
        stamps = Stamps(setting)
        with tempfile.TemporaryDirectory() as folder:
            directory = RunDirectory.create(folder, {"configuration": {}, "inputs": {}})
            train(model, source, settings, directory, stop=stamps, progress=False)
        return setting.seconds(stamps.seen)

    return run


def rival(setting: Setting) -> Callable[[], float]:
    """Hugging Face's Trainer, told to log, save and evaluate nothing."""
    import transformers
    from torch.utils.data import Dataset

    class Rows(Dataset[dict[str, torch.Tensor]]):
        def __init__(self) -> None:
            self.rows = torch.from_numpy(setting.rows())

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": self.rows[index], "labels": self.rows[index]}

    class Noting(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
            self.seen.append(stamp(setting))

    hf_model = setting.model()

    def run() -> float:
        noting = Noting()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=setting.steps,
                per_device_train_batch_size=setting.shape.rows,
                learning_rate=4e-4,
                adam_beta2=0.95,
                adam_epsilon=1e-5,
                weight_decay=0.1,
                max_grad_norm=1.0,
                optim="adamw_torch_fused",
                lr_scheduler_type="cosine",
                bf16=setting.precision == "bf16",
                use_cpu=setting.device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = transformers.Trainer(
                hf_model, arguments, train_dataset=Rows(), callbacks=[noting]
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return setting.seconds(noting.seen)

    return run


def compared(setting: Setting, rounds: int) -> dict[str, float]:
    """Seconds of a step of each, in turn, and their ratios within a round."""
    runs = {"bare loop": bare_loop(setting), "ours": ours(setting), "HF Trainer": rival(setting)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            found = run()
            if turn:
                seconds[name].append(found)
    tokens = setting.shape.rows * setting.shape.row_length

    def ratio(rival_name: str) -> float:
        pairs = zip(seconds["ours"], seconds[rival_name], strict=True)
        return statistics.median(mine / its for mine, its in pairs)

    speeds = {f"tokens/s, {n}": tokens / statistics.median(s) for n, s in seconds.items()}
    ratios = {f"ours / {name}": ratio(name) for name in ("bare loop", "HF Trainer")}
    return {**ratios, **speeds, **utilisation(setting, statistics.median(seconds["ours"]))}


def utilisation(setting: Setting, seconds: float) -> dict[str, float]:
    """Model FLOP utilisation, where the device's peak is known."""
    import probes
    from training.choices import Precision
    from training.progress import flops_per_token, peak_flops

    if setting.device != "cuda":
        return {}
    peak = peak_flops(torch.cuda.get_device_name(), Precision(setting.precision))
    if peak is None:
        return {}
    shape = setting.shape
    each = flops_per_token(probes.load_model(setting.model()), shape.row_length)
    return {
        "model FLOP utilisation": each * shape.rows * shape.row_length / seconds / peak,
        "peak memory, GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    setting = Setting(
        SHAPES[given.shape], given.device, given.precision, given.compile, given.steps
    )
    found = compared(setting, given.rounds)
    for name, value in found.items():
        print(f"{name:<32}{value:>12.4g}  {BARS.get(name, '')}")
    given.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if given.device == "cuda" else f"{THREADS} threads"
    report = {"device": device, "torch": torch.__version__, "results": found, "bars": BARS}
    settings = {k: v for k, v in vars(given).items() if k != "out"}
    text = json.dumps(report | {"settings": settings}, indent=2)
    (given.out / "training.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
