"""Throughput: how fast a run is, and what share of a GPU's arithmetic it uses.

A token costs 6 N + 12 L d T floating-point operations, forward and backward: N weights of matrix
multiplications (embeddings are looked up and do not count, the unembedding does), and attention
over rows of T tokens in L layers of width d = heads x d_head (causal masks are not deducted). What
gradient checkpointing computes again is not counted: the utilisation is the model's, not the
hardware's.

Source: Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B; peaks from NVIDIA's data sheets,
dense.

Example:
    >>> peak_flops("NVIDIA H100 80GB HBM3", Precision.BF16)
    989400000000000.0
"""

import resource
import sys

import torch

from probes.hooked_model import HookedModel
from training.batches import TrainingBatch
from training.choices import Precision

_TERA = 1e12
_HALF_PRECISION_PEAKS = {
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""In 10^12 operations a second; the first name that a device's contains counts."""


def flops_per_token(model: HookedModel, row_length: int) -> int:
    """Floating-point operations that one token costs in training.

    Args:
        model: the model.
        row_length: tokens of a row.
    """
    hf_model = model.hf_model
    embeddings = (part for part in hf_model.modules() if isinstance(part, torch.nn.Embedding))
    looked_up = {id(part.weight) for part in embeddings}
    looked_up.discard(id(model.anatomy.unembed.weight))
    weights = sum(
        p.numel() for p in hf_model.parameters() if p.ndim >= 2 and id(p) not in looked_up
    )
    width = model.n_heads * _head_width(model)
    return 6 * weights + 12 * model.n_layers * width * row_length


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Floating-point operations that a device can do in a second; None where it is not known."""
    if precision is Precision.FP32:
        return None
    known = (peak for name, peak in _HALF_PRECISION_PEAKS.items() if name in device_name)
    peak = next(known, None)
    return None if peak is None else peak * _TERA


def memory_bytes(device: torch.device) -> int:
    """The most memory that was held so far: on a GPU by tensors, otherwise by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


class Throughput:
    """Tokens a second and model FLOP utilisation of a run.

    Args:
        model: what is trained.
        precision: what it computes in.
        processes: how many share the work, each on a device of its own.
    """

    def __init__(self, model: HookedModel, precision: Precision, processes: int) -> None:
        self._model = model
        self._device = model.device
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        peak = peak_flops(name, precision)
        self._peak = None if peak is None else peak * processes
        self._flops: dict[int, int] = {}

    def of_step(self, batch: TrainingBatch, seconds: float) -> dict[str, float]:
        """What a step gave.

        Args:
            batch: the global one.
            seconds: that the step took.

        Returns:
            `seconds`, `tokens_per_second` (pads count), `memory_bytes`, and where the device's peak
            is known `flop_utilisation`, from 0 to 1.
        """
        rows, length = batch.input_ids.shape
        speed = rows * length / seconds
        found = {
            "seconds": seconds,
            "tokens_per_second": speed,
            "memory_bytes": float(memory_bytes(self._device)),
        }
        if self._peak is not None:
            found["flop_utilisation"] = speed * self._flops_per_token(length) / self._peak
        return found

    def _flops_per_token(self, row_length: int) -> int:
        if row_length not in self._flops:
            self._flops[row_length] = flops_per_token(self._model, row_length)
        return self._flops[row_length]


def _head_width(model: HookedModel) -> int:
    config = model.hf_model.config
    return getattr(config, "head_dim", None) or model.d_model // model.n_heads
