"""Cached steps: a model run one token after another, with its key-value cache, many rows at once.

Rows of several lengths are padded on the left, so that all of them end in the same place; positions
count from each row's first token, and the mask lets no query see a pad. Whether a model then gives
a row what it gives it alone, and whether it does with its cache at all, a trial tells, with
whatever is attached to it.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                     # doctest: +SKIP
    >>> inputs = first_inputs(model, [(504, 3575, 282), (504,)])                  # doctest: +SKIP
    >>> logits, cache = cached_step(model, inputs, None)                          # doctest: +SKIP
    >>> inputs = next_inputs(inputs, logits.argmax(dim=-1), torch.tensor([0, 1]))  # doctest: +SKIP
    >>> logits, cache = cached_step(model, inputs, cache)                         # doctest: +SKIP
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probes.checking import difference, few_tokens, tolerance
from probes.corpus.token_batch import as_token_batch
from probes.finite import require_finite
from probes.hooked_model import HookedModel
from probes.model_inputs import model_inputs

Ids = Sequence[int]
_TRIAL_PADS = 3


def first_inputs(model: HookedModel, rows: Sequence[Ids]) -> dict[str, Tensor]:
    """Inputs that run whole rows; `attention_mask` and `position_ids` only where rows are padded.

    Args:
        model: the hooked model.
        rows: token ids of each, at least one.

    Raises:
        ValueError: the model has no such token, or no such position.
    """
    width = max(map(len, rows))
    # Any token can pad, as none is seen; a row's own first is sure to be in the vocabulary.
    ids = [[row[0]] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    batch = as_token_batch({"input_ids": ids, "attention_mask": mask})
    return model_inputs(batch, model.anatomy, model.engine.config, model.name)


def next_inputs(
    inputs: dict[str, Tensor], tokens: Int64[Tensor, "row"], left: Int64[Tensor, "left"]
) -> dict[str, Tensor]:
    """Inputs that run one more token of the rows that are left.

    Args:
        inputs: of the step before.
        tokens: the next token of each of its rows.
        left: which of these rows go on.
    """
    following = {"input_ids": tokens[left, None]}
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"][left]
        following["attention_mask"] = torch.nn.functional.pad(mask, (0, 1), value=1)
    if "position_ids" in inputs:
        following["position_ids"] = inputs["position_ids"][left, -1:] + 1
    return following


def cached_step(
    model: HookedModel, inputs: dict[str, Tensor], cache: Any | None
) -> tuple[Float[Tensor, "row d_vocab"], Any | None]:
    """Run the next tokens of all rows.

    Args:
        model: the hooked model, on the native backend, in evaluation mode and without gradients.
        inputs: of `first_inputs` or `next_inputs`.
        cache: what the step before returned, with rows that are not left taken out of it
            (`batch_select_indices`); None for the first. It is changed in place.

    Returns:
        The logits after the last token of each row, and transformers' cache with these tokens in
        it; None where the model keeps none.
    """
    hf_model = model.hf_model
    takes = inspect.signature(hf_model.forward).parameters
    last_alone = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    # The model itself and not its trunk, so that functions at the logits count as well.
    output = hf_model(**inputs, **last_alone, past_key_values=cache, use_cache=True)
    return output.logits[:, -1], getattr(output, "past_key_values", None)


def why_not_padded(model: HookedModel) -> str | None:
    """Why rows of several lengths cannot run together; None where they can.

    Args:
        model: the hooked model, on the native backend; what is attached to it is tested with it.
    """
    return _why_not(model, pads=_TRIAL_PADS, what="with pads on the left")


def why_not_cached(model: HookedModel) -> str | None:
    """Why the model cannot be run with its key-value cache; None where it can.

    Args:
        model: the hooked model, on the native backend; what is attached to it is tested with it.
    """
    return _why_not(model, pads=0, what="with its key-value cache")


def _why_not(model: HookedModel, *, pads: int, what: str) -> str | None:
    gap = _gap(model, pads)
    # Also where it is no number.
    if not gap <= tolerance(model.dtype):
        return f"{model.name} gives other logits {what}, by {gap:.2g} of the largest"
    return None


def _gap(model: HookedModel, pads: int) -> float:
    """How far the logits after a short row are, with a cache, from those without one.

    The row is run together with one that is longer by so many tokens; alone, without any.
    """
    row = few_tokens(model.d_vocab, torch.device("cpu"))[0].tolist()
    longer = [row[:-1] + row[:pads]] if pads else []
    rows = torch.arange(1 + len(longer), device=model.device)
    with torch.no_grad(), model.evaluating():
        trial = as_token_batch({"input_ids": [row]})
        whole = model.logits(trial)[:, -1]
        inputs = first_inputs(model, [row[:-1], *longer])
        _, cache = cached_step(model, inputs, None)
        if cache is None:
            return math.inf
        inputs = next_inputs(inputs, torch.full_like(rows, row[-1]), rows)
        logits, _ = cached_step(model, inputs, cache)
    largest = whole.amax(dim=-1, keepdim=True)
    last = torch.arange(len(row))[None] == len(row) - 1
    require_finite(largest, model, trial, last, "a logit after a few tokens")
    # Tokens that a function at the logits has forbidden are infinitely improbable both ways.
    forbidden = (whole == -math.inf) & (logits[:1] == -math.inf)
    return difference(logits[:1].masked_fill(forbidden, 0.0), whole.masked_fill(forbidden, 0.0))
