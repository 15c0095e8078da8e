"""The released training code's score of knowledge probes, typed again from its description.

Probes are dealt by torch's own sampler and padded batch by batch. The loss of a row is averaged
over all its positions but the last, whether they are of the target, of the prompt or pads; what is
not of the target counts as zero. The probe's score is minus that.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DistributedSampler


def official_scores(
    hf_model: Any, rows: list[tuple[list[int], list[int]]], batch_size: int, world_size: int
) -> dict[int, float]:
    """The score of every probe, where it was met first."""
    found: dict[int, float] = {}
    for rank in range(world_size):
        sampler = DistributedSampler(
            range(len(rows)), num_replicas=world_size, rank=rank, shuffle=False, drop_last=False
        )
        dealt = list(sampler)
        for start in range(0, len(dealt), batch_size):
            batch = dealt[start : start + batch_size]
            width = max(len(rows[i][0]) + len(rows[i][1]) for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            labels = torch.full((len(batch), width), -100)
            for row, i in enumerate(batch):
                prompt, target = rows[i]
                ids[row, : len(prompt) + len(target)] = torch.tensor(prompt + target)
                labels[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
            with torch.no_grad():
                logits = hf_model(ids).logits
            losses = cross_entropy(
                logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100
            )
            for i, loss in zip(batch, losses.mean(dim=-1).tolist(), strict=True):
                found.setdefault(i, -loss)
    return found
