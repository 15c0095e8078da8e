r"""Readout: from residual streams to logits, and what these say about tokens.

`hidden_states[-1]` of a transformers model is already normed; what comes out of the last block is
not. `norm_and_unembed` and `unembed` keep the difference in their names.

For a stream and a target token a lens reads the **rank** (how many tokens have a higher logit; 0 is
the top), the **log-probability** in nats, the **entropy** of the distribution in nats, the **KL
divergence** of the model's final distribution from it, :math:`\sum_v p_\mathrm{final}(v)\,[\log
p_\mathrm{final}(v) - \log p(v)]`, and the most likely tokens. Logits are widened to float32. A few
rows are read at a time, for all layers and one block of the vocabulary after another, so that
nothing like `[layer row d_vocab]` ever exists.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); Belrose et al., arXiv 2303.08112,
for the divergence and for translators; Gemma 2 for the soft-cap.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from probes.anatomy import Anatomy
from probes.checking import all_finite, wide


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


CHUNK_BYTES = 24 * 2**20
"""How much memory the logits of the rows read at once may take."""

_TILES = {"cpu": (480, 2048), "cuda": (1920, 16384)}
"""Streams and tokens whose logits are read at once: as many as stay in a processor's cache."""

Translate = Callable[[int, Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""From a block and the streams after it to what stands in for the stream after the last block.

-1 is the stream before block 0.
"""


NO_RANK = -1
"""What `read_ranks` gives where there is no rank, since logits are not finite."""


@dataclass(frozen=True)
class Readout:
    """What streams say; leading axes are `layer row`, or `row` for one layer."""

    rank: Int64[Tensor, "*layer row"]
    log_prob: Float[Tensor, "*layer row"]
    entropy: Float[Tensor, "*layer row"]
    kl: Float[Tensor, "*layer row"]
    """Of the model's final distribution from this one."""
    top_ids: Int64[Tensor, "*layer row k"]
    top_log_probs: Float[Tensor, "*layer row k"]
    control_rank: Int64[Tensor, "*layer row control"]
    """Ranks of other tokens at the same place, to compare the target's with."""


def joined_readouts(parts: "list[Readout]") -> Readout:
    """Readouts of several sets of rows as one."""
    names = [field.name for field in fields(Readout)]
    return Readout(**{name: torch.cat([getattr(p, name) for p in parts], dim=1) for name in names})


@torch.no_grad()
def read_streams(
    anatomy: Anatomy,
    streams: Float[Tensor, "layer row d_model"],
    targets: Int64[Tensor, "row"],
    *,
    top_k: int,
    norm: bool = True,
    embedding: bool = False,
    translate: Translate | None = None,
    controls: Int64[Tensor, "row control"] | None = None,
) -> Readout:
    """What the streams after several layers say about targets, on the CPU."""
    asked_ids = targets[:, None]
    if controls is not None:
        asked_ids = torch.cat([asked_ids, controls], dim=1)
    by_parts = unembeds_by_parts(anatomy)
    tile_rows, width = _TILES["cuda" if streams.is_cuda else "cpu"]
    if not by_parts:
        tile_rows = CHUNK_BYTES // (4 * anatomy.d_vocab)
    rows = max(1, tile_rows // len(streams))
    memory: list[Tensor] = []
    parts = []
    for start in range(0, streams.shape[1], rows):
        some = slice(start, start + rows)
        moved = _translated(streams[:, some], translate, embedding)
        normed = _ready_to_unembed(anatomy, moved, norm)
        if by_parts:
            read = _by_parts(anatomy, normed, asked_ids[some], top_k, width, memory)
        else:
            read = _at_once(anatomy, normed, asked_ids[some], top_k)
        parts.append(_readout(read, len(streams)))
    return joined_readouts(parts)


@torch.no_grad()
def read_ranks(
    anatomy: Anatomy, streams: Float[Tensor, "layer row d_model"], targets: Int64[Tensor, "row"]
) -> Int64[Tensor, "layer row"]:
    """Ranks of targets alone, on the CPU, for little beside the products."""
    if not unembeds_by_parts(anatomy):
        read = read_streams(anatomy, streams, targets, top_k=1)
        return read.rank.where(read.entropy.isfinite(), NO_RANK)
    # Logits of finite streams and weights are finite or beyond what their type holds, and still in
    # order: so the logits themselves need not be looked at, but for the target's own.
    sound_weights = all_finite(anatomy.unembed.weight)
    tile_rows, width = _TILES["cuda" if streams.is_cuda else "cpu"]
    memory: list[Tensor] = []
    parts = []
    for some in torch.arange(streams.shape[1]).split(max(1, tile_rows // len(streams))):
        normed, ids = anatomy.final_norm(streams[:, some]), targets[some][:, None]
        asked = _asked_logits(anatomy, normed, ids)
        above = torch.zeros(asked.shape, device=asked.device)
        for _, logits, scratch in _tiles(anatomy, normed, ids, asked, width, memory):
            above += torch.gt(logits, asked, out=scratch).sum(dim=-1, keepdim=True)
        sound = normed.isfinite().all(dim=-1) & asked[..., 0].isfinite() & sound_weights
        parts.append(above[..., 0].long().where(sound, NO_RANK).cpu())
    return torch.cat(parts, dim=1)


def _translated(
    streams: Float[Tensor, "layer row d_model"], translate: Translate | None, embedding: bool
) -> Float[Tensor, "layer row d_model"]:
    if translate is None:
        return streams
    moved = [translate(layer - embedding, stream) for layer, stream in enumerate(streams[:-1])]
    return torch.stack([*moved, streams[-1]])


def _ready_to_unembed(
    anatomy: Anatomy, streams: Float[Tensor, "layer row d_model"], norm: bool
) -> Float[Tensor, "layer_and_final row d_model"]:
    """Streams to unembed, the last of which gives the model's own distribution."""
    if norm:
        return anatomy.final_norm(streams)
    return torch.cat([streams, anatomy.final_norm(streams[-1:])])


def _at_once(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
    top_k: int,
) -> Distributions:
    logits = wide(unembed(anatomy, normed))
    asked = logits.gather(-1, asked_ids.expand(len(normed), -1, -1))
    return combined([block_sums(logits, 0, asked, top_k)], asked, top_k)


def _by_parts(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
    top_k: int,
    width: int,
    memory: list[Tensor],
) -> Distributions:
    asked = _asked_logits(anatomy, normed, asked_ids)
    blocks = [
        block_sums(logits, start, asked, top_k, scratch)
        for start, logits, scratch in _tiles(anatomy, normed, asked_ids, asked, width, memory)
    ]
    return combined(blocks, asked, top_k)


def _tiles(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
    asked: Float[Tensor, "layer row asked"],
    width: int,
    memory: list[Tensor],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Logits of one block of the vocabulary after another, and memory of their shape."""
    layers, rows, _ = normed.shape
    vocabulary = anatomy.d_vocab
    streams = normed.flatten(end_dim=1)
    if not memory:
        memory += asked.new_empty((2, layers * rows * width)).unbind()
    for start in range(0, vocabulary, width):
        shape = (layers * rows, min(width, vocabulary - start))
        flat, scratch = (part[: shape[0] * shape[1]].view(shape) for part in memory)
        tokens = slice(start, start + width)
        out = flat if flat.dtype == streams.dtype else None
        logits = wide(unembed_tokens(anatomy, streams, tokens, out)).view(layers, rows, -1)
        inside = (asked_ids >= start) & (asked_ids < start + logits.shape[-1])
        which, places = inside.nonzero(as_tuple=True)
        # Other shapes of the same product round differently: a token must not outrank itself.
        logits[:, which, asked_ids[which, places] - start] = asked[:, which, places]
        yield start, logits, scratch.view_as(logits)


def _asked_logits(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
) -> Float[Tensor, "layer row asked"]:
    rows, asked = asked_ids.shape
    of_all_rows = wide(unembed_tokens(anatomy, normed.flatten(end_dim=1), asked_ids.flatten()))
    # Row i's own tokens are the i-th group of columns.
    grouped = of_all_rows.view(len(normed), rows, rows, asked)
    return grouped.diagonal(dim1=1, dim2=2).movedim(-1, 1)


def _readout(read: Distributions, layers: int) -> Readout:
    own = Distributions(*(part[:layers].cpu() for part in read))
    return Readout(
        rank=own.above[..., 0],
        log_prob=own.log_probs[..., 0],
        entropy=own.entropy,
        kl=own.kl,
        top_ids=own.top_ids,
        top_log_probs=own.top_log_probs,
        control_rank=own.above[..., 1:],
    )
