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
from probes.shown import Shown

LOGITS_BYTES, CHUNK_BYTES = 32 * 2**20, 24 * 2**20
"""How much memory the logits of the rows read at once may take: for one layer, and for several."""


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


def read_in_chunks(
    anatomy: Anatomy,
    rows: Float[Tensor, "row d_model"],
    read: Callable[[Float[Tensor, "some d_vocab"], slice], Tensor],
    most: int | None = None,
) -> Float[Tensor, "row *rest"]:
    """What is read off the logits of normed streams, of a bounded number of rows at a time."""
    size = max(1, (most or LOGITS_BYTES) // (4 * anatomy.d_vocab))
    parts = [slice(start, start + size) for start in range(0, max(1, len(rows)), size)]
    return torch.cat([read(wide(unembed(anatomy, rows[part])), part) for part in parts])


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


class BlockSums(NamedTuple):
    """What one block of the vocabulary adds."""

    peak: Float[Tensor, "layer row"]
    mass: Float[Tensor, "layer row"]
    tilt: Float[Tensor, "layer row"]
    cross: Float[Tensor, "layer row"]
    above: Int64[Tensor, "layer row asked"]
    """How many tokens of the block have a higher logit than the asked ones."""
    top_ids: Int64[Tensor, "layer row k"]
    top_logits: Float[Tensor, "layer row k"]


@dataclass(frozen=True)
class Readout(Shown):
    """What streams say, in nats; leading axes are `layer row`, or `row` for one layer."""

    rank: Int64[Tensor, "*layer row"]
    log_prob: Float[Tensor, "*layer row"]
    entropy: Float[Tensor, "*layer row"]
    kl: Float[Tensor, "*layer row"]  # KL divergence of the model's final distribution from this one
    top_ids: Int64[Tensor, "*layer row k"]
    top_log_probs: Float[Tensor, "*layer row k"]
    control_rank: Int64[Tensor, "*layer row control"]
    """Ranks of other tokens at the same place, to compare the target's with."""


def joined_readouts(parts: "list[Readout]") -> Readout:
    """Readouts of several sets of rows as one."""
    names = [field.name for field in fields(Readout)]
    return Readout(**{name: torch.cat([getattr(p, name) for p in parts], dim=1) for name in names})


def block_sums(
    logits: Float[Tensor, "layer row block"],
    scratch: Float[Tensor, "layer row block"],
    start: int,
    asked: Float[Tensor, "layer row asked"],
    top_k: int,
) -> BlockSums:
    """Reduce one block of the vocabulary, which is overwritten."""
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
) -> Readout:
    """Put the blocks of a vocabulary together; the last layer gives the final distribution."""
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
    above = torch.stack([block.above for block in blocks]).sum(dim=0)
    return Readout(
        rank=above[..., 0],
        log_prob=(asked[..., 0] - normaliser).to(kind),
        entropy=(mass.log() - tilt / mass).to(kind),
        # Rounding can leave the divergence of nearly equal distributions a hair below zero.
        kl=(against_final - against_final[-1:]).clamp_min(0.0).to(kind),
        top_ids=ids.gather(-1, top.indices),
        top_log_probs=(top.values - normaliser[..., None]).to(kind),
        control_rank=above[..., 1:],
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


_TILES = {"cpu": (480, 2048), "cuda": (1920, 16384)}
"""Streams and tokens whose logits are read at once: as many as stay in a processor's cache."""

Translate = Callable[[int, Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""From a block and the streams after it to what stands in for the stream after the last block.

-1 is the stream before block 0.
"""


NO_RANK = -1  # what `read_ranks` gives where there is no rank, since logits are not finite


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
    memory: list[Tensor] = []
    parts = []
    for some in _rows_at_once(anatomy, streams):
        moved = streams[:, some]
        if translate is not None:
            early = [translate(layer - embedding, s) for layer, s in enumerate(moved[:-1])]
            moved = torch.stack([*early, moved[-1]])
        # The last of the streams gives the model's own distribution.
        normed = anatomy.final_norm(moved)
        normed = normed if norm else torch.cat([moved, normed[-1:]])
        asked, tiles = _tiles(anatomy, normed, asked_ids[some], memory)
        blocks = [block_sums(*tile, asked, top_k) for tile in tiles]
        found = vars(combined(blocks, asked, top_k))
        parts.append(Readout(**{n: part[: len(streams)].cpu() for n, part in found.items()}))
    return joined_readouts(parts)


def _rows_at_once(anatomy: Anatomy, streams: Float[Tensor, "layer row d_model"]) -> list[slice]:
    tile_rows = _TILES["cuda" if streams.is_cuda else "cpu"][0]
    if not unembeds_by_parts(anatomy):
        tile_rows = CHUNK_BYTES // (4 * anatomy.d_vocab)
    rows = max(1, tile_rows // len(streams))
    return [slice(start, start + rows) for start in range(0, streams.shape[1], rows)]


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
    memory: list[Tensor] = []
    parts = []
    for some in _rows_at_once(anatomy, streams):
        normed, ids = anatomy.final_norm(streams[:, some]), targets[some][:, None]
        asked, tiles = _tiles(anatomy, normed, ids, memory)
        above = torch.zeros(asked.shape, device=asked.device)
        for logits, scratch, _ in tiles:
            above += torch.gt(logits, asked, out=scratch).sum(dim=-1, keepdim=True)
        sound = normed.isfinite().all(dim=-1) & asked[..., 0].isfinite() & sound_weights
        parts.append(above[..., 0].long().where(sound, NO_RANK).cpu())
    return torch.cat(parts, dim=1)


Tile = tuple[Float[Tensor, "layer row block"], Float[Tensor, "layer row block"], int]
"""Logits of a block of the vocabulary, memory of their shape, and where the block starts."""


def _tiles(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
    memory: list[Tensor],
) -> tuple[Float[Tensor, "layer row asked"], Iterator[Tile]]:
    """Logits of the tokens asked for, and those of one block after another."""
    if not unembeds_by_parts(anatomy):
        logits = wide(unembed(anatomy, normed))
        asked = logits.gather(-1, asked_ids.expand(len(normed), -1, -1))
        return asked, iter([(logits, torch.empty_like(logits), 0)])
    rows, width = asked_ids.shape
    of_all_rows = wide(unembed_tokens(anatomy, normed.flatten(end_dim=1), asked_ids.flatten()))
    # Row i's own tokens are the i-th group of columns.
    grouped = of_all_rows.view(len(normed), rows, rows, width)
    asked = grouped.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    return asked, _blocks(anatomy, normed, asked_ids, asked, memory)


def _blocks(
    anatomy: Anatomy,
    normed: Float[Tensor, "layer row d_model"],
    asked_ids: Int64[Tensor, "row asked"],
    asked: Float[Tensor, "layer row asked"],
    memory: list[Tensor],
) -> Iterator[Tile]:
    layers, rows, _ = normed.shape
    vocabulary, width = anatomy.d_vocab, _TILES["cuda" if normed.is_cuda else "cpu"][1]
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
        yield logits, scratch.view_as(logits), start
