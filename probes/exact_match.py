r"""Exact match: whether a model would write exactly the target after its prompt.

By teacher forcing: prompt and target run together once, and an item matches if at every place of
the target no token is more probable than the target's own (of equally probable ones, the first
token counts as chosen). Greedy decoding then writes the target, token for token: its first token is
the most probable one after the prompt, and from there on it sees what the pass has seen. So for a
target that ends in its end token this says, in one pass, what `probes.generation.generate` would
find out in as many steps as the target has tokens. The two can differ where

- two tokens are about as probable, and rounding decides (a row of another length is added up in
  another order; in half precision ties are common);
- the model writes the same text in other tokens: then only a comparison of texts calls it right
  (`training.recall`), which may also forgive case, punctuation or another name;
- the target does not hold its end: a model that goes on after it still matches here;
- a function is attached to the logits themselves: only generation runs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.lens_items import Item, encoded_items
from probes.sequence_rope import rope_border
from probes.target_pass import Ids, read_targets


@dataclass(frozen=True, eq=False)
class TargetReadings:
    """What a model says of the tokens of targets, those of the first target first.

    Attributes:
        log_probs: of each token, in nats.
        chosen: whether greedy decoding would take it.
        lengths: tokens of each target.
    """

    log_probs: Float64[Tensor, "token"]
    chosen: Bool[Tensor, "token"]
    lengths: Int64[Tensor, "item"]

    @property
    def matches(self) -> Bool[Tensor, "item"]:
        """Whether every token of each target would be taken."""
        return self._summed((~self.chosen).double()) == 0

    @property
    def sums(self) -> Float64[Tensor, "item"]:
        """Log-probability of each whole target, in nats."""
        return self._summed(self.log_probs)

    def _summed(self, values: Float64[Tensor, "token"]) -> Float64[Tensor, "item"]:
        owner = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        zeros = torch.zeros(len(self.lengths), dtype=torch.float64)
        return zeros.index_add(0, owner, values)


@takes(model=hooked_model)
def exact_matches(
    model: HookedModel,
    items: Sequence[Item],
    *,
    prepend_bos: bool | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> Bool[Tensor, "item"]:
    """Whether greedy decoding would write each target after its prompt; see `target_readings`."""
    return target_readings(
        model, items, prepend_bos=prepend_bos, distributed=distributed, on_items=on_items
    ).matches


def target_readings(
    model: HookedModel,
    items: Sequence[Item],
    *,
    prepend_bos: bool | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> TargetReadings:
    """Log-probabilities of the tokens of targets, and whether greedy decoding would take them.

    Args:
        model: the hooked model; what is attached to it counts, but for functions at the logits.
        items: pairs of prompt and target, as texts or token ids, or what `lens_items` returns.
        prepend_bos: whether prompts of text begin with a BOS; None for the tokenizer's own habit.
        distributed: share the work out over the processes of the default group; every process
            returns the readings of all.
        on_items: called with the number of items of every batch when it is done.

    Raises:
        ValueError: there are no items; a prompt or target is empty, too long or not of this
            vocabulary.
    """
    encoded = encoded_items(model, items, prepend_bos=prepend_bos)
    pairs = [(item.prompt_ids, item.target_ids) for item in encoded]
    found = read_targets(
        model,
        _as_written(pairs, rope_border(model.engine.config)),
        _log_prob_and_choice,
        values=2,
        distributed=distributed,
        on_items=on_items,
    )
    lengths = torch.tensor([len(target) for _, target in pairs])
    return TargetReadings(found[:, 0], found[:, 1] == 1, lengths)


def _log_prob_and_choice(
    logits: Float[Tensor, "node d_vocab"],
    node: Int64[Tensor, "token"],
    token: Int64[Tensor, "token"],
) -> Float64[Tensor, "token 2"]:
    log_probs = logits[node, token] - logits.logsumexp(dim=-1)[node]
    chosen = logits.argmax(dim=-1)[node] == token
    return torch.stack([log_probs.double(), chosen.double()], dim=1)


def _as_written(items: Sequence[tuple[Ids, Ids]], border: int | None) -> list[tuple[Ids, Ids]]:
    """Items cut where a model that writes them changes its rotary frequencies."""
    if border is None:
        return list(items)
    cut: list[tuple[Ids, Ids]] = []
    for prompt, target in items:
        before, whole = border + 1 - len(prompt), (*prompt, *target)
        if 0 < before < len(target):
            cut.append((prompt, target[:before]))
            prompt, target = whole[: border + 1], target[before:]
        cut.append((prompt, target))
    return cut
