"""Architectures: one row per model family saying where its parts are.

A row holds module paths: from the causal language model to its list of blocks, and from a block to
its parts. `probes.anatomy` follows them in a real model, or makes up a row for a family without
one; `probes.running_model` tests on the model that the parts play the part that the row gives them.
"""

from dataclasses import dataclass, replace
from typing import Any

from probes.shown import Shown
from probes.sites import Site


@dataclass(frozen=True, kw_only=True)
class Architecture(Shown):
    """The places of the parts of one model family; paths below `layers` start at a block."""

    family: str  # the `model_type` of the Hugging Face configuration
    layers: str  # the list of blocks
    embed: str  # the token embedding
    final_norm: str  # the norm before the unembedding; its output is what the unembedding reads
    pos_embed: str | None = None
    """The embedding of positions; None where positions are rotary or alibi."""
    attention: str = "self_attn"
    q: str | None = "self_attn.q_proj"
    k: str | None = "self_attn.k_proj"
    v: str | None = "self_attn.v_proj"
    """Queries, keys and values; one module where its output holds all three. None where unknown."""
    qkv_order: str = "qkv"  # the order of the three in such an output
    qkv_groups: int | None = 1  # how often the three come there; None for once in each key head
    o: str | None = "self_attn.o_proj"  # the projection of all heads' values back to the stream
    ln1: str | None = "input_layernorm"
    """The norm that attention reads the stream through; None where it reads the stream itself."""
    ln2: str | None = "post_attention_layernorm"
    """The norm that the MLP reads the stream through; None where it has none of its own."""
    mlp: str = "mlp"  # the module whose output is coefficients times memory vectors
    up: str = "mlp.up_proj"
    """The projection that a gate multiplies, or the only one where there is no gate."""
    gate: str | None = "mlp.gate_proj"  # None where the MLP has no gate
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
            case Site.POS_EMBED if self.pos_embed is None:
                return (
                    f"{self.family} adds no embedding of positions to the stream (they are rotary, "
                    "or alibi), so there is no pos_embed"
                )
            case Site.LN1_SCALE | Site.LN1_NORMALIZED if self.ln1 is None:
                return f"the attention of {self.family} reads no norm of the stream: no ln1"
            case Site.LN2_SCALE | Site.LN2_NORMALIZED if self.ln2 is None:
                return f"the MLP of {self.family} reads no norm of its own: there is no ln2"
            case Site.ATTENTION_IN | Site.MLP_IN if self.ln2 is None and self.mid is None:
                return (
                    f"attention and MLP of {self.family} do not read the stream apart; "
                    f"there is no {site}, read or edit resid_pre"
                )
            case Site.QUERY | Site.KEY | Site.VALUE | Site.MIXED_VALUES | Site.HEAD_RESULTS:
                if self.q is None:
                    return (
                        f"{self.family} was recognised by its structure, and its attention has no "
                        f"q_proj, k_proj, v_proj and o_proj; there is no {site}"
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
    ln1=None,
    ln2=None,
    mid="mlp",
    attention_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
# Norms on both sides.
_GEMMA2 = replace(
    _OLMO2,
    family="gemma2",
    ln1="input_layernorm",
    ln2="pre_feedforward_layernorm",
    mid="pre_feedforward_layernorm",
)


def _fused(path: str) -> dict[str, Any]:
    return {"q": path, "k": path, "v": path}


_PHI3 = replace(
    _LLAMA,
    family="phi3",
    **_fused("self_attn.qkv_proj"),
    up="mlp.gate_up_proj",
    gate="mlp.gate_up_proj",
    gate_up_fused=True,
)
_GPT_NEOX = Architecture(
    family="gpt_neox",
    layers="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    **_fused("attention.query_key_value"),
    qkv_groups=None,
    o="attention.dense",
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
    pos_embed="transformer.wpe",
    attention="attn",
    **_fused("attn.c_attn"),
    o="attn.c_proj",
    ln1="ln_1",
    ln2="ln_2",
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
    pos_embed="model.decoder.embed_positions",
    o="self_attn.out_proj",
    ln1="self_attn_layer_norm",
    ln2="final_layer_norm",
    mlp="fc2",
    up="fc1",
    gate=None,
    down="fc2",
    flattened_mlp=True,
    mid="final_layer_norm",
    mlp_out="fc2",
)
# Attention and MLP in parallel, both on what one norm returns.
_GPTJ = replace(
    _GPT2,
    family="gptj",
    pos_embed=None,
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    o="attn.out_proj",
    ln2=None,
    up="mlp.fc_in",
    down="mlp.fc_out",
    mid=None,
)
# Its projection is laid out for four chips.
_CODEGEN = replace(
    _GPTJ, family="codegen", **_fused("attn.qkv_proj"), qkv_order="qvk", qkv_groups=4
)
_GPT_NEO = replace(
    _GPT2,
    family="gpt_neo",
    attention="attn.attention",
    q="attn.attention.q_proj",
    k="attn.attention.k_proj",
    v="attn.attention.v_proj",
    o="attn.attention.out_proj",
)
_FALCON = replace(
    _GPT_NEOX,
    family="falcon",
    layers="transformer.h",
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    attention="self_attention",
    **_fused("self_attention.query_key_value"),
    o="self_attention.dense",
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
    **_fused("attn.Wqkv"),
    o="attn.out_proj",
    ln1="norm_1",
    ln2="norm_2",
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
        _GPT_NEO,
        _GPTJ,
        _CODEGEN,
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
        return replace(row, **_falcon_norms(config, parallel), mlp_out_overwritten=parallel)
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


def _falcon_norms(config: Any, parallel: bool) -> dict[str, Any]:
    if not parallel:
        return {"mid": "post_attention_layernorm"}
    two = config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1
    ln1, ln2 = ("ln_attn", "ln_mlp") if two else ("input_layernorm", None)
    return {"mid": None, "ln1": ln1, "ln2": ln2}
