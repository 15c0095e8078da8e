"""Readout: from the residual stream to the logits, through the model's own norm and unembedding.

`hidden_states[-1]` of a transformers model is already normed; what comes out of the last block is
not. `norm_and_unembed` and `unembed` keep the difference in their names.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); Gemma 2 for the soft-cap.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from probes.anatomy import Anatomy


def norm_and_unembed(
    anatomy: Anatomy, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logits that a residual stream would give if it came out of the last block."""
    return unembed(anatomy, anatomy.final_norm(residual))


def unembed(
    anatomy: Anatomy, normed: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logits of a normed residual stream, with the family's scale and soft-cap."""
    return _scaled_and_capped(anatomy, anatomy.unembed(normed))


def unembeds_by_parts(anatomy: Anatomy) -> bool:
    """Whether `unembed_tokens` may stand in for a part of what `unembed` computes."""
    module = anatomy.unembed
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


def unembed_tokens(
    anatomy: Anatomy,
    normed: Float[Tensor, "row d_model"],
    tokens: slice | Int64[Tensor, "token"],
    out: Float[Tensor, "row token"] | None = None,
) -> Float[Tensor, "row token"]:
    """Logits of some tokens only."""
    assert unembeds_by_parts(anatomy)
    weight, bias = anatomy.unembed.weight, anatomy.unembed.bias
    logits = torch.mm(normed, weight[tokens].T, out=out)
    if bias is not None:
        logits += bias[tokens]
    return _scaled_and_capped(anatomy, logits)


def _scaled_and_capped(anatomy: Anatomy, logits: Tensor) -> Tensor:
    if anatomy.logit_scale != 1.0:
        logits = logits * anatomy.logit_scale
    if anatomy.logit_softcap is not None:
        logits = anatomy.logit_softcap * torch.tanh(logits / anatomy.logit_softcap)
    return logits


_GROUP = 16


@dataclass(frozen=True)
class BlockSums:
    """What one block of the vocabulary adds."""

    peak: Float[Tensor, "layer row"]
    mass: Float[Tensor, "layer row"]
    tilt: Float[Tensor, "layer row"]
    cross: Float[Tensor, "layer row"]
    above: Int64[Tensor, "layer row asked"]
    """How many tokens of the block have a higher logit than the asked ones."""
    top_ids: Int64[Tensor, "layer row k"]
    top_logits: Float[Tensor, "layer row k"]


class Distributions(NamedTuple):
    """What whole rows of logits say; nats."""

    above: Int64[Tensor, "layer row asked"]
    log_probs: Float[Tensor, "layer row asked"]
    entropy: Float[Tensor, "layer row"]
    kl: Float[Tensor, "layer row"]
    """Of the last layer's distribution from this one."""
    top_ids: Int64[Tensor, "layer row k"]
    top_log_probs: Float[Tensor, "layer row k"]


def block_sums(
    logits: Float[Tensor, "layer row block"],
    start: int,
    asked: Float[Tensor, "layer row asked"],
    top_k: int,
    scratch: Float[Tensor, "layer row block"] | None = None,
) -> BlockSums:
    """Reduce one block of the vocabulary."""
    scratch = torch.empty_like(logits) if scratch is None else scratch
    top_logits, top_columns = _top(logits, top_k)
    # A comparison written as numbers adds up several times faster than one of truth values.
    counts = [
        torch.gt(logits, asked[..., i, None], out=scratch).sum(dim=-1)
        for i in range(asked.shape[-1])
    ]
    peak = top_logits[..., 0]
    shifted = logits.sub_(peak[..., None])
    powers = torch.exp(shifted, out=scratch)
    mass, final_powers = powers.sum(dim=-1), powers[-1].clone()
    tilt = powers.mul_(shifted).sum(dim=-1)
    return BlockSums(
        peak=peak,
        mass=mass,
        tilt=tilt,
        cross=torch.mul(shifted, final_powers, out=scratch).sum(dim=-1),
        above=torch.stack(counts, dim=-1).long(),
        top_ids=top_columns + start,
        top_logits=top_logits,
    )


def combined(
    blocks: list[BlockSums], asked: Float[Tensor, "layer row asked"], top_k: int
) -> Distributions:
    """Put the blocks of a vocabulary together."""
    peaks, masses, tilts, crosses = (
        torch.stack([getattr(block, name) for block in blocks]).double()
        for name in ("peak", "mass", "tilt", "cross")
    )
    peak = peaks.amax(dim=0)
    down = peaks - peak
    weights = down.exp()
    mass = (weights * masses).sum(dim=0)
    tilt = (weights * (tilts + down * masses)).sum(dim=0)
    # The final distribution's sums have weights of their own.
    cross = (weights[:, -1:] * (crosses + down * masses[:, -1:])).sum(dim=0)
    against_final = mass.log() - cross / mass[-1:]
    normaliser = peak + mass.log()
    ids = torch.cat([block.top_ids for block in blocks], dim=-1)
    logits = torch.cat([block.top_logits for block in blocks], dim=-1)
    top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    kind = asked.dtype
    return Distributions(
        above=torch.stack([block.above for block in blocks]).sum(dim=0),
        log_probs=(asked - normaliser[..., None]).to(kind),
        entropy=(mass.log() - tilt / mass).to(kind),
        # Rounding can leave the divergence of nearly equal distributions a hair below zero.
        kl=(against_final - against_final[-1:]).clamp_min(0.0).to(kind),
        top_ids=ids.gather(-1, top.indices),
        top_log_probs=(top.values - normaliser[..., None]).to(kind),
    )


def _top(
    logits: Float[Tensor, "layer row block"], k: int
) -> tuple[Float[Tensor, "layer row k"], Int64[Tensor, "layer row k"]]:
    layers, rows, width = logits.shape
    k = min(k, width)
    if width % _GROUP or k * _GROUP * 2 > width:
        found = logits.topk(k, dim=-1)
        return found.values, found.indices
    apart = width // _GROUP
    groups = logits.view(layers, rows, _GROUP, apart).amax(dim=2).topk(k, dim=-1).indices
    members = torch.arange(_GROUP, device=logits.device)[:, None] * apart
    columns = (groups[..., None, :] + members).flatten(start_dim=2)
    found = logits.gather(-1, columns).topk(k, dim=-1)
    return found.values, columns.gather(-1, found.indices)
