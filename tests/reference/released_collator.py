"""The released trainer's rows, masks, labels and order, typed again from their description.

Conversations are lists of `(role, text)`. Everything is found the long way: a message's place in a
row by encoding all that comes before it, pads one at a time.
"""

from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

UNTRAINED = -100


def written(messages: list[tuple[str, str]], end: str) -> str:
    """Messages as text, each on lines of its own under the name of who says it."""
    text = ""
    for role, said in messages:
        text = text + "<|" + role + "|>" + "\n" + said.strip()
        if role == "assistant":
            text = text + end
        text = text + "\n"
    return text


def encoded(messages: list[tuple[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation."""
    end = tokenizer.eos_token
    ids = tokenizer(written(messages, end).strip())["input_ids"]
    labels = list(ids)
    for number, (role, _) in enumerate(messages):
        if role == "assistant":
            continue
        start = 0
        if number > 0:
            start = len(tokenizer(written(messages[:number], end))["input_ids"])
        so_far = written(messages[: number + 1], end)
        if number + 1 < len(messages) and messages[number + 1][0] == "assistant":
            so_far = so_far + "<|assistant|>\n"
        stop = len(tokenizer(so_far)["input_ids"])
        for position in range(start, min(stop, len(labels))):
            labels[position] = UNTRAINED
    return ids, labels


def collated(
    conversations: list[list[tuple[str, str]]], tokenizer: Any, longest: int
) -> dict[str, list[list[int]]]:
    """All conversations as rows of one length; those with more than `longest` tokens are dropped.

    Ids, masks and labels are all filled up with the end token.
    """
    pad = tokenizer.eos_token_id
    rows = [encoded(messages, tokenizer) for messages in conversations]
    rows = [(ids, labels) for ids, labels in rows if len(ids) <= longest]
    width = 0
    for ids, _ in rows:
        width = max(width, len(ids))
    table: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, labels in rows:
        mask = [1] * len(ids)
        while len(ids) < width:
            ids = [*ids, pad]
            mask = [*mask, pad]
            labels = [*labels, pad]
        table["input_ids"].append(ids)
        table["attention_mask"].append(mask)
        table["labels"].append(labels)
    return table


def dealt_batches(examples: int, per_process: int, processes: int, seed: int) -> list[list[int]]:
    """The examples of each batch of an epoch, process after process, by torch's own samplers."""
    loaders = []
    for rank in range(processes):
        sampler = DistributedSampler(
            range(examples), num_replicas=processes, rank=rank, shuffle=True, seed=seed
        )
        loader = DataLoader(
            range(examples),
            shuffle=False,
            drop_last=True,
            batch_size=per_process,
            sampler=sampler,
            collate_fn=list,
        )
        loaders.append(list(loader))
    return [[i for part in parts for i in part] for parts in zip(*loaders, strict=True)]


def mean_of_process_means(
    token_losses: torch.Tensor, labels: torch.Tensor, processes: int
) -> torch.Tensor:
    """The loss of a global batch: each process averages over its tokens, then they average.

    `token_losses[b, t]` is the cross-entropy of token t of row b.
    """
    each = len(labels) // processes
    means = []
    for rank in range(processes):
        found = []
        for row in range(rank * each, (rank + 1) * each):
            for position in range(1, labels.shape[1]):
                if labels[row, position] != UNTRAINED:
                    found.append(token_losses[row, position])
        means.append(torch.stack(found).mean())
    return torch.stack(means).mean()
