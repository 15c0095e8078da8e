r"""Lens readout: what residual streams say about a token, read through norm and unembedding.

For a stream and a target token: the **rank** (how many tokens have a higher logit; 0 is the top),
the **log-probability** in nats, the **entropy** of the distribution in nats, the **KL divergence**
of the model's final distribution from it, :math:`\sum_v p_\mathrm{final}(v)\,[\log
p_\mathrm{final}(v) - \log p(v)]`, and the most likely tokens.

Logits are widened to float32. A few rows are read at a time, for all layers, so that neither
`[layer row d_vocab]` nor anything like it ever exists.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); Belrose et al., arXiv 2303.08112,
for the divergence from the final distribution and for translators.

Example:
    >>> import torch
    >>> read = read_logits(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]), None, top_k=1)
    >>> int(read.rank), read.top_ids.tolist()
    (1, [[1]])
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probes.anatomy import Anatomy
from probes.readout import norm_and_unembed, unembed

CHUNK_BYTES = 24 * 2**20
"""How much memory the logits of the rows read at once may take."""

Translate = Callable[[int, Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""From a block and the streams after it to what stands in for the stream after the last block.

-1 is the stream before block 0.
"""


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


def joined_readouts(parts: "list[Readout]", dim: int) -> Readout:
    """Readouts put together along the layers (0) or the rows (1), as `layer row`.

    Args:
        parts: at least one.
        dim: 0 to stack readouts of single layers, 1 to join rows.
    """
    join = torch.stack if dim == 0 else torch.cat
    names = [field.name for field in fields(Readout)]
    return Readout(**{name: join([getattr(p, name) for p in parts], dim) for name in names})


def read_logits(
    logits: Float[Tensor, "row d_vocab"],
    targets: Int64[Tensor, "row"],
    final_log_probs: Float[Tensor, "row d_vocab"] | None,
    *,
    top_k: int,
    controls: Int64[Tensor, "row control"] | None = None,
) -> Readout:
    """What logits say about targets.

    Args:
        logits: float32 or wider.
        targets: token ids.
        final_log_probs: the model's own; None where these logits are the model's own.
        top_k: how many of the most likely tokens to keep.
        controls: further token ids to rank.
    """
    if controls is None:
        controls = targets.new_empty((len(targets), 0))
    asked = logits.gather(1, torch.cat([targets[:, None], controls], dim=1))
    # Strictly above, so that the rank of equal logits is the best they could have.
    ranks = [(logits > asked[:, i, None]).sum(dim=1) for i in range(asked.shape[1])]
    log_probs = logits.log_softmax(dim=-1)
    entropy = -torch.linalg.vecdot(log_probs.exp(), log_probs)
    if final_log_probs is None:
        kl = torch.zeros_like(entropy)
    else:
        final = final_log_probs.exp()
        # Two dot products need no difference of the size of the vocabulary; rounding can leave
        # the divergence of equal distributions a hair below zero.
        own = torch.linalg.vecdot(final, final_log_probs)
        kl = (own - torch.linalg.vecdot(final, log_probs)).clamp_min(0.0)
    top = log_probs.topk(min(top_k, logits.shape[1]), dim=-1)
    return Readout(
        rank=ranks[0],
        log_prob=log_probs.gather(1, targets[:, None])[:, 0],
        entropy=entropy,
        kl=kl,
        top_ids=top.indices,
        top_log_probs=top.values,
        control_rank=torch.stack(ranks[1:], dim=1) if len(ranks) > 1 else controls,
    )


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
    """What the streams after several layers say about targets, on the CPU.

    Args:
        anatomy: the model's norm and unembedding.
        streams: the last layer's is the model's last.
        targets: token ids.
        top_k: how many of the most likely tokens to keep.
        norm: whether streams go through the final norm before the unembedding.
        embedding: whether the first of the streams is the one before block 0.
        translate: what to do to a stream before that; the last layer's is left alone.
        controls: further token ids to rank.
    """
    rows = max(1, CHUNK_BYTES // (4 * anatomy.unembed.weight.shape[0]))
    parts = []
    for start in range(0, streams.shape[1], rows):
        some = slice(start, start + rows)
        others = None if controls is None else controls[some]
        how = _Reading(top_k, norm, embedding, translate, others)
        parts.append(_read_rows(anatomy, streams[:, some], targets[some], how))
    return joined_readouts(parts, dim=1)


@dataclass(frozen=True)
class _Reading:
    top_k: int
    norm: bool
    embedding: bool
    translate: Translate | None
    controls: Tensor | None


def _read_rows(
    anatomy: Anatomy,
    streams: Float[Tensor, "layer row d_model"],
    targets: Int64[Tensor, "row"],
    how: _Reading,
) -> Readout:
    last = len(streams) - 1
    final_logits = _wide(norm_and_unembed(anatomy, streams[last]))
    final_log_probs = final_logits.log_softmax(dim=-1)
    read = []
    for layer, stream in enumerate(streams):
        if layer == last and how.norm:
            logits, against = final_logits, None
        else:
            translate = None if layer == last else how.translate
            moved = stream if translate is None else translate(layer - how.embedding, stream)
            through = norm_and_unembed if how.norm else unembed
            logits, against = _wide(through(anatomy, moved)), final_log_probs
        one = read_logits(logits, targets, against, top_k=how.top_k, controls=how.controls)
        read.append(_on_cpu(one))
    return joined_readouts(read, dim=0)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _on_cpu(read: Readout) -> Readout:
    moved: dict[str, Any] = {f.name: getattr(read, f.name).cpu() for f in fields(Readout)}
    return Readout(**moved)
