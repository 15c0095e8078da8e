"""Engine: what a backend has to do, so that a hooked model works the same on all; the native one.

Hook points, what hooks receive and what they may return are those of `probes.sites`, whatever the
backend calls them: scores and pattern are float32 or wider, a masked score is -inf.

The native backend is the Hugging Face model itself, untouched: hooks on its own modules, and
transformers' `AttentionInterface` where attention is read or edited. Entropies come from fused
kernels, and a temperature leaves attention fused. Any forward pass of the model, ours or the
user's, runs through what is attached.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from probes.anatomy import Anatomy, locate
from probes.attach import TemperatureNow, attached, dividing_calls, memory_vectors_scaled
from probes.attention_interface import (
    AttentionCall,
    Handler,
    SoftmaxCall,
    attention_taken_over,
    attention_transformed,
)
from probes.checkpoint_files import refuse_unreadable
from probes.choices import Backend
from probes.corpus.token_batch import TokenBatch
from probes.entropy import attention_entropy, entropy_of_scores
from probes.places import Hooks
from probes.rotary import rope_border
from probes.sites import HookPoint, Site

TakeEntropies = Callable[[Float[Tensor, "batch head query_pos"], int], None]


class Engine(ABC):
    """Runs one model with functions attached to its hook points."""

    backend: Backend
    wrapped: Any  # what runs: the Hugging Face model, a `TransformerBridge` or an nnsight model
    module: Any  # the Hugging Face model in it, which has the training flags
    config: Any  # the model's Hugging Face configuration
    anatomy: Anatomy

    def hugging_face(self) -> Any:
        return self.module

    def locate_again(self) -> Anatomy:
        """The parts of the model, whose modules were replaced since."""
        # A wrapper has wrapped the modules that were there before.
        raise ValueError(
            f"modules of this model were replaced since {self.backend} has wrapped it; change the "
            "model first, and load it then"
        )

    def state_dict(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def lacks(self, site: Site) -> str | None:
        """Why there is no such site; None where there is."""
        row = self.anatomy.architecture
        if site in (Site.ROTATED_QUERY, Site.ROTATED_KEY):
            if getattr(self.config, "rope_parameters", None) is None:
                return f"positions of {row.family} are not rotary; read {site[8:]}, not {site}"
            if not self.module._can_set_attn_implementation():
                return (
                    f"the attention of {row.family} shows its scores alone, so its rotated queries "
                    f"and keys cannot be reached; read {site[8:]}"
                )
        return row.lacks(site)

    @abstractmethod
    def attached(self, hooks: Hooks) -> AbstractContextManager[None]:
        """Attach functions for the length of a `with` block."""

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Hand over every layer's attention entropies, in nats, as it runs."""
        return self.attached(self._reducing(Site.ATTENTION_SCORES, entropy_of_scores, take))

    def _reducing(
        self, site: Site, entropy: Callable[[Tensor], Tensor], take: TakeEntropies
    ) -> Hooks:
        """Hooks that turn what attention shows into entropies."""

        def reduce(shown: Tensor, point: HookPoint) -> None:
            assert point.layer is not None
            take(entropy(shown), point.layer)

        return [(HookPoint(site, layer), reduce) for layer in range(len(self.anatomy.layers))]

    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> AbstractContextManager[None]:
        """Have memory vectors of some layers count so many times, after all hooks on them."""
        layers = self.anatomy.layers
        return memory_vectors_scaled({layers[i].down: by for i, by in multipliers.items()})

    @abstractmethod
    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureNow]
    ) -> AbstractContextManager[None]:
        """Divide the final attention scores of some layers, before all hooks on them."""

    @abstractmethod
    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block."""

    @abstractmethod
    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits."""


class NativeEngine(Engine):
    """Runs a `PreTrainedModel` as it is."""

    backend = Backend.NATIVE

    def __init__(self, hf_model: Any) -> None:
        self.wrapped = self.module = hf_model
        self.config = hf_model.config
        self.anatomy = locate(hf_model)

    def locate_again(self) -> Anatomy:
        refuse_unreadable(self.module)
        return locate(self.module)

    def attached(self, hooks: Hooks) -> AbstractContextManager[None]:
        return attached(self.module, self.anatomy, hooks)

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        def taking(layer: int) -> Handler:
            def handler(call: AttentionCall | SoftmaxCall) -> Tensor:
                take(attention_entropy(call), layer)
                return call.output()

            return handler

        modules = [layer.attention for layer in self.anatomy.layers]
        return attention_taken_over(self.module, {m: taking(i) for i, m in enumerate(modules)})

    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureNow]
    ) -> AbstractContextManager[None]:
        transforms = {
            self.anatomy.layers[layer].attention: dividing_calls(now)
            for layer, now in temperatures.items()
        }
        return attention_transformed(self.module, transforms)

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        return self.anatomy.trunk(**inputs, use_cache=False).last_hidden_state

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.module(**inputs, use_cache=False).logits


def model_inputs(batch: TokenBatch, anatomy: Anatomy, config: Any, name: str) -> dict[str, Tensor]:
    """Keyword arguments for a forward pass, on the model's device."""
    device = anatomy.device
    ids = batch.input_ids.to(device)
    _check_ids(ids, anatomy.n_tokens, config, name)
    if bool(batch.attention_mask.all()):
        return {"input_ids": ids}
    mask = batch.attention_mask.to(device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    takes_positions = "position_ids" in inspect.signature(anatomy.trunk.forward).parameters
    if takes_positions and (rope_border(config) is not None or not bool(mask[:, 0].all())):
        # Left padding: learned positions would otherwise count the pads. And a row is as long as
        # its last position says.
        inputs["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp_min(0)
    return inputs


def positions_of(config: Any) -> int | None:
    """How many positions a model has; None where its configuration sets no limit."""
    return getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))


def _check_ids(ids: Int[Tensor, "batch pos"], vocabulary: int, config: Any, name: str) -> None:
    largest = int(ids.max())
    if largest >= vocabulary or int(ids.min()) < 0:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {largest}, but {name} has "
            f"{vocabulary} tokens; use the model's own tokenizer"
        )
    longest = positions_of(config)
    if longest is not None and ids.shape[1] > longest:
        raise ValueError(
            f"rows have {ids.shape[1]} tokens, but {name} has positions for {longest}; "
            "use a shorter sequence length"
        )
