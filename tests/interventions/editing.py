"""What the tests of edits share: measured coefficients, and the edits of every family."""

from functools import cache
from typing import Any

import torch

import interventions
import probes
from tests.models import D_MLP, GATED, N_HEADS, N_LAYERS, tiny_model, tokens
from tests.reference.scaled_rows import PLACES


@cache
def shared(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """One tiny model of each kind, for tests that leave it as it was."""
    return tiny_model(family, dtype)


@cache
def measured(family: str) -> Any:
    """Coefficients of the tiny model of a family, on the tokens that the tests run."""
    batches = [{"input_ids": tokens(2, 11)}]
    return probes.measure_entropy(shared(family), batches, kinds=("knowledge",))


def sites_of(family: str) -> tuple[str, ...]:
    """Where a family can be resuscitated."""
    if family in GATED:
        return ("up", "down", "preserving", "gate")
    return ("down", "up_preactivation")


def resuscitation(family: str, site: str | None = None, **settings: Any) -> Any:
    """The usual edit, at the first site of the family."""
    options: dict[str, Any] = {"ratio": 0.5, "factor": 2.0, "site": site or sites_of(family)[0]}
    return interventions.Resuscitation(measured(family).mean_coefficients, **(options | settings))


def temperatures_of_heads() -> torch.Tensor:
    """One for each head of each layer, all different, some below 1."""
    return torch.linspace(0.6, 2.3, N_LAYERS * N_HEADS).view(N_LAYERS, N_HEADS)


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """The model's, on the usual tokens."""
    with torch.no_grad():
        return model(tokens(2, 11) if ids is None else ids)


def relative_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all its weights."""
    return {name: weight.clone() for name, weight in model.hf_model.state_dict().items()}


def assert_weights(model: Any, before: dict[str, torch.Tensor]) -> None:
    """All its weights have the bits that they had."""
    for name, weight in model.hf_model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def rows_of(
    weights: dict[str, torch.Tensor], family: str, part: str, layer: int
) -> dict[str, torch.Tensor]:
    """Parameters in which neurons have a row in one part of a layer, `[d_mlp width]` each."""
    path, axis, first = PLACES[family][part]
    name = path.format(layer)
    rows = weights[f"{name}.weight"].movedim(axis, 0)[first : first + D_MLP]
    found = {f"{name}.weight": rows}
    if part != "down" and f"{name}.bias" in weights:
        found[f"{name}.bias"] = weights[f"{name}.bias"][first : first + D_MLP, None]
    return found
