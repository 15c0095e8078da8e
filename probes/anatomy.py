"""Anatomy: the parts of one loaded model, module by module.

`locate` takes the row of the model's family, or one made up from its structure where the family
has none, and follows its paths.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.architectures import Architecture, row_of
from probes.projections import Structure, device_of, matrix_of, stored_type, width_in, width_out
from probes.recognition import recognise


@dataclass(frozen=True)
class Layer:
    """The modules of one block."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    up: nn.Module
    gate: nn.Module | None
    down: Any
    """A `Linear`, or GPT-2's `Conv1D`."""
    mid: nn.Module | None
    attention_out: nn.Module | None
    mlp_out: nn.Module | None

    @property
    def memory_vectors(self) -> Float[Tensor, "d_mlp d_model"]:
        """The rows that the coefficients weight: the down projection, one memory vector a row."""
        return matrix_of(self.down)


@dataclass(frozen=True)
class Anatomy:
    """The parts of one loaded model."""

    architecture: Architecture
    trunk: nn.Module
    """Embedding, blocks and final norm: the model without its unembedding."""
    embed: Any
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    unembed: Any
    logit_scale: float
    """What the unembedding's output is multiplied by."""
    logit_softcap: float | None
    """c in c * tanh(logits / c), where the family caps its logits."""
    d_model: int
    d_mlp: int
    n_heads: int

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return width_out(self.unembed)

    @property
    def n_tokens(self) -> int:
        """Number of token ids that the model reads."""
        held = (getattr(part, "weight", None) for part in self.embed.modules())
        return next(weight for weight in held if weight is not None).shape[0]

    @property
    def device(self) -> torch.device:
        """Where the token embedding lies, and token ids must go."""
        return device_of(self.embed)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return stored_type(self.layers[0].down)

    def structure(self, root: nn.Module) -> Structure:
        """The modules of a model that these parts were found in, as they are now."""
        own = (self.trunk, self.embed, self.final_norm, self.unembed)
        inside = (getattr(layer, f.name) for layer in self.layers for f in fields(Layer))
        return Structure(root, (*own, *inside))


Unwrap = Callable[[Any], Any]


def _as_it_is(module: Any) -> Any:
    return module


def locate(hf_model: Any, unwrap: Unwrap = _as_it_is) -> Anatomy:
    """Find the parts of a Hugging Face causal language model."""
    config = hf_model.config
    unembed = hf_model.get_output_embeddings()
    if unembed is None:
        raise ValueError(
            f"{type(hf_model).__name__} has no unembedding; "
            "load the causal language model (AutoModelForCausalLM), not its trunk"
        )
    row = row_of(config) or recognise(hf_model)
    layers = tuple(
        _layer(row, unwrap(block), unwrap) for block in _follow(hf_model, row.layers, unwrap)
    )
    _refuse_shared(row, layers)
    widths = sorted({width_in(layer.down) for layer in layers})
    if len(widths) != 1:
        raise ValueError(f"layers of {row.family} differ in d_mlp: found {widths}; one is needed")
    return Anatomy(
        architecture=row,
        trunk=_trunk(hf_model, row.layers),
        embed=_follow(hf_model, row.embed, unwrap),
        layers=layers,
        final_norm=_follow(hf_model, row.final_norm, unwrap),
        unembed=unwrap(unembed),
        logit_scale=_logit_scale(config),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        d_model=width_out(layers[0].down),
        d_mlp=widths[0],
        n_heads=config.num_attention_heads,
    )


def _refuse_shared(row: Architecture, layers: tuple[Layer, ...]) -> None:
    """Refuse a module that runs in two layers: a hook on it could not tell them apart."""
    seen: dict[int, int] = {}
    for number, layer in enumerate(layers):
        for part in fields(Layer):
            module = getattr(layer, part.name)
            other = number if module is None else seen.setdefault(id(module), number)
            if other != number:
                raise ValueError(
                    f"layers {other} and {number} of this {row.family} share one module ("
                    f"{part.name}), so hook points could not tell them apart; give each its own "
                    "(copy.deepcopy)"
                )


def _trunk(hf_model: Any, layers: str) -> Any:
    """The base model, or the part with the blocks where the model is its own base model."""
    if hf_model.base_model is not hf_model:
        return hf_model.base_model
    return getattr(hf_model, layers.partition(".")[0])


def _logit_scale(config: Any) -> float:
    """Cohere multiplies its logits by a constant, Granite divides them by one."""
    return getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 0) or 1)


def _layer(row: Architecture, block: nn.Module, unwrap: Unwrap) -> Layer:
    def part(path: str | None) -> Any:
        return None if path is None else _follow(block, path, unwrap)

    return Layer(
        block=block,
        attention=part(row.attention),
        mlp=part(row.mlp),
        up=part(row.up),
        gate=part(row.gate),
        down=part(row.down),
        mid=part(row.mid),
        attention_out=part(row.attention_out),
        mlp_out=part(row.mlp_out),
    )


def _follow(module: nn.Module, path: str, unwrap: Unwrap) -> Any:
    found = module
    for name in path.split("."):
        if not isinstance(getattr(found, name, None), nn.Module):
            raise ValueError(
                f"{type(module).__name__} has no module {path!r}; the architecture table does not "
                "fit this model, so it is refused"
            )
        found = unwrap(getattr(found, name))
    return found
