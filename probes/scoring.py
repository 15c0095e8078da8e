r"""Target log-probabilities, and exact matches: would greedy decoding write the target?

For target tokens \(y_1 \dots y_n\) after a prompt \(x\) the log-probabilities
\(\ln p(y_i \mid x, y_{<i})\), in nats, become one score: their mean by default, their sum, or the
padded mean of the released code. Text is split by `probes.prompts`; the pass is
`probes.target_pass`.

An item **matches exactly** if at every place of the target no token is more probable than its own
(of equally probable ones, the first counts as chosen): greedy decoding then writes the target. The
two can differ where rounding decides between tokens, where the model writes the same text in other
tokens (`training.recall` compares texts), where it goes on after a target without its end, and
where a function is attached to the logits themselves, which only generation runs.

Source: Kim et al., ICLR 2025, Eq. 4; Chang et al., NeurIPS 2024.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from probes.checking import hooked_model, pairs, takes
from probes.choices import Compat, as_choice
from probes.hooked_model import HookedModel
from probes.prompts import Ids, Item, LensItem, Prompts, Text, encoded_items
from probes.rotary import rope_border
from probes.shown import Shown
from probes.target_pass import by_item, read_targets, target_sums


class TargetReduction(StrEnum):
    """How the log-probabilities of a target's tokens become one number."""

    TOKEN_MEAN = "token_mean"
    """The mean over tokens: nats per token."""
    SUM = "sum"
    """The sum over tokens: nats per target."""


@dataclass(frozen=True)
class PaddedMean:
    """The released code's reduction; it depends on the order of the items.

    Items are dealt to processes in turn, the first ones once more until all have the same number,
    and every process takes its own in batches, in order.
    """

    batch_size: int = 16
    """Items in a batch of one process."""
    world_size: int = 4
    """Processes."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")

    def positions(self, lengths: Sequence[int]) -> list[int]:
        """Over how many positions each item's loss is averaged.

        Args:
            lengths: tokens of prompt and target together, item by item, in order.

        Returns:
            The longest of each item's batch, less one: nothing predicts the first token.
        """
        count = len(lengths)
        dealt = range(-(-count // self.world_size) * self.world_size)
        found: dict[int, int] = {}
        for process in range(self.world_size):
            own = [place % count for place in dealt[process :: self.world_size]]
            for start in range(0, len(own), self.batch_size):
                batch = own[start : start + self.batch_size]
                longest = max(lengths[item] for item in batch)
                # An item that is dealt twice keeps what it got first.
                found = dict.fromkeys(batch, longest - 1) | found
        return [found[item] for item in range(count)]


Reduction = TargetReduction | PaddedMean


def as_reduction(given: Reduction | str) -> Reduction:
    """The reduction that is meant."""
    if isinstance(given, PaddedMean):
        return given
    try:
        return TargetReduction(given)
    except ValueError:
        raise ValueError(
            f"reduction must be one of {', '.join(TargetReduction)}, or a PaddedMean; found "
            f"{given!r}"
        ) from None


@takes(model=hooked_model, items=pairs)
def target_log_probs(
    model: HookedModel,
    items: Sequence[Item],
    reduction: Reduction | str = TargetReduction.TOKEN_MEAN,
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
            (`probes.target_pass`). Elsewhere (other backends, attention without a mask of one's
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
    """From the log-probability of whole targets to scores."""
    if reduction is TargetReduction.SUM:
        return sums
    if reduction is TargetReduction.TOKEN_MEAN:
        return sums / torch.tensor([len(item.target_ids) for item in items])
    assert isinstance(reduction, PaddedMean)
    whole = [len(item.prompt_ids) + len(item.target_ids) for item in items]
    return sums / torch.tensor(reduction.positions(whole))


Choice = Sequence[Text]  # context and continuation, as texts or token ids


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as tokens, to be scored again and again."""

    items: tuple[tuple[Ids, Ids], ...]
    """Context and continuation of every choice, question by question."""
    choices: tuple[int, ...]  # how many choices each question has
    truncated: int  # how many choices had the start of their context cut off
    split_apart: int  # how many choices were split apart from their context


@dataclass(frozen=True)
class ChoiceScores(Shown):
    """What a model makes of the choices of some questions."""

    log_probs: tuple[Float64[Tensor, "_choice"], ...]
    """For each question, the log-probability of each choice's continuation, in nats."""
    truncated: int
    """How many choices had the start of their context cut off to fit the model."""
    split_apart: int = 0
    """How many choices were split apart from their context."""


@takes(model=hooked_model)
def choice_scores(
    model: HookedModel,
    questions: Sequence[Sequence[Choice]] | EncodedQuestions,
    *,
    prepend_bos: bool | None = None,
    compat: Compat | str | None = None,
    share_prefixes: bool = True,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> ChoiceScores:
    """Score the choices of questions, pairs of context and continuation.

    What `encode_questions` returns is taken as it is; `compat="official"` splits every continuation
    by itself. The other arguments are those of `target_log_probs`, with a choice for an item.

    Returns:
        Nats, question by question and choice by choice, on the CPU.

    Raises:
        ValueError: as `encode_questions`.
    """
    if not isinstance(questions, EncodedQuestions):
        questions = encode_questions(model, questions, prepend_bos=prepend_bos, compat=compat)
    sums = target_sums(
        model,
        questions.items,
        share_prefixes=share_prefixes,
        distributed=distributed,
        on_items=on_items,
    )
    log_probs = sums.split(list(questions.choices))
    return ChoiceScores(log_probs, questions.truncated, questions.split_apart)


def encode_questions(
    model: HookedModel,
    questions: Sequence[Sequence[Choice]],
    *,
    prepend_bos: bool | None = None,
    compat: Compat | str | None = None,
) -> EncodedQuestions:
    """Questions as tokens, checked and cut to what the model takes."""
    if not questions or not all(questions):
        raise ValueError("every question needs a choice, and there must be one question at least")
    pairs = [choice for question in questions for choice in question]
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"a choice is a context and a continuation; found {pair!r}")
    splits = Prompts.of(model, prepend_bos).pairs(
        [(context, continuation) for context, continuation in pairs],
        what=("context", "continuation"),
        compat=None if compat is None else as_choice(Compat, compat, "compat"),
    )
    longest = model.n_positions
    items, truncated = [], 0
    for (_, continuation), split in zip(pairs, splits, strict=True):
        before, after = split.parts
        # The last token is predicted, not run.
        room = len(before) if longest is None else longest - (len(after) - 1)
        if room < 1:
            raise ValueError(
                f"the continuation that starts {str(continuation)[:40]!r} has {len(after)} tokens; "
                f"{model.name} takes {longest}"
            )
        truncated += len(before) > room
        items.append((before[-room:], after))
    apart = sum(split.apart for split in splits)
    return EncodedQuestions(tuple(items), tuple(map(len, questions)), truncated, apart)


@dataclass(frozen=True, eq=False)
class TargetReadings(Shown):
    """What a model says of the tokens of targets, those of the first target first."""

    log_probs: Float64[Tensor, "token"]  # nats, token by token
    chosen: Bool[Tensor, "token"]  # whether greedy decoding would take it
    lengths: Int64[Tensor, "item"]  # tokens of each target

    @property
    def matches(self) -> Bool[Tensor, "item"]:
        """Whether every token of each target would be taken."""
        return by_item((~self.chosen).double(), self.lengths.tolist()) == 0

    @property
    def sums(self) -> Float64[Tensor, "item"]:
        """Log-probability of each whole target, in nats."""
        return by_item(self.log_probs, self.lengths.tolist())


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

    The arguments are those of `target_log_probs`; functions at the logits do not count.

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


def _as_written(
    items: Sequence[tuple[Sequence[int], Sequence[int]]], border: int | None
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Items cut where a model that writes them changes its rotary frequencies."""
    if border is None:
        return list(items)
    cut: list[tuple[Sequence[int], Sequence[int]]] = []
    for prompt, target in items:
        before, whole = border + 1 - len(prompt), (*prompt, *target)
        if 0 < before < len(target):
            cut.append((prompt, target[:before]))
            prompt, target = whole[: border + 1], target[before:]
        cut.append((prompt, target))
    return cut
