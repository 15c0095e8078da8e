"""Architectures: one row per model family saying where its parts are.

A row holds module paths: from the causal language model to its list of blocks, and from a block to
its parts. `probes.anatomy` follows them in a real model, or makes up a row for a family without
one; `probes.self_check` tests on the model that the parts play the part that the row gives them.
"""

from dataclasses import dataclass, replace
from typing import Any

from probes.shown import Shown
from probes.sites import Site


@dataclass(frozen=True, kw_only=True)
class Architecture(Shown):
    """The places of the parts of one model family; paths below `layers` start at a block."""

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
    """The module whose output is coefficients times memory vectors."""
    up: str = "mlp.up_proj"
    """The projection that a gate multiplies, or the only one where there is no gate."""
    gate: str | None = "mlp.gate_proj"
    """None where the MLP has no gate."""
    gate_up_fused: bool = False
    """Whether `gate` and `up` are the first and second half of one projection's output."""
    down: str = "mlp.down_proj"
    flattened_mlp: bool = False
    """Whether blocks run their MLP, and the norm before it, on `[batch*pos d_model]`."""
    mid: str | None = "post_attention_layernorm"
    """The module whose input is the residual stream between attention and MLP."""
    attention_out: str | None = "self_attn"
    """The module whose output attention adds to the residual stream; None where none is."""
    mlp_out: str | None = "mlp"
    """The module whose output the MLP adds to the residual stream; None where none is."""
    mlp_out_overwritten: bool = False
    """Whether the block then adds what attention adds to that output, in place."""
    activation: str | None = None
    """transformers' name for the MLP's activation, where the configuration has none."""
    recognised: bool = False
    """Whether the row was made up from a model's structure, rather than read from the table."""

    @property
    def gated(self) -> bool:
        """Whether the coefficients are a product of an activated gate and a linear half."""
        return self.gate is not None

    def lacks(self, site: Site) -> str | None:
        """Why models of the family have no such site; None where they do."""
        match site:
            case Site.MLP_GATE if not self.gated:
                return f"the MLP of {self.family} has no gate; its pre-activation is Site.MLP_UP"
            case Site.ATTENTION_OUT | Site.MLP_OUT | Site.RESID_MID if self.mlp_out is None:
                return (
                    f"{self.family} was recognised by its structure, and no module's output is "
                    f"what it adds to the stream; there is no {site}, read resid_pre or resid_post"
                )
            case Site.RESID_MID if self.mid is None:
                return (
                    f"{self.family} runs attention and MLP in parallel; "
                    "there is no resid_mid, read resid_pre or resid_post"
                )
        return None


_LLAMA = Architecture(
    family="llama",
    layers="model.layers",
    embed="model.embed_tokens",
    final_norm="model.norm",
)
# Norms after attention and after the MLP, none before them.
_OLMO2 = replace(
    _LLAMA,
    family="olmo2",
    mid="mlp",
    attention_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
# Norms on both sides.
_GEMMA2 = replace(_OLMO2, family="gemma2", mid="pre_feedforward_layernorm")
_PHI3 = replace(
    _LLAMA, family="phi3", up="mlp.gate_up_proj", gate="mlp.gate_up_proj", gate_up_fused=True
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
# The block itself is the MLP, and flattens what goes through it.
_OPT = Architecture(
    family="opt",
    layers="model.decoder.layers",
    embed="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    mlp="fc2",
    up="fc1",
    gate=None,
    down="fc2",
    flattened_mlp=True,
    mid="final_layer_norm",
    mlp_out="fc2",
)
# Attention and MLP in parallel, both on what one norm returns.
_GPTJ = replace(_GPT2, family="gptj", up="mlp.fc_in", down="mlp.fc_out", mid=None)
_FALCON = replace(
    _GPT_NEOX,
    family="falcon",
    layers="transformer.h",
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    attention="self_attention",
    attention_out="self_attention",
)
# Attention and MLP add the stream themselves, after their last projection.
_BLOOM = replace(
    _FALCON,
    family="bloom",
    mlp="mlp.dense_4h_to_h",
    mid="post_attention_layernorm",
    attention_out="self_attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    activation="gelu_pytorch_tanh",
)
_MPT = Architecture(
    family="mpt",
    layers="transformer.blocks",
    embed="transformer.wte",
    final_norm="transformer.norm_f",
    attention="attn",
    mlp="ffn.down_proj",
    up="ffn.up_proj",
    gate=None,
    down="ffn.down_proj",
    mid="norm_2",
    attention_out="attn",
    mlp_out="ffn.down_proj",
    activation="gelu",
)

ARCHITECTURES: dict[str, Architecture] = {
    row.family: row
    for row in (
        *(replace(_LLAMA, family=f) for f in ("llama", "mistral", "olmo", "qwen2", "qwen3")),
        *(replace(_OLMO2, family=f) for f in ("olmo2", "olmo3")),
        *(replace(_GEMMA2, family=f) for f in ("gemma2", "gemma3_text")),
        _PHI3,
        _GPT_NEOX,
        _GPT2,
        _OPT,
        replace(_GPT2, family="gpt_neo", attention="attn.attention"),
        *(replace(_GPTJ, family=f) for f in ("gptj", "codegen")),
        _FALCON,
        _BLOOM,
        _MPT,
    )
}


def row_of(config: Any) -> Architecture | None:
    """The table's row for a configuration, or None where its family has none."""
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        return None
    if row.family == "gpt_neox" and not config.use_parallel_residual:
        return replace(row, mid="post_attention_layernorm")
    if row.family == "falcon":
        if config.alibi and config._attn_implementation == "eager":
            raise ValueError(
                "transformers' eager attention adds Falcon's alibi twice, so this is not the model "
                "that was trained; load it with attn_implementation='sdpa', which is the default"
            )
        parallel = config.new_decoder_architecture or config.parallel_attn
        mid = None if parallel else "post_attention_layernorm"
        return replace(row, mid=mid, mlp_out_overwritten=parallel)
    if row.family != "opt":
        return row
    # OPT-350m norms the stream itself, and reads it out through a projection after the norm.
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        raise ValueError(
            "this OPT model norms the residual stream itself or has no final norm (do_layer_norm_"
            "before=False, as in OPT-350m); nothing is added to such a stream, so it is refused"
        )
    if config.word_embed_proj_dim != config.hidden_size:
        raise ValueError(
            f"this OPT model projects its stream from {config.hidden_size} to "
            f"{config.word_embed_proj_dim} after the final norm (word_embed_proj_dim, as in "
            "OPT-350m); such a readout is not supported"
        )
    return row
