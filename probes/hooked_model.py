"""Hooked model: what a script does with a model, in the words of TransformerLens.

Text goes in wherever token ids do. Texts of several lengths are padded on the left, so that
position -1 is the last token of each, and pads are masked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.captured import Captured
from probes.checking import as_device, hook_pairs
from probes.choices import ReturnType, as_choice
from probes.corpus.token_batch import TokenBatch, as_token_batch, left_padded
from probes.generation import generate
from probes.places import HookFunction, keeping
from probes.prompts import Ids, Prompts, texts_of
from probes.refusals import shown
from probes.running_model import RunningModel
from probes.shown import Shown
from probes.sites import HookPoint, NamesFilter, Site, hook_name
from probes.weights import ModelFacts, Weights, facts_of

Given = Int[Tensor, "batch pos"] | Int[Tensor, "pos"] | str | Sequence[Any]
"""Token ids, or one text or several."""
HookName = str | tuple[Site | str, int | None] | Callable[[str], bool]


class HookedModel(Shown, RunningModel, Weights):
    """A causal language model whose hook points can be read and edited.

    Attributes:
        engine: what runs it.
        tokenizer: its tokenizer, or None.
        name: what it was loaded as.
        revision: the hub revision it was loaded at, or None.
    """

    _instead: ClassVar[Mapping[str, str]] = {
        "reset_hooks": "hooks come off at the end of `with model.hooks(...)`",
        "add_hook": "use `with model.hooks([(name, function)])`",
        "hook_dict": "model.hook_names() lists its hook points",
        "to": "name the device to probes.load_model, or use model.hf_model",
        "eval": "it is in evaluation mode; to train it, use training.train or model.hf_model",
        "parameters": "use model.hf_model.parameters()",
        "config": "use model.cfg, or model.hf_model.config",
    }

    def _facts(self) -> Mapping[str, Any]:
        at = f" at {self.revision}" if self.revision else ""
        sizes = {name: getattr(self, name) for name in ("n_layers", "n_heads", "d_model", "d_mlp")}
        kept = {"dtype": self.dtype, "device": self.device, "backend": self.backend}
        return {"": f"{self.name}{at}", "family": self.architecture.family, **sizes, **kept}

    @property
    def cfg(self) -> ModelFacts:
        """Facts of the model by TransformerLens's names; the configuration is `hf_model.config`."""
        return facts_of(self)

    def to_tokens(
        self, text: str | Sequence[str], *, prepend_bos: bool | None = None
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of one text, or of several of the same length in tokens.

        Args:
            text: one, or several.
            prepend_bos: whether each begins with a BOS; None for the tokenizer's own habit. One
                that is written in the text is not doubled, and no end is added.

        Raises:
            ValueError: there is no tokenizer, or the texts differ in length or have no tokens.
        """
        rows = self._ids(text, prepend_bos)
        if len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"texts have {[len(row) for row in rows]} tokens; pass one text, texts of one "
                "length, or a padded batch with its attention_mask; a call of the model pads "
                "texts itself"
            )
        return torch.tensor(rows, device=self.device)

    def to_string(self, tokens: Int[Tensor, "*batch pos"] | Sequence[Any] | int) -> Any:
        """The text of token ids; a list of texts for `[batch pos]`."""
        listed = tokens.tolist() if hasattr(tokens, "tolist") else tokens
        if isinstance(listed, list | tuple) and listed and isinstance(listed[0], list | tuple):
            return [self.to_string(row) for row in listed]
        (ids,) = Prompts.of(self).ids([[listed] if isinstance(listed, int) else listed], "tokens")
        return Prompts.of(self).tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def to_str_tokens(
        self, text: str | Sequence[Any] | Tensor, *, prepend_bos: bool | None = None
    ) -> Any:
        """The tokens of a text, or of token ids, as a list of strings; of several, a list of lists.

        Raises:
            ValueError: there is no tokenizer, or a text has no tokens.
        """
        rows = self._ids(text, prepend_bos)
        found = [[self.to_string(token) for token in row] for row in rows]
        several = not isinstance(text, str | Tensor) and not isinstance(text[0], int)
        return found if several or len(found) > 1 else found[0]

    def to_single_token(self, text: str) -> int:
        """The token id of a text that is one token.

        Raises:
            ValueError: it is not one.
        """
        return Prompts.of(self, False).single(text)

    def to_single_str_token(self, token: int) -> str:
        """The text of one token id."""
        return self.to_string(token)

    def __call__(
        self,
        tokens: Given,
        *,
        return_type: ReturnType | str | None = ReturnType.LOGITS,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        prepend_bos: bool | None = None,
    ) -> Any:
        """What the model says of token ids or text, through whatever is attached.

        Args:
            tokens: token ids, or text; texts of several lengths are padded on the left.
            return_type: `"logits"`, `[batch pos d_vocab]`; `"loss"`, the mean of -log p of the next
                token, in nats, pads left out; `"both"`; or None for neither.
            attention_mask: of token ids, 0 on pads; None where there are none.
            prepend_bos: of text, as `to_tokens`.

        Raises:
            ValueError: it has no tokens that it could read, or too many.
        """
        kind = None if return_type is None else as_choice(ReturnType, return_type, "return_type")
        batch = self._batch(tokens, attention_mask, prepend_bos)
        return _returned(self.logits(batch), batch, kind)

    def run_with_hooks(
        self,
        tokens: Given,
        fwd_hooks: Sequence[tuple[HookName, HookFunction]] = (),
        **how: Any,
    ) -> Any:
        """What a call with the same arguments returns, with functions attached meanwhile.

        Args:
            tokens: token ids, or text.
            fwd_hooks: pairs of hook point, TransformerLens name or predicate over names, and
                `fn(tensor, hook)`, which returns a replacement or None; `hook.name` is the name.
            **how: as in a call of the model: `return_type`, `attention_mask`, `prepend_bos`.

        Raises:
            ValueError: a hook point does not exist.
        """
        pairs: list[tuple[Any, HookFunction]] = []
        for name, function in hook_pairs(fwd_hooks):
            points = self._selected_points(name) if callable(name) else [name]
            pairs += [(point, function) for point in points]
        with self.hooks(pairs):
            return self(tokens, **how)

    def run_with_cache(
        self,
        tokens: Given,
        names_filter: NamesFilter = None,
        *,
        return_type: ReturnType | str | None = ReturnType.LOGITS,
        remove_batch_dim: bool = False,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        prepend_bos: bool | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[Any, Captured]:
        """What a call returns, logits for example, and the tensors at some hook points.

        Args:
            tokens: token ids, or text; texts of several lengths are padded on the left.
            names_filter: TransformerLens name, list of names, or predicate over names; None keeps
                everything, which takes far more memory than the model itself: prefer a filter. Hook
                points that are read on request (see `probes.sites`) have to be named.
            return_type: as in a call of the model.
            remove_batch_dim: whether the cache of one text has no axis for rows.
            attention_mask: of token ids, 0 on pads; None where there are none.
            prepend_bos: of text, as `to_tokens`.
            device: where to keep the tensors; None for where they are.

        Returns:
            What a call returns, and the captured tensors; nothing has gradients (a call or
            `run_with_hooks` keeps them).

        Raises:
            ValueError: a name does not exist, or the filter selects nothing.
        """
        kind = None if return_type is None else as_choice(ReturnType, return_type, "return_type")
        batch = self._batch(tokens, attention_mask, prepend_bos)
        points = self._selected_points(names_filter)
        kept: dict[HookPoint, Tensor] = {}
        device = None if device is None else as_device(device)
        hooks = self.hooks(keeping(points, kept, lambda t: t.detach().to(device or t.device)))
        with torch.no_grad(), self.evaluating(), hooks:
            logits = self.logits(batch)
        found = {point: kept[point] for point in points}
        cache = Captured(found, model=self, attention_mask=batch.attention_mask)
        if remove_batch_dim:
            cache.remove_batch_dim()
        return _returned(logits, batch, kind), cache

    def generate(
        self,
        tokens: Given = "",
        max_new_tokens: int = 10,
        *,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        prepend_bos: bool | None = None,
        return_type: str = "input",
    ) -> Any:
        """Prompts and what the model writes after them, through whatever is attached.

        The most probable token at each place, unless something is said about drawing.

        Args:
            tokens: token ids, or text; several at once give what each gives by itself.
            max_new_tokens: at most so many tokens after each.
            do_sample: whether tokens are drawn; None where a temperature, `top_k` or `top_p` says
                so.
            temperature: what logits are divided by; 1 where tokens are drawn.
            top_k: draw among so many tokens only.
            top_p: draw among the fewest most probable tokens that have so much probability.
            seed: what is drawn; the same seed draws the same.
            stop_at_eos: whether a continuation ends at an end-of-sequence token, which is part of
                it.
            eos_token_id: these tokens; None for those of the model and its tokenizer.
            prepend_bos: of text, as `to_tokens`.
            return_type: `"str"`, `"tokens"`, or `"input"` for what was given. Texts are without
                special tokens; rows of token ids that ended early are filled with their last.

        Raises:
            ValueError: as `probes.generate`.
        """
        prompts = texts_of(tokens)
        are_ids = not any(isinstance(prompt, str) for prompt in prompts)
        kinds = {"input": are_ids, "tokens": True, "str": False}
        if return_type not in kinds:
            raise ValueError(f"return_type is {return_type!r}; give 'input', 'str' or 'tokens'")
        given = Prompts.of(self, prepend_bos).ids(prompts)
        ends = self._ends(eos_token_id) if stop_at_eos else []
        if do_sample is None:
            do_sample = not (temperature is None and top_k is None and top_p is None)
        if do_sample:
            temperature = 1.0 if temperature is None else temperature
        else:
            temperature = top_k = top_p = None
        generator = torch.Generator().manual_seed(seed) if do_sample else None
        new = generate(
            self,
            given,
            max_new_tokens=max_new_tokens,
            stop_ids=ends,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
        )
        rows = [[*before, *after] for before, after in zip(given, new, strict=True)]
        if kinds[return_type]:
            if len({len(row) for row in given}) != 1:
                raise ValueError(
                    f"prompts have {[len(row) for row in given]} tokens, so their rows are no "
                    "tensor; give return_type='str', or call probes.generate"
                )
            width = max(map(len, rows))
            filled = [row + row[-1:] * (width - len(row)) for row in rows]
            return torch.tensor(filled, device=self.device)
        tokenizer = Prompts.of(self).tokenizer
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        return texts[0] if isinstance(tokens, str) else texts

    def _ends(self, given: int | Sequence[int] | None) -> list[int]:
        """The tokens that end a text."""
        if given is None:
            config = getattr(self.engine.module, "generation_config", None)
            own = getattr(config, "eos_token_id", None)
            both = [own, getattr(self.tokenizer, "eos_token_id", None)]
            found = {i for ids in both for i in (ids if isinstance(ids, list) else [ids])}
            return sorted(token for token in found if token is not None)
        return [given] if isinstance(given, int) else list(given)

    def _ids(self, given: Any, prepend_bos: bool | None) -> list[Ids]:
        """Token ids of one text or several; those of texts are begun."""
        if not (texts := texts_of(given, "texts")):
            raise ValueError("there are no texts; give at least one")
        return Prompts.of(self, prepend_bos).ids(texts, "text")

    def _batch(
        self, tokens: Any, attention_mask: Tensor | None, prepend_bos: bool | None
    ) -> TokenBatch:
        if isinstance(tokens, Tensor):
            ids = tokens[None] if tokens.ndim == 1 else tokens
            return as_token_batch({"input_ids": ids, "attention_mask": attention_mask})
        rows = self._ids(tokens, prepend_bos)
        if attention_mask is not None:
            raise ValueError("attention_mask goes with token ids; of texts the model makes its own")
        return as_token_batch(left_padded(rows))

    def _selected_points(self, names_filter: NamesFilter) -> list[HookPoint]:
        points, gated = self.hook_points(), self.architecture.gated
        if names_filter is not None and not callable(names_filter):
            if not isinstance(names_filter, Iterable):
                raise ValueError(
                    f"names_filter is {shown(names_filter)}; give a name, a list of names, or a "
                    "function of a name"
                )
            names = [names_filter] if isinstance(names_filter, str) else [*names_filter]
            if names:
                return [self.hook_point(name) for name in names]
            names_filter = lambda _name: False  # noqa: E731
        wanted = names_filter or (lambda _name: True)
        if chosen := [point for point in points if wanted(hook_name(point, gated=gated))]:
            return chosen
        raise ValueError(
            "names_filter selects no hook point; model.hook_names() lists the "
            f"{len(points)} there are"
        )


def _returned(logits: Tensor, batch: TokenBatch, kind: ReturnType | None) -> Any:
    if kind is None or kind is ReturnType.LOGITS:
        return logits if kind else None
    loss = _next_token_loss(logits, batch)
    return loss if kind is ReturnType.LOSS else (logits, loss)


def _next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"], batch: TokenBatch
) -> Float[Tensor, ""]:
    """The mean of -log p of every token that follows another."""
    ids, mask = batch.input_ids.to(logits.device), batch.attention_mask.to(logits.device).bool()
    if ids.shape[1] < 2:
        raise ValueError("a loss needs rows of two tokens or more; the first is not predicted")
    log_probs = logits[:, :-1].float().log_softmax(dim=-1)
    found = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    return -found[mask[:, :-1] & mask[:, 1:]].mean()
