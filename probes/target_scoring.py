r"""Target log-probabilities: how probable a model finds a target after its prompt.

For target tokens \(y_1 \dots y_n\) after a prompt \(x\) the log-probabilities
\(\ln p(y_i \mid x, y_{<i})\), in nats, become one score: their mean by default, their sum, or the
padded mean of the released code (`probes.target_reduction`). This is what knowledge probes are
scored by.

Text is split into tokens by `probes.prompts`: prompt and target together, cut where the prompt
ends. The pass is `probes.target_pass`: rows of about equal length, starts that items share
computed once where the model allows it, target positions alone unembedded.

Source: Kim et al., ICLR 2025, Eq. 4; Chang et al., NeurIPS 2024.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                       # doctest: +SKIP
    >>> probes.target_log_probs(model, [("The capital of France is", " Paris")])    # doctest: +SKIP
    tensor([-0.2581], dtype=torch.float64)
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.given import hooked_model, pairs, takes
from probes.hooked_model import HookedModel
from probes.lens_items import Item, LensItem, encoded_items
from probes.target_pass import target_sums
from probes.target_reduction import PaddedMean, Reduction, TargetReduction, as_reduction


@takes(model=hooked_model, items=pairs)
def target_log_probs(
    model: HookedModel,
    items: Sequence[Item],
    reduction: TargetReduction | PaddedMean | str = TargetReduction.TOKEN_MEAN,
    *,
    prepend_bos: bool | None = None,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> Float64[Tensor, "item"]:
    """Score targets after their prompts.

    Args:
        model: the hooked model; what is attached to it counts.
        items: pairs of prompt and target, as texts or token ids; a target of text usually starts
            with a space. What `lens_items` returns is taken as it is, which saves splitting the
            same texts again and again.
        reduction: `"token_mean"`, `"sum"`, or a `PaddedMean`, to which the order of the items
            matters.
        prepend_bos: whether prompts of text begin with a BOS; None for the tokenizer's own habit.
        share_prefixes: compute what items have in common once, where that is exact
            (`probes.target_sharing`). Elsewhere (other backends, attention without a mask of one's
            own, sequences longer than a sliding window or than where rotary frequencies change),
            and if False, every item has a row of its own.
        distributed: share the work out over the processes of the default group; every process
            returns the scores of all.
        on_items: called with the number of items of every batch when it is done.

    Returns:
        A score for each item, in nats, on the CPU; at most 0.

    Raises:
        ValueError: there are no items, a prompt or target has no tokens, an item is longer than
            the model allows, or the reduction is unknown.
    """
    chosen = as_reduction(reduction)
    encoded = encoded_items(model, items, prepend_bos=prepend_bos)
    sums = target_sums(
        model,
        [(item.prompt_ids, item.target_ids) for item in encoded],
        share_prefixes=share_prefixes,
        distributed=distributed,
        on_items=on_items,
    )
    return reduced_sums(sums, encoded, chosen)


def reduced_sums(
    sums: Float64[Tensor, "item"], items: Sequence[LensItem], reduction: Reduction
) -> Float64[Tensor, "item"]:
    """From the log-probability of whole targets to scores.

    Args:
        sums: over the tokens of each target, in nats.
        items: in the order that the reduction is to see.
        reduction: what a score is.
    """
    if reduction is TargetReduction.SUM:
        return sums
    if reduction is TargetReduction.TOKEN_MEAN:
        return sums / torch.tensor([len(item.target_ids) for item in items])
    assert isinstance(reduction, PaddedMean)
    whole = [len(item.prompt_ids) + len(item.target_ids) for item in items]
    return sums / torch.tensor(reduction.positions(whole))
