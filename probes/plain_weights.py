"""Plain weights: can what a module computes with be read from its weights?

Hook points, memory vectors and edits read a weight as a matrix of floating numbers that is here.
Quantised weights are packed otherwise, and offloaded ones are elsewhere until a module runs.

Example:
    >>> import probes
    >>> refuse_unreadable(probes.load_model("smollm2-135m-instruct-q4").hf_model)  # doctest: +SKIP
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from probes.checkpoint_files import RefusedCheckpoint

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_PROJECTION = re.compile(r"Linear(4bit|8bitLt|_\w+)?$")


def refuse_unreadable(hf_model: Any) -> None:
    """Make sure that a model in memory has plain weights, and answers with named outputs.

    Raises:
        ValueError: it is quantised, its weights are elsewhere, or it answers with tuples.
    """
    name = type(hf_model).__name__
    refuse_quantised(hf_model.config, name)
    for key, weight in hf_model.named_parameters():
        if weight.device.type == "meta":
            raise ValueError(
                f"the weights of {name} are not in memory ({key} is on the meta device: offloaded, "
                "on disk or not loaded yet); load it whole, on one device"
            )
        if type(weight) not in (nn.Parameter, Tensor, DTensor) or weight.dtype not in _DTYPES:
            kind = type(weight).__name__
            raise _quantised(name, f"{key} is a {kind} of {weight.dtype}")
    for key, module in hf_model.named_modules():
        if _PROJECTION.search(type(module).__name__) and not _has_matrix(module):
            raise _quantised(name, f"{key} is a {type(module).__name__} without a weight matrix")
    if not hf_model.config.return_dict:
        raise ValueError(
            f"{name} answers with tuples (config.return_dict is False); set "
            "config.return_dict = True before wrapping it"
        )


def refuse_quantised(config: Any, name: str) -> None:
    """Make sure that a configuration announces no quantised weights.

    Raises:
        ValueError: it does.
    """
    for part in (config, getattr(config, "text_config", None)):
        settings = getattr(part, "quantization_config", None)
        if settings is None:
            continue
        values = settings if isinstance(settings, dict) else vars(settings)
        method = values.get("quant_method", "an unnamed method")
        raise _quantised(name, f"quantization_config says {getattr(method, 'value', method)}")


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dtype in _DTYPES


def _quantised(name: str, found: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(
        f"{name} is quantised ({found}), and packed weights can be neither read nor edited; load "
        "the model that is not, or dequantise it (model.dequantize()) and save that"
    )
