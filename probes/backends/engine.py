"""Engine: what a backend has to do, so that a hooked model works the same on all of them.

Hook points, what hooks receive and what they may return are those of `probes.sites`, whatever the
backend calls them: scores and pattern are float32 or wider, a masked score is -inf.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from probes.anatomy import Anatomy, locate
from probes.attach import (
    HookFunction,
    TemperatureNow,
    attached,
    dividing_calls,
    memory_vectors_scaled,
)
from probes.attention_call import AttentionCall, SoftmaxCall
from probes.attention_interface import Handler, attention_taken_over, attention_transformed
from probes.checkpoint_files import refuse_unreadable
from probes.choices import Backend
from probes.corpus.token_batch import TokenBatch
from probes.entropy import attention_entropy, entropy_of_scores
from probes.rotary import rope_border
from probes.sites import HookPoint, Site

Hooks = Sequence[tuple[HookPoint, HookFunction]]
TakeEntropies = Callable[[Float[Tensor, "batch head query_pos"], int], None]


@runtime_checkable
class Engine(Protocol):
    """Runs one model with functions attached to its hook points."""

    backend: Backend
    anatomy: Anatomy
    wrapped: Any
    """What runs: the Hugging Face model, a `TransformerBridge` or an nnsight model."""
    module: nn.Module
    """What has the training flags."""
    config: Any
    """The model's Hugging Face configuration."""

    def hugging_face(self) -> Any:
        """The Hugging Face model, to patch, train and save."""

    def locate_again(self) -> Anatomy:
        """The parts of the model, whose modules were replaced since."""

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name, as they are now."""

    def lacks(self, site: Site) -> str | None:
        """Why there is no such site; None where there is."""

    def attached(self, hooks: Hooks) -> AbstractContextManager[None]:
        """Attach functions for the length of a `with` block."""

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Hand over every layer's attention entropies, in nats, as it runs."""

    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> AbstractContextManager[None]:
        """Have memory vectors of some layers count so many times, after all hooks on them."""

    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureNow]
    ) -> AbstractContextManager[None]:
        """Divide the final attention scores of some layers, before all hooks on them."""

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block."""

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits."""


def taking_from_scores(take: TakeEntropies, n_layers: int) -> Hooks:
    """Hooks that turn captured attention scores into entropies."""

    def reduce(scores: Tensor, point: HookPoint) -> None:
        assert point.layer is not None
        take(entropy_of_scores(scores), point.layer)

    return [(HookPoint(Site.ATTENTION_SCORES, layer), reduce) for layer in range(n_layers)]


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


class NativeEngine:
    """Runs a `PreTrainedModel` as it is."""

    backend = Backend.NATIVE

    def __init__(self, hf_model: Any) -> None:
        self.wrapped = hf_model
        self.module = hf_model
        self.config = hf_model.config
        self.anatomy: Anatomy = locate(hf_model)

    def hugging_face(self) -> Any:
        """The Hugging Face model, to patch, train and save."""
        return self.module

    def locate_again(self) -> Anatomy:
        """The parts of the model, whose modules were replaced since."""
        refuse_unreadable(self.module)
        return locate(self.module)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name, as they are now."""
        return self.module.state_dict()

    def lacks(self, site: Site) -> str | None:
        """Why there is no such site; None where there is."""
        return self.anatomy.architecture.lacks(site)

    def attached(self, hooks: Hooks) -> AbstractContextManager[None]:
        """Attach functions for the length of a `with` block."""
        return attached(self.module, self.anatomy, hooks)

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Route every attention module through a handler that hands over its entropies."""

        def taking(layer: int) -> Handler:
            def handler(call: AttentionCall | SoftmaxCall) -> Tensor:
                take(attention_entropy(call), layer)
                return call.output()

            return handler

        modules = [layer.attention for layer in self.anatomy.layers]
        return attention_taken_over(self.module, {m: taking(i) for i, m in enumerate(modules)})

    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> AbstractContextManager[None]:
        """Multiply what the down projections receive, after all hooks on it."""
        return memory_vectors_scaled(self.anatomy.layers, multipliers)

    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureNow]
    ) -> AbstractContextManager[None]:
        """Change the attention calls of some layers; fused kernels keep serving them."""
        transforms = {
            self.anatomy.layers[layer].attention: dividing_calls(now)
            for layer, now in temperatures.items()
        }
        return attention_transformed(self.module, transforms)

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block; the unembedding is not computed."""
        return self.anatomy.trunk(**inputs, use_cache=False).last_hidden_state

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's own logits."""
        return self.module(**inputs, use_cache=False).logits
