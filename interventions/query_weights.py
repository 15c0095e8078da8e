"""Query weights: divide a layer's attention scores by a temperature, through its weights.

Scores are linear in the query, and rotations of it commute with a scale, so the projection that
makes the query (weight and bias) divided by T has them divided by T. Where the query is normed
afterwards (QK-norm), a scale before the norm is lost, and the norm's weight is divided instead.

Weights cannot express it where scores pass through something that is not linear: soft-capped ones,
projections that are clipped, alibi, or single heads of a norm that all heads share.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")          # doctest: +SKIP
    >>> [c.parameter for c in query_changes(model, 0, 2.0)]            # doctest: +SKIP
    ['model.layers.0.self_attn.q_proj.weight']
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interventions.edit_forms import WeightChange
from interventions.mlp_rows import name_and_layout
from probes.hooked_model import HookedModel
from probes.projections import width_out

_SEPARATE = ("llama", "mistral", "olmo", "qwen2", "gemma2", "opt", "gptj", "gpt_neo")
_NORM_OVER_HEADS = ("olmo2", "olmo3")
_SHARED_NORM = ("qwen3", "gemma3_text")
_FUSED = ("phi3", "gpt2", "gpt_neox", "codegen", "falcon")
_ALIBI = ("bloom", "mpt")
# CodeGen's weights lie as they were shared out over four chips.
_CODEGEN_PARTS = 4
# Their norms multiply by one plus the weight.
_NORM_PLUS_ONE = ("gemma3_text",)


def query_changes(
    model: HookedModel, layer: int, temperature: float | Float[Tensor, "head"]
) -> list[WeightChange]:
    """Divide the attention scores of a layer by a temperature, or by one for each query head.

    Args:
        model: the model.
        layer: which layer.
        temperature: what to divide by.

    Raises:
        ValueError: weights cannot express it, or it is not known where the family's queries are.
    """
    family = model.architecture.family
    _refuse_inexpressible(model, family)
    attention: Any = model.anatomy.layers[layer].attention
    per_head = torch.as_tensor(temperature, dtype=torch.float64).expand(model.n_heads).cpu()
    name = next(n for n, m in model.hf_model.named_modules() if m is attention)
    if family in _SHARED_NORM:
        return [_shared_norm(name, layer, family, per_head)]
    if family in _NORM_OVER_HEADS:
        width = attention.q_norm.weight.shape[0]
        return [WeightChange(f"{name}.q_norm.weight", 0, None, _over(_repeated(per_head, width)))]
    projection, rows = _queries_of(family, attention, model.n_heads)
    return _projection(model, projection, rows, _repeated(per_head, len(rows)))


def _refuse_inexpressible(model: HookedModel, family: str) -> None:
    config = model.engine.config
    if family in _ALIBI or (family == "falcon" and config.alibi):
        raise ValueError(
            f"this {family} adds alibi to the products of queries and keys, and a temperature "
            "divides both, which no weights of the query do; use the attention temperature as a "
            "hook"
        )
    known = (*_SEPARATE, *_NORM_OVER_HEADS, *_SHARED_NORM, *_FUSED)
    if model.architecture.recognised or family not in known:
        raise ValueError(
            f"it is not known where {family} keeps its queries, so an attention temperature cannot "
            f"be patched into its weights; use it as a hook (the patch knows {', '.join(known)})"
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ValueError(
            f"{family} caps its attention scores after the queries (attn_logit_softcapping="
            f"{config.attn_logit_softcapping}), so no weights divide the capped scores; use the "
            "attention temperature as a hook"
        )
    if getattr(config, "clip_qkv", None) is not None:
        raise ValueError(
            f"this {family} clips its queries (clip_qkv={config.clip_qkv}), so scaling their "
            "weights does not scale them; use the attention temperature as a hook"
        )


def _queries_of(family: str, attention: Any, n_heads: int) -> tuple[Any, Int64[Tensor, "n"]]:
    """The projection that makes the queries, and which of its outputs they are, head by head."""
    if family in _SEPARATE:
        return attention.q_proj, torch.arange(width_out(attention.q_proj))
    if family == "phi3":
        return attention.qkv_proj, torch.arange(n_heads * attention.head_dim)
    if family == "gpt2":
        # A Conv1D, whose outputs are columns; all queries come first.
        return attention.c_attn, torch.arange(width_out(attention.c_attn) // 3)
    if family == "codegen":
        # Query, value and key of a part.
        rows = torch.arange(width_out(attention.qkv_proj))
        return attention.qkv_proj, rows.view(_CODEGEN_PARTS, 3, -1)[:, 0].flatten()
    # Queries, key and value of the heads that share a key; without sharing those of each head.
    groups = attention.num_kv_heads if family == "falcon" else n_heads
    rows = torch.arange(width_out(attention.query_key_value))
    of_groups = rows.view(groups, n_heads // groups + 2, -1)[:, :-2]
    return attention.query_key_value, of_groups.flatten()


def _projection(
    model: HookedModel, module: Any, rows: Int64[Tensor, "n"], by: Float[Tensor, "n"]
) -> list[WeightChange]:
    name, conv1d = name_and_layout(model, module)
    axis, of_rows = (1, by) if conv1d else (0, by[:, None])
    changes = [WeightChange(f"{name}.weight", axis, rows, _over(of_rows))]
    if module.bias is not None:
        changes.append(WeightChange(f"{name}.bias", 0, rows, _over(by)))
    return changes


def _shared_norm(
    name: str, layer: int, family: str, per_head: Float[Tensor, "head"]
) -> WeightChange:
    if len(per_head.unique()) > 1:
        raise ValueError(
            f"all heads of a layer of {family} share one query norm, so weights cannot give those "
            f"of layer {layer} temperatures of their own; pass one per layer, or use hooks"
        )
    by = per_head[0]
    if family not in _NORM_PLUS_ONE:
        return WeightChange(f"{name}.q_norm.weight", 0, None, _over(by))
    return WeightChange(
        f"{name}.q_norm.weight", 0, None, lambda w: (1 + w) / by.to(w.device, w.dtype) - 1
    )


def _repeated(per_head: Float[Tensor, "head"], width: int) -> Float[Tensor, "n"]:
    """One for every row, the rows of a head lying together."""
    return per_head.repeat_interleave(width // len(per_head))


def _over(by: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: values / by.to(values.device, values.dtype)
