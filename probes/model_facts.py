"""Model facts: which model is this, what are its parts, and how large is it?

The part of `HookedModel` that only reads; all of it comes from what runs the model.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                # doctest: +SKIP
    >>> model.n_layers, model.d_mlp                                          # doctest: +SKIP
    (30, 1536)
"""

from typing import Any

import torch

from probes.anatomy import Anatomy
from probes.architectures import Architecture
from probes.backends.engine import Engine
from probes.choices import Backend
from probes.model_inputs import positions_of
from probes.rotary import set_frequencies
from probes.weights_hash import sha256_of


class ModelFacts:
    """What can be said of a model without running it.

    Attributes:
        engine: what runs it.
    """

    engine: Engine

    @property
    def hf_model(self) -> Any:
        """The Hugging Face `PreTrainedModel`, never altered by anything here.

        Raises:
            ValueError: the model runs through a TransformerBridge, which has rewritten it.
        """
        return self.engine.hugging_face()

    @property
    def backend(self) -> Backend:
        """What runs the model."""
        return self.engine.backend

    @property
    def wrapped(self) -> Any:
        """The backend's own: the Hugging Face model, `TransformerBridge` or nnsight model."""
        return self.engine.wrapped

    @property
    def anatomy(self) -> Anatomy:
        """Where the model's parts are; found and checked again where modules were replaced.

        Raises:
            ValueError: the model that it has become is refused.
        """
        self._keep_up()
        return self.engine.anatomy

    @property
    def architecture(self) -> Architecture:
        """The row of the architecture table that describes the model."""
        return self.anatomy.architecture

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return self.anatomy.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.d_model

    @property
    def d_mlp(self) -> int:
        """Number of memory vectors in a block."""
        return self.anatomy.d_mlp

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return self.anatomy.d_vocab

    @property
    def n_positions(self) -> int | None:
        """How many tokens a row may have; None where the configuration sets no limit."""
        return positions_of(self.engine.config)

    @property
    def device(self) -> torch.device:
        """Where the token embedding lies, and token ids must go."""
        return self.anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return self.anatomy.dtype

    def content_hash(self) -> str:
        """SHA-256 over the names and values of all parameters and buffers, as they are now.

        Of buffers that checkpoints do not hold, those are in it that a reload would not have.
        """
        self._keep_up()
        return sha256_of(self.engine.state_dict() | set_frequencies(self.engine.module))

    def _keep_up(self) -> None:
        """Notice what was done to the model since it was loaded."""
