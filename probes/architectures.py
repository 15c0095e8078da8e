"""Architectures: one row per model family saying where its parts are.

A row holds module paths: from the causal language model to its list of blocks, and from a block to
its parts. `locate` follows them in a real model and returns its `Anatomy`: the modules
themselves, layer by layer. Whether they really play the part that the row gives them is tested on
the model when it is loaded (`probes.self_check`), not taken on trust.

The MLP coefficients are the input of the down projection in every family. `mid` is where the
residual stream between attention and MLP can be read, as a module's input; families whose blocks
run attention and MLP in parallel have no such place.

Example:
    >>> ARCHITECTURES["llama"].down
    'mlp.down_proj'
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Where one model family keeps its parts; paths below `layers` start at a block."""

    family: str
    """The `model_type` of the Hugging Face configuration."""
    layers: str
    """The list of blocks."""
    embed: str
    """The token embedding."""
    final_norm: str
    """The norm before the unembedding; its output is what the unembedding reads."""
    attention: str = "self_attn"
    mlp: str = "mlp"
    up: str = "mlp.up_proj"
    """The projection that a gate multiplies, or the only one where there is no gate."""
    gate: str | None = "mlp.gate_proj"
    """None where the MLP has no gate."""
    gate_up_fused: bool = False
    """Whether `gate` and `up` are the first and second half of one projection's output."""
    down: str = "mlp.down_proj"
    mid: str | None = "post_attention_layernorm"
    """The module whose input is the residual stream between attention and MLP."""
    attention_out: str = "self_attn"
    """The module whose output attention adds to the residual stream."""
    mlp_out: str = "mlp"
    """The module whose output the MLP adds to the residual stream."""

    @property
    def gated(self) -> bool:
        """Whether the coefficients are a product of an activated gate and a linear half."""
        return self.gate is not None


_LLAMA = Architecture(
    family="llama",
    layers="model.layers",
    embed="model.embed_tokens",
    final_norm="model.norm",
)
_GPT_NEOX = Architecture(
    family="gpt_neox",
    layers="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    up="mlp.dense_h_to_4h",
    gate=None,
    down="mlp.dense_4h_to_h",
    mid=None,
    attention_out="attention",
)
_GPT2 = Architecture(
    family="gpt2",
    layers="transformer.h",
    embed="transformer.wte",
    final_norm="transformer.ln_f",
    attention="attn",
    up="mlp.c_fc",
    gate=None,
    down="mlp.c_proj",
    mid="ln_2",
    attention_out="attn",
)

ARCHITECTURES: dict[str, Architecture] = {
    row.family: row for row in (_LLAMA, replace(_LLAMA, family="olmo"), _GPT_NEOX, _GPT2)
}


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
    attention_out: nn.Module
    mlp_out: nn.Module

    @property
    def memory_vectors(self) -> Float[Tensor, "d_mlp d_model"]:
        """The rows that the coefficients weight: the down projection, one memory vector a row."""
        weight = self.down.weight
        # A GPT-2 Conv1D stores [in, out]; a Linear stores [out, in].
        return weight if _is_conv1d(self.down) else weight.T


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
    d_mlp: int
    n_heads: int


def locate(hf_model: Any) -> Anatomy:
    """Find the parts of a Hugging Face causal language model.

    Args:
        hf_model: a `PreTrainedModel` with a language-modelling head.

    Returns:
        Its anatomy.

    Raises:
        ValueError: the family is not in the table, the model has no unembedding, a module of the
            row is missing, or layers differ in width.
    """
    config = hf_model.config
    row = _row_of(config)
    unembed = hf_model.get_output_embeddings()
    if unembed is None:
        raise ValueError(
            f"{type(hf_model).__name__} has no unembedding; "
            "load the causal language model (AutoModelForCausalLM), not its trunk"
        )
    layers = tuple(_layer(row, block) for block in _follow(hf_model, row.layers))
    widths = sorted({layer.memory_vectors.shape[0] for layer in layers})
    if len(widths) != 1:
        raise ValueError(f"layers of {row.family} differ in d_mlp: found {widths}; one is needed")
    return Anatomy(
        architecture=row,
        trunk=hf_model.base_model,
        embed=_follow(hf_model, row.embed),
        layers=layers,
        final_norm=_follow(hf_model, row.final_norm),
        unembed=unembed,
        logit_scale=_logit_scale(config),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        d_mlp=widths[0],
        n_heads=config.num_attention_heads,
    )


def _row_of(config: Any) -> Architecture:
    found = config.model_type
    if found not in ARCHITECTURES:
        raise ValueError(
            f"model family {found!r} is not known here; known are {', '.join(ARCHITECTURES)}; "
            "add a row to probes/architectures.py"
        )
    row = ARCHITECTURES[found]
    if found == "gpt_neox" and not config.use_parallel_residual:
        return replace(row, mid="post_attention_layernorm")
    return row


def _logit_scale(config: Any) -> float:
    """Cohere multiplies its logits by a constant, Granite divides them by one."""
    return getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 0) or 1)


def _layer(row: Architecture, block: nn.Module) -> Layer:
    def part(path: str | None) -> nn.Module | None:
        return None if path is None else _follow(block, path)

    return Layer(
        block=block,
        attention=_follow(block, row.attention),
        mlp=_follow(block, row.mlp),
        up=_follow(block, row.up),
        gate=part(row.gate),
        down=_follow(block, row.down),
        mid=part(row.mid),
        attention_out=_follow(block, row.attention_out),
        mlp_out=_follow(block, row.mlp_out),
    )


def _follow(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"{type(module).__name__} has no module {path!r}; the architecture table does not fit "
            "this model (a mixture of experts has no single down projection and is not supported)"
        ) from error


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"
