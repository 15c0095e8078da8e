"""Lens items: a prompt, the target that should follow it, and where the subject stands, as tokens.

Text is split into tokens the way the model will see it: prompt and target together, cut where the
prompt ends. Where the tokenizer joins characters across that border the two are split apart from
each other, so that the prompt is always the user's. Token ids are taken as they are.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                    # doctest: +SKIP
    >>> lens_items(model, ["The capital of France is"], [" Paris"])[0].target_ids  # doctest: +SKIP
    (7042,)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Text = str | Sequence[int]


@dataclass(frozen=True)
class LensItem:
    """One prompt and its target.

    Attributes:
        prompt_ids: token ids of the prompt, special tokens in front included.
        target_ids: token ids of the target.
        prompt: the prompt as text; None where it was given as token ids.
        target: the target as text; None where it was given as token ids.
        subject: first token of the subject in the prompt and the one after its last, or None.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    prompt: str | None = None
    target: str | None = None
    subject: tuple[int, int] | None = None


def lens_items(
    model: Any,
    prompts: Sequence[Text],
    targets: Sequence[Text],
    *,
    subjects: Sequence[tuple[int, int] | None] | None = None,
    add_special_tokens: bool = True,
) -> list[LensItem]:
    """Prompts and targets as tokens, checked.

    Args:
        model: the hooked model whose tokenizer splits text.
        prompts: texts, or token ids.
        targets: as many texts, or token ids; a text usually starts with a space.
        subjects: where the subject stands in each prompt, `(start, stop)` in characters (in
            tokens, for prompts of token ids); None where it is not known.
        add_special_tokens: whether the tokenizer may put its own tokens (a beginning of sequence,
            say) before a prompt.

    Raises:
        ValueError: numbers of prompts and targets differ, a prompt or target has no tokens, the
            model has no tokenizer for text, or an item is longer than the model allows.
    """
    if len(prompts) != len(targets) or not prompts:
        raise ValueError(
            f"each prompt needs a target: found {len(prompts)} prompts and {len(targets)} targets"
        )
    spans = [None] * len(prompts) if subjects is None else list(subjects)
    if len(spans) != len(prompts):
        raise ValueError(f"found {len(spans)} subjects for {len(prompts)} prompts; give None where")
    encoder = _Encoder(model, add_special_tokens)
    items = [encoder.item(*three) for three in zip(prompts, targets, spans, strict=True)]
    _refuse_too_long(model, items)
    return items


@dataclass(frozen=True)
class _Encoder:
    model: Any
    add_special_tokens: bool

    def item(self, prompt: Text, target: Text, subject: tuple[int, int] | None) -> LensItem:
        prompt_ids = self._ids(prompt, "prompt", special=self.add_special_tokens)
        if isinstance(prompt, str) and isinstance(target, str):
            target_ids = self._after(prompt, prompt_ids, target)
        else:
            target_ids = self._ids(target, "target", special=False)
        for what, text, ids in (("prompt", prompt, prompt_ids), ("target", target, target_ids)):
            if not ids:
                raise ValueError(
                    f"{what} {text!r} has no tokens; give one that the tokenizer turns into some"
                )
        return LensItem(
            prompt_ids,
            target_ids,
            prompt if isinstance(prompt, str) else None,
            target if isinstance(target, str) else None,
            self._subject(prompt, subject, len(prompt_ids)),
        )

    def _after(self, prompt: str, prompt_ids: tuple[int, ...], target: str) -> tuple[int, ...]:
        if not target:
            return ()
        both = self._ids(prompt + target, "prompt", special=self.add_special_tokens)
        if both[: len(prompt_ids)] == prompt_ids:
            return both[len(prompt_ids) :]
        return self._ids(target, "target", special=False)

    def _ids(self, text: Text, what: str, *, special: bool) -> tuple[int, ...]:
        if isinstance(text, str):
            tokenizer = self._tokenizer(what)
            ids = tuple(tokenizer(text, add_special_tokens=special)["input_ids"])
            # Some tokenizers also end a text, and nothing can follow an end.
            end = tokenizer.eos_token_id
            return ids[:-1] if special and ids and ids[-1] == end and text[-1:] else ids
        ids = tuple(int(token) for token in text)
        if wrong := [i for i in ids if not 0 <= i < self.model.d_vocab]:
            raise ValueError(
                f"{what} has token id {wrong[0]}; {self.model.name} has ids 0 to "
                f"{self.model.d_vocab - 1}"
            )
        return ids

    def _tokenizer(self, what: str) -> Any:
        if self.model.tokenizer is None:
            raise ValueError(
                f"{self.model.name} has no tokenizer; give each {what} as token ids, or load the "
                "model with one"
            )
        return self.model.tokenizer

    def _subject(
        self, prompt: Text, subject: tuple[int, int] | None, n_tokens: int
    ) -> tuple[int, int] | None:
        if subject is None:
            return None
        if not isinstance(prompt, str):
            start, stop = subject
        else:
            start, stop = self._tokens_of(prompt, *subject)
        if not 0 <= start < stop <= n_tokens:
            raise ValueError(f"subject {subject} lies outside its prompt {prompt!r}")
        return start, stop

    def _tokens_of(self, prompt: str, start: int, stop: int) -> tuple[int, int]:
        """Tokens that share a character with a span of characters."""
        offsets = self._tokenizer("prompt")(
            prompt, add_special_tokens=self.add_special_tokens, return_offsets_mapping=True
        )["offset_mapping"]
        touched = [i for i, (low, high) in enumerate(offsets) if low < stop and high > start]
        return (touched[0], touched[-1] + 1) if touched else (0, 0)


def _refuse_too_long(model: Any, items: Sequence[LensItem]) -> None:
    longest = max(items, key=lambda item: len(item.prompt_ids) + len(item.target_ids))
    length = len(longest.prompt_ids) + len(longest.target_ids)
    limit = getattr(model.engine.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        start = (longest.prompt or str(longest.prompt_ids[:8]))[:60]
        raise ValueError(
            f"the item that starts {start!r} has {length} tokens with its target; {model.name} "
            f"takes {limit}"
        )
