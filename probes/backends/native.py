"""The native backend: the Hugging Face model itself, untouched.

Captures and edits are PyTorch hooks on its own modules; attention is taken over through
transformers' `AttentionInterface` where it is read or edited, and its entropies come from fused
kernels; a temperature leaves it fused. Any
forward pass of the model, ours or the user's, runs through what is attached.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from probes.anatomy import Anatomy, locate
from probes.attach import attached
from probes.attention_call import AttentionCall, SoftmaxCall
from probes.attention_interface import Handler, attention_taken_over, attention_transformed
from probes.attention_probe import attention_entropy
from probes.backends.engine import Hooks, TakeEntropies
from probes.checkpoint_files import refuse_unreadable
from probes.choices import Backend
from probes.scaling import TemperatureNow, dividing_calls, memory_vectors_scaled
from probes.sites import Site


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
