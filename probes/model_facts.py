"""Facts of a model by TransformerLens's names: `model.cfg.n_heads` and the like."""

from dataclasses import dataclass
from typing import Any

import torch

from probes.checking import activation_name
from probes.norms import kind_of
from probes.running_model import RunningModel
from probes.sites import Site


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model is like; sizes are numbers of things."""

    model_name: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    n_key_value_heads: int | None
    """None where every query head has keys and values of its own."""
    d_mlp: int
    d_vocab: int
    n_ctx: int | None
    """How many tokens a row may have; None where the configuration sets no limit."""
    act_fn: str | None
    """transformers' name for the MLP's activation."""
    gated_mlp: bool
    parallel_attn_mlp: bool
    """Whether attention and MLP read the same stream."""
    normalization_type: str
    """`"LN"` or `"RMS"`."""
    eps: float
    positional_embedding_type: str
    """`"standard"` (learned), `"rotary"` or `"alibi"`."""
    dtype: torch.dtype
    device: str


def facts_of(model: RunningModel) -> ModelFacts:
    """The facts of a model."""
    anatomy, config = model.anatomy, model.engine.config
    norm = kind_of(anatomy.final_norm, anatomy.d_model)
    grouped = anatomy.n_key_value_heads != anatomy.n_heads
    return ModelFacts(
        model_name=model.name,
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        d_head=anatomy.d_head,
        n_key_value_heads=anatomy.n_key_value_heads if grouped else None,
        d_mlp=model.d_mlp,
        d_vocab=model.d_vocab,
        n_ctx=model.n_positions,
        act_fn=activation_name(config, anatomy.architecture.activation),
        gated_mlp=anatomy.architecture.gated,
        parallel_attn_mlp=anatomy.architecture.mid is None,
        normalization_type="LN" if norm.centred else "RMS",
        eps=norm.eps,
        positional_embedding_type=_positions(model, config),
        dtype=model.dtype,
        device=str(model.device),
    )


def _positions(model: RunningModel, config: Any) -> str:
    if not model.lacks(Site.POS_EMBED):
        return "standard"
    alibi = getattr(config, "alibi", None) or config.model_type in ("bloom", "mpt")
    return "alibi" if alibi else "rotary"
