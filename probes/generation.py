"""Generation: what a model writes after prompts, many prompts at a time, as it would one by one.

The model runs with its key-value cache: the prompts of a batch once, then one token for each row
and step. Prompts of about equal length share a batch, padded on the left, where a trial shows that
pads change nothing; elsewhere only prompts of one length do. So a prompt gets what it would get by
itself, but for rounding, which in half precision is coarse.

With a temperature T a token is drawn from softmax(logits / T), by a number that is drawn for each
prompt and place beforehand: which prompts share a batch does not matter here either. Source of
`top_p`: Holtzman et al., arXiv 1904.09751. Functions attached to the model see whole prompts first,
with their pads, and then one position at a time.
"""

import inspect
import math
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from probes.backends.engine import model_inputs
from probes.checking import all_finite, difference, few_tokens, hooked_model, takes, tolerance
from probes.choices import Backend
from probes.corpus.token_batch import (
    as_token_batch,
    batches_by_length,
    from_everywhere,
    left_padded,
    own_share,
)
from probes.hooks import refusal, require_finite
from probes.prompts import Prompts, Text, texts_of
from probes.refusals import shown, whole_number
from probes.rotary import rope_border
from probes.running_model import RunningModel

Ids = Sequence[int]
_TRIAL_PADS = 3


def first_inputs(model: RunningModel, rows: Sequence[Ids]) -> dict[str, Tensor]:
    """Inputs that run whole rows; a mask and positions only where rows are padded."""
    batch = as_token_batch(left_padded(rows))
    return model_inputs(batch, model.anatomy, model.engine.config, model.name)


def next_inputs(
    inputs: dict[str, Tensor], tokens: Int64[Tensor, "row"], left: Int64[Tensor, "left"]
) -> dict[str, Tensor]:
    """Inputs that run one more token of the rows that are left."""
    following = {"input_ids": tokens[left, None]}
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"][left]
        following["attention_mask"] = torch.nn.functional.pad(mask, (0, 1), value=1)
    if "position_ids" in inputs:
        following["position_ids"] = inputs["position_ids"][left, -1:] + 1
    return following


def cached_step(
    model: RunningModel, inputs: dict[str, Tensor], cache: Any | None
) -> tuple[Float[Tensor, "row d_vocab"], Any | None]:
    """Run the next tokens of all rows."""
    hf_model = model.hf_model
    takes = inspect.signature(hf_model.forward).parameters
    last_alone = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    # The model itself and not its trunk, so that functions at the logits count as well.
    output = hf_model(**inputs, **last_alone, past_key_values=cache, use_cache=True)
    return output.logits[:, -1], getattr(output, "past_key_values", None)


def why_not_padded(model: RunningModel) -> str | None:
    """Why rows of several lengths cannot run together; None where they can."""
    return _why_not(model, pads=_TRIAL_PADS, what="with pads on the left")


def _why_not(model: RunningModel, *, pads: int, what: str) -> str | None:
    """Why logits after a short row with a cache are not those without; None where they are."""
    row = few_tokens(model.d_vocab, torch.device("cpu"))[0].tolist()
    longer = [row[:-1] + row[:pads]] if pads else []
    rows = torch.arange(1 + len(longer), device=model.device)
    gap = math.inf
    with torch.no_grad(), model.evaluating():
        trial = as_token_batch({"input_ids": [row]})
        whole = model.logits(trial)[:, -1]
        inputs = first_inputs(model, [row[:-1], *longer])
        _, cache = cached_step(model, inputs, None)
        if cache is not None:
            inputs = next_inputs(inputs, torch.full_like(rows, row[-1]), rows)
            logits, _ = cached_step(model, inputs, cache)
            last = torch.arange(len(row))[None] == len(row) - 1
            largest = whole.amax(dim=-1, keepdim=True)
            require_finite(largest, model, trial, last, "a logit after a few tokens")
            # Tokens that a function at the logits forbids are infinitely improbable both ways.
            forbidden = (whole == -math.inf) & (logits[:1] == -math.inf)
            pair = (values.masked_fill(forbidden, 0.0) for values in (logits[:1], whole))
            gap = difference(*pair)
    # Also where it is no number.
    if not gap <= tolerance(model.dtype):
        return f"{model.name} gives other logits {what}, by {gap:.2g} of the largest"
    return None


_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ELSEWHERE = 32768
_BATCH_ROWS = 512


@takes(model=hooked_model)
def generate(
    model: RunningModel,
    prompts: Text | Sequence[Text],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] | int = (),
    prepend_bos: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    batch_tokens: int | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue prompts, each until it stops or has so many new tokens.

    Args:
        model: the hooked model, on the native backend; what is attached to it counts.
        prompts: texts, or lists of token ids, each at least one; a text by itself is one prompt.
        max_new_tokens: at most so many tokens after each prompt.
        stop_ids: tokens that end a continuation; they are part of it.
        prepend_bos: whether prompts of text begin with a BOS; None for the tokenizer's own habit.
        temperature: what logits are divided by before a token is drawn; None for the most probable
            token.
        top_k: with a temperature, draw among so many of the most probable tokens.
        top_p: with a temperature, draw among the fewest most probable tokens (of those that `top_k`
            leaves) that have so much probability together.
        generator: what draws, on the CPU; for a temperature alone.
        batch_tokens: at most so many prompt and new tokens (pads counted) in a batch, unless one
            prompt has more; None for a number that suits the device.
        distributed: share the batches out over the processes of the default group; every process
            returns all continuations.
        on_items: called with the number of prompts of every batch when it is done.

    Returns:
        The new tokens of each prompt, in the order of the prompts; the last is a stop token where
        one came.

    Raises:
        ValueError: there are no prompts, one is empty, too long or not of this vocabulary; a number
            is out of range; there is a temperature without a generator, or the other way round; the
            model does not run natively or not with a cache; its logits are not finite.
    """
    rows = Prompts.of(model, prepend_bos).ids(texts_of(prompts))
    lengths = [len(row) for row in rows]
    stops = [stop_ids] if isinstance(stop_ids, int) else list(stop_ids)
    if not all(isinstance(stop, int) for stop in stops):
        raise ValueError(
            f"stop_ids is {shown(stop_ids)}; give token ids: model.to_single_token(...)"
        )
    _refuse_misfits(model, lengths, max_new_tokens, temperature, generator, batch_tokens)
    _refuse_narrowing(temperature, top_k, top_p)
    draws = None
    if generator is not None:
        shape = len(rows), max_new_tokens
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    choice = _Choice(temperature, draws, top_k, top_p)
    budget = batch_tokens or _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
    written: dict[int, list[int]] = {}
    with torch.no_grad(), model.evaluating():
        if reason := _why_not(model, pads=0, what="with its key-value cache"):
            raise ValueError(
                f"{reason}, so it cannot generate; see whether it does without what is attached to "
                "it, or use a model of another family"
            )
        padded = len(set(lengths)) > 1 and why_not_padded(model) is None
        batches = batches_by_length(
            lengths, tokens=budget, rows=_BATCH_ROWS, more=max_new_tokens, alike=not padded
        )
        for batch in own_share(batches, distributed):
            run = _Continuations(model, choice, stops)
            found = run.after([rows[i] for i in batch], batch, max_new_tokens)
            written |= dict(zip(batch, found, strict=True))
            if on_items is not None:
                on_items(len(batch))
    everything = ChainMap(*from_everywhere(written, distributed))
    return [everything[i] for i in range(len(rows))]


@dataclass(frozen=True, eq=False)
class _Choice:
    temperature: float | None
    draws: Float64[Tensor, "prompt step"] | None  # from 0 to below 1; None where nothing is drawn
    top_k: int | None = None
    top_p: float | None = None

    def tokens(
        self, logits: Float[Tensor, "row d_vocab"], prompts: Sequence[int], step: int
    ) -> Int64[Tensor, "row"]:
        """The next token of each row; `prompts` says which prompt a row continues."""
        if self.temperature is None:
            return logits.argmax(dim=-1)
        assert self.draws is not None
        # From the largest down: a low temperature must not send it to infinity.
        below = logits.double() - logits.double().amax(dim=-1, keepdim=True)
        up_to = self._narrowed((below / self.temperature).softmax(dim=-1)).cumsum(dim=-1)
        # The sum of all is 1 but for rounding; a draw below it falls to a token that can come.
        draws = self.draws[list(prompts), step].to(logits.device)[:, None] * up_to[:, -1:]
        return torch.searchsorted(up_to, draws, right=True)[:, 0]

    def _narrowed(self, chances: Float64[Tensor, "row d_vocab"]) -> Float64[Tensor, "row d_vocab"]:
        """Probabilities with those at zero that cannot be drawn."""
        if self.top_k is None and self.top_p is None:
            return chances
        most = chances.shape[-1] if self.top_k is None else min(self.top_k, chances.shape[-1])
        largest, places = chances.topk(most, dim=-1)
        if self.top_p is not None:
            shares = largest / largest.sum(dim=-1, keepdim=True)
            before = shares.cumsum(dim=-1) - shares
            largest = largest.masked_fill(before >= self.top_p, 0.0)
        return torch.zeros_like(chances).scatter(-1, places, largest)


class _Continuations:
    def __init__(self, model: RunningModel, choice: _Choice, stop_ids: Sequence[int]) -> None:
        self._model = model
        self._choice = choice
        border = rope_border(model.engine.config)
        self._cut = None if border is None else border + 1
        self._stops = torch.tensor(list(stop_ids), dtype=torch.long, device=model.device)

    def after(
        self, prompts: Sequence[Ids], numbers: Sequence[int], limit: int, first: int = 0
    ) -> list[list[int]]:
        """The new tokens of each prompt, from step `first` to the limit."""
        written: list[list[int]] = [[] for _ in prompts]
        going, cache = list(range(len(prompts))), None
        inputs = first_inputs(self._model, prompts)
        for step in range(first, limit):
            logits, cache = cached_step(self._model, inputs, cache)
            # A largest logit that is finite leaves no NaN and no infinity above it.
            if not all_finite(largest := logits.amax(dim=-1)):
                row = int((~largest.isfinite()).nonzero()[0])
                raise self._refusal(
                    numbers[going[row]], [*prompts[going[row]], *written[going[row]]]
                )
            tokens = self._choice.tokens(logits, [numbers[row] for row in going], step)
            for row, token in zip(going, tokens.tolist(), strict=True):
                written[row].append(token)
            goes_on = torch.isin(tokens, self._stops, invert=True)
            # Where rotary frequencies change, what the cache holds no longer goes with them.
            crossing = [
                row
                for place, row in enumerate(going)
                if len(prompts[row]) + len(written[row]) == self._cut and bool(goes_on[place])
            ]
            if crossing and step + 1 < limit:
                longer = [[*prompts[row], *written[row]] for row in crossing]
                rest = self.after(longer, [numbers[row] for row in crossing], limit, step + 1)
                for row, more in zip(crossing, rest, strict=True):
                    written[row] += more
                    goes_on[going.index(row)] = False
            left = goes_on.nonzero()[:, 0]
            if not len(left):
                break
            if len(left) < len(going):
                assert cache is not None, "the trial would have shown it"
                # Rows that have stopped are taken out: they cost as much as those that go on.
                cache.batch_select_indices(left)
                going = [going[place] for place in left.tolist()]
            inputs = next_inputs(inputs, tokens, left)
        return written

    def _refusal(self, number: int, ids: Ids) -> ValueError:
        """What to raise where the logits after these tokens of a prompt are not finite."""
        batch = as_token_batch({"input_ids": [list(ids)]})
        return refusal(
            self._model,
            "a logit",
            lambda: self._model.trunk(batch),
            torch.ones_like(batch.input_ids, dtype=torch.bool),
            lambda _row, pos: f"prompt {number}, token {pos}",
            (0, len(ids) - 1),
        )


def _refuse_narrowing(temperature: float | None, top_k: int | None, top_p: float | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: give 1 or more, or None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: give a number above 0 and up to 1, or None")
    if temperature is None and (top_k is not None or top_p is not None):
        raise ValueError(
            "top_k and top_p say among which tokens one is drawn, and without a temperature none "
            "is; give a temperature (1.0 for the model's own)"
        )


def _refuse_misfits(
    model: RunningModel,
    lengths: Sequence[int],
    new: int,
    temperature: float | None,
    generator: torch.Generator | None,
    batch_tokens: int | None,
) -> None:
    if wrong := whole_number()(new):
        raise ValueError(f"max_new_tokens is {wrong}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is {shown(generator)}; give torch.Generator().manual_seed(...)"
        )
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature}: give a number above 0, or None for the most probable "
            "token"
        )
    if (temperature is None) != (generator is None):
        raise ValueError(
            f"temperature is {temperature} and generator {'not ' if generator is None else ''}"
            "given: a temperature needs a generator to draw from, and only a temperature does"
        )
    if batch_tokens is not None and batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}: give 1 or more, or None")
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"{model.name} runs on backend {str(model.backend)!r}, which does not generate; load "
            "it with backend='native'"
        )
    if not lengths:
        raise ValueError("there are no prompts to continue; give at least one")
    positions = model.n_positions
    # The last new token is not run.
    if positions is not None and max(lengths) + new - 1 > positions:
        raise ValueError(
            f"a prompt of {max(lengths)} tokens and {new} new ones are more than the {positions} "
            f"positions of {model.name}; lower max_new_tokens or shorten the prompt"
        )
