"""Adapters (LoRA): train a low-rank change of every projection, and leave the weights alone.

A projection W computes with W + (alpha / rank) B A, of which A and B are trained alone (`peft`
makes them). A checkpoint is an ordinary folder with the change merged into the weights, and
`adapter/` in it holds A and B as peft has them.

Source: Hu et al., ICLR 2022; all projections and alpha = 2 rank by Biderman et al., TMLR 2024.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.hooked_model import HookedModel
from probes.model_folder import ordinary_weights
from probes.projections import is_conv1d, is_plain
from training.settings import LoopSettings

ADAPTER_FOLDER = "adapter"
_NAME = "default"


def is_adapted(hf_model: Any) -> bool:
    """Whether a model has adapters that are trained in its stead."""
    return hasattr(hf_model, "peft_config")


def add_adapters(model: HookedModel, settings: LoopSettings) -> None:
    """Put adapters around all projections of the blocks, and freeze everything else; in place."""
    if settings.lora_rank is None:
        return
    if find_spec("peft") is None:
        raise ValueError(
            "adapters need peft, which is not installed; it is an extra: pip install "
            "'mnemoscope[lora]'"
        )
    from peft import LoraConfig, inject_adapter_in_model

    hf_model, rank = model.hf_model, settings.lora_rank
    alpha = 2 * rank if settings.lora_alpha is None else settings.lora_alpha
    state = torch.get_rng_state()
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=_projections(model),
        fan_in_fan_out=is_conv1d(model.anatomy.layers[0].down),
    )
    try:
        inject_adapter_in_model(config, hf_model, adapter_name=_NAME)
    finally:
        torch.set_rng_state(state)
    hf_model.peft_config = {_NAME: config}


def _projections(model: HookedModel) -> list[str]:
    inside = {id(part) for layer in model.anatomy.layers for part in layer.block.modules()}
    named = model.hf_model.named_modules()
    return [name for name, part in named if id(part) in inside and is_plain(part)]


def merged_weights(hf_model: Any) -> dict[str, Tensor]:
    """The weights that an adapted model computes with, by the names that its class gives them."""
    return {name: weight.detach() for name, weight in ordinary_weights(hf_model).items()}


def save_adapters(hf_model: Any, folder: Path) -> None:
    """Write the adapters as peft has them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    target = folder / ADAPTER_FOLDER
    target.mkdir()
    state = get_peft_model_state_dict(hf_model, adapter_name=_NAME)
    # As peft names them in a file, where the model stands inside another.
    named = {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(named, target / "adapter_model.safetensors", metadata={"format": "pt"})
    hf_model.peft_config[_NAME].save_pretrained(str(target))


def load_adapters(hf_model: Any, folder: Path) -> None:
    """Put the adapters of a checkpoint into a model that has such."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / ADAPTER_FOLDER / "adapter_model.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no adapters; restore {ADAPTER_FOLDER}/, or begin again")
    state = {k.removeprefix("base_model.model."): v for k, v in load_file(path).items()}
    set_peft_model_state_dict(hf_model, state, adapter_name=_NAME)
