"""Model inputs: what a batch of tokens becomes for one model."""

import inspect
from typing import Any

from jaxtyping import Int
from torch import Tensor

from probes.anatomy import Anatomy
from probes.corpus.token_batch import TokenBatch
from probes.sequence_rope import rope_border


def model_inputs(batch: TokenBatch, anatomy: Anatomy, config: Any, name: str) -> dict[str, Tensor]:
    """Keyword arguments for a forward pass, on the model's device.

    Args:
        batch: the tokens.
        anatomy: the model's parts.
        config: its configuration.
        name: what to call it in a message.

    Returns:
        `input_ids`; with pads also `attention_mask`; with pads on the left, or where frequencies
        depend on a row's length, also `position_ids`, where the model takes them.

    Raises:
        ValueError: the model has no such token, or no such position.
    """
    device = anatomy.device
    ids = batch.input_ids.to(device)
    _check_ids(ids, anatomy.n_tokens, config, name)
    if bool(batch.attention_mask.all()):
        return {"input_ids": ids}
    mask = batch.attention_mask.to(device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    takes_positions = "position_ids" in inspect.signature(anatomy.trunk.forward).parameters
    if takes_positions and (rope_border(config) is not None or not bool(mask[:, 0].all())):
        # Left padding: learned positions would otherwise count the pads. And a row is as long as
        # its last position says.
        inputs["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp_min(0)
    return inputs


def positions_of(config: Any) -> int | None:
    """How many positions a model has; None where its configuration sets no limit."""
    return getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))


def _check_ids(ids: Int[Tensor, "batch pos"], vocabulary: int, config: Any, name: str) -> None:
    largest = int(ids.max())
    if largest >= vocabulary or int(ids.min()) < 0:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {largest}, but {name} has "
            f"{vocabulary} tokens; use the model's own tokenizer"
        )
    longest = positions_of(config)
    if longest is not None and ids.shape[1] > longest:
        raise ValueError(
            f"rows have {ids.shape[1]} tokens, but {name} has positions for {longest}; "
            "use a shorter sequence length"
        )
