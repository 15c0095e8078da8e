"""Attention temperature: the edit by T, as a hook (divided in `probes`) or in the query weights.

Attention spreads over more tokens. The scores that the softmax sees, scaled and soft-capped, are
divided before the mask (`probes.attention_interface`); fused attention stays. As weights it is the
query's projection, or its norm, divided by T; what weights cannot express is refused.

A temperature may go straight to 1 over a run (`schedule="linear"`), as it does by default in the
released code, which the paper does not say: T(p) = T - (T - 1) p at progress p.

Source: Kim et al., ICLR 2025, appendix B.8.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interventions.choices import Schedule, as_choice
from interventions.edit_forms import Clock, NotInWeightsError, WeightChange
from interventions.neurons import name_and_layout
from probes.hooked_model import HookedModel
from probes.projections import width_out
from probes.shown import Shown

_SEPARATE = ("llama", "mistral", "olmo", "qwen2", "gemma2", "opt", "gptj", "gpt_neo")
_NORM_OVER_HEADS = ("olmo2", "olmo3")
_SHARED_NORM = ("qwen3", "gemma3_text")
_FUSED = ("phi3", "gpt2", "gpt_neox", "codegen", "falcon")
_KNOWN = (*_SEPARATE, *_NORM_OVER_HEADS, *_SHARED_NORM, *_FUSED)
_ALIBI = ("bloom", "mpt")
# CodeGen's weights lie as they were shared out over four chips.
_CODEGEN_PARTS = 4
# Their norms multiply by one plus the weight.
_NORM_PLUS_ONE = ("gemma3_text",)

OfLayer = float | Float[Tensor, "head"]


def query_changes(model: HookedModel, layer: int, temperature: OfLayer) -> list[WeightChange]:
    """Divide the attention scores of a layer by a temperature, or by one for each query head."""
    family = model.architecture.family
    if (why := _inexpressible(model, family)) is not None:
        raise NotInWeightsError(f"{why}; use the attention temperature as a hook")
    attention: Any = model.anatomy.layers[layer].attention
    per_head = torch.as_tensor(temperature, dtype=torch.float64).expand(model.n_heads).cpu()
    name = next(n for n, m in model.hf_model.named_modules() if m is attention)
    if family in (*_SHARED_NORM, *_NORM_OVER_HEADS):
        if family in _SHARED_NORM and len(per_head.unique()) > 1:
            raise NotInWeightsError(
                f"all heads of a layer of {family} share one query norm, so weights cannot give "
                f"those of layer {layer} temperatures of their own; pass one per layer, or use "
                "hooks"
            )
        width = attention.q_norm.weight.shape[0]
        by = per_head[0] if family in _SHARED_NORM else _repeated(per_head, width)
        over = _over(by, plus=1 if family in _NORM_PLUS_ONE else 0)
        return [WeightChange(f"{name}.q_norm.weight", 0, None, over)]
    projection, rows = _queries_of(family, attention, model.n_heads)
    name, conv1d = name_and_layout(model, projection)
    by = _repeated(per_head, len(rows))
    of_rows = by if conv1d else by[:, None]
    changes = [WeightChange(f"{name}.weight", int(conv1d), rows, _over(of_rows))]
    if projection.bias is not None:
        changes.append(WeightChange(f"{name}.bias", 0, rows, _over(by)))
    return changes


def _inexpressible(model: HookedModel, family: str) -> str | None:
    """Why no weights of this model divide its attention scores; None where some do."""
    config = model.engine.config
    if family in _ALIBI or (family == "falcon" and config.alibi):
        return (
            f"this {family} adds alibi to the products of queries and keys, and a temperature "
            "divides both, which no weights of the query do"
        )
    if model.architecture.recognised or family not in _KNOWN:
        return (
            f"it is not known where {family} keeps its queries, so an attention temperature cannot "
            f"be patched into its weights (as it can for {', '.join(_KNOWN)})"
        )
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        return (
            f"{family} caps its attention scores after the queries (attn_logit_softcapping={cap}), "
            "so no weights divide the capped scores"
        )
    if (clip := getattr(config, "clip_qkv", None)) is not None:
        return (
            f"this {family} clips its queries (clip_qkv={clip}), so scaling their weights does not "
            "scale them"
        )
    return None


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


def _repeated(per_head: Float[Tensor, "head"], width: int) -> Float[Tensor, "n"]:
    """One for every row, the rows of a head lying together."""
    return per_head.repeat_interleave(width // len(per_head))


def _over(by: Tensor, plus: int = 0) -> Callable[[Tensor], Tensor]:
    return lambda values: (values + plus) / by.to(values.device, values.dtype) - plus


@dataclass(frozen=True, eq=False)
class AttentionTemperature(Shown):
    """Divides attention scores by a temperature.

    Args:
        temperature: of all layers; a sequence with one for every layer; a mapping from layer to
            temperature, which leaves other layers alone; or `[layer head]`.
        schedule: whether it stays, or goes to 1 over the run.

    Raises:
        ValueError: a temperature is not a finite number above 0, or the tensor is not
            `[layer head]`.
    """

    temperature: (
        float | int | Sequence[float | int] | Mapping[int, float | int] | Float[Tensor, "..."]
    )
    _: KW_ONLY
    schedule: Schedule | str = Schedule.CONSTANT

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", as_choice(Schedule, self.schedule, "schedule"))
        given = _as_numbers(self.temperature)
        object.__setattr__(self, "temperature", given)
        values = list(given.values()) if isinstance(given, Mapping) else given
        checked = torch.as_tensor(values, dtype=torch.float64)
        if not (checked.isfinite() & (checked > 0)).all():
            shown = given.tolist() if isinstance(given, Tensor) else given
            raise ValueError(f"attention temperatures must be finite and above 0, found {shown}")

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        at_start = self._of_layers(model)
        if self.schedule is not Schedule.CONSTANT:
            return model.attention_temperature(
                {layer: _decaying(value, clock) for layer, value in at_start.items()}
            )
        # As the forward pass uses them, so that they need not be converted in every one.
        where: Any = (model.device, torch.promote_types(model.dtype, torch.float32))
        return model.attention_temperature(
            {
                layer: value.to(*where) if isinstance(value, Tensor) else value
                for layer, value in at_start.items()
            }
        )

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        if self.schedule is not Schedule.CONSTANT:
            raise NotInWeightsError(
                f"an attention temperature that changes over a run (schedule="
                f"{str(self.schedule)!r}) cannot be in the weights; use it as a hook"
            )
        pairs = self._of_layers(model).items()
        return [change for layer, value in pairs for change in query_changes(model, layer, value)]

    def describe(self) -> dict[str, Any]:
        given: Any = self.temperature
        if isinstance(given, Tensor):
            given = given.tolist()
        elif isinstance(given, Mapping):
            given = {str(layer): value for layer, value in given.items()}
        return {
            "kind": "attention_temperature",
            "temperature": given,
            "schedule": str(self.schedule),
        }

    def _of_layers(self, model: HookedModel) -> dict[int, OfLayer]:
        """Temperatures of the layers that have one other than 1."""
        given, found = self.temperature, {}
        if isinstance(given, Mapping):
            found = dict(given)
        elif isinstance(given, Tensor | Sequence):
            shape = tuple(given.shape) if isinstance(given, Tensor) else (len(given),)
            expected = (model.n_layers, model.n_heads)[: len(shape)]
            if shape != expected:
                raise ValueError(
                    f"attention temperatures have shape {shape}, but {model.name} needs "
                    f"{expected} ({'layer, head' if len(shape) == 2 else 'layers'})"
                )
            found = dict(enumerate(given))
        else:
            found = dict.fromkeys(range(model.n_layers), given)
        if wrong := [layer for layer in found if not 0 <= layer < model.n_layers]:
            raise ValueError(
                f"layer {wrong[0]} does not exist; {model.name} has layers 0 to "
                f"{model.n_layers - 1}"
            )
        return {
            layer: value
            for layer, value in found.items()
            if bool((torch.as_tensor(value) != 1).any())
        }


def _decaying(at_start: OfLayer, clock: Clock) -> Callable[[], OfLayer]:
    return lambda: at_start - (at_start - 1) * clock.progress


def _as_numbers(given: Any) -> Any:
    """One float, a list or mapping of them, or `[layer head]` in float64 on the CPU."""
    if isinstance(given, Tensor):
        if given.ndim != 2:
            raise ValueError(
                f"a tensor of temperatures must be [layer head], found shape {tuple(given.shape)}; "
                "pass one for each head of each layer, or a list with one for each layer"
            )
        return given.detach().double().cpu()
    try:
        if isinstance(given, Mapping):
            return {layer: float(value) for layer, value in given.items()}
        if isinstance(given, Sequence) and not isinstance(given, str):
            return [float(value) for value in given]
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(
            f"an attention temperature is a number, one for each layer, or a tensor [layer head], "
            f"found {given!r}"
        ) from None
