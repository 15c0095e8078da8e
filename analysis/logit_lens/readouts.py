"""Lens readouts: `lens`, which reads prompts and targets through every layer of a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.logit_lens.result import LensResult
from probes.choices import LensPositions, TargetSpan
from probes.hooked_model import HookedModel
from probes.lens import LensReadouts, LensSettings, read_lens
from probes.prompts import LensItem, Prompts, Text, lens_items
from probes.readout import Translate
from probes.results import provenance_of

LOGIT_LENS = "logit"


def lens(
    model: HookedModel,
    prompts: Text | Sequence[Text],
    targets: Text | Sequence[Text],
    *,
    top_k: int = 10,
    positions: LensPositions | str | Sequence[int] = LensPositions.LAST,
    span: TargetSpan | str = TargetSpan.FIRST,
    norm: bool = True,
    embedding: bool = False,
    translators: Translate | None = None,
    controls: Mapping[str, Sequence[int]] | None = None,
    subjects: Sequence[tuple[int, int] | None] | None = None,
    prepend_bos: bool | None = None,
    source: str | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> LensResult:
    """Read what every layer's residual stream says about the targets of some prompts.

    Args:
        model: the hooked model; whatever is attached to it is in what is read.
        prompts: texts, or lists of token ids; a text by itself is one prompt.
        targets: what should follow each, as text (usually with a space in front) or token ids.
        top_k: how many of the most likely tokens to keep.
        positions: `"last"`, `"all"`, or positions of the prompt, negative ones from its end.
        span: whether an item's numbers are of the target's first token that is more than a space,
            of every token, or their mean.
        norm: whether streams go through the final norm before the unembedding.
        embedding: whether the stream before block 0 is a row.
        translators: of a tuned lens; None for the logit lens.
        controls: by name, another token id for each item, to compare the target's rank with.
        subjects: where the subject stands in each prompt, in characters (in tokens for token ids).
        prepend_bos: whether prompts of text begin with a BOS; None for the tokenizer's own habit.
        source: what the items are called.
        distributed: share the items out over the processes of the default group; every process
            returns the result of all.
        on_items: called with the number of items of every batch when it is done.

    Returns:
        Ranks, log-probabilities, entropies and divergences by layer.

    Raises:
        ValueError: an item has no tokens or is too long, a position does not exist, a choice has no
            such value, or the last layer's readout is not what the model computes.
    """
    items = lens_items(model, prompts, targets, subjects=subjects, prepend_bos=prepend_bos)
    settings = LensSettings(
        positions=_positions(positions),
        span=_choice(TargetSpan, span, "span"),
        norm=norm,
        embedding=embedding,
        top_k=top_k,
    )
    read = read_lens(
        model,
        items,
        settings,
        translate=translators,
        controls=controls,
        distributed=distributed,
        on_items=on_items,
    )
    configuration = {
        "backend": model.backend,
        "lens": getattr(translators, "name", LOGIT_LENS),
        "prepend_bos": Prompts.of(model, prepend_bos).puts_bos,
        **asdict(settings),
    }
    return LensResult(
        items=tuple(items),
        layer_labels=("embed",) * embedding + tuple(map(str, range(model.n_layers))),
        span=settings.span,
        per_token=read,
        control_names=tuple(controls or ()),
        vocabulary=_vocabulary(model.tokenizer, items, read),
        d_vocab=model.d_vocab,
        provenance=provenance_of(
            model,
            configuration,
            documents=len(items),
            rows=len(items),
            tokens=sum(len(item.prompt_ids) for item in items),
            corpus=source,
        ),
        notes=_notes(settings, items),
    )


def _positions(given: LensPositions | str | Sequence[int]) -> LensPositions | tuple[int, ...]:
    if isinstance(given, str):
        return _choice(LensPositions, given, "positions")
    return tuple(int(position) for position in given)


def _choice(choices: Any, given: Any, name: str) -> Any:
    try:
        return choices(given)
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {given!r}") from None


def _vocabulary(tokenizer: Any, items: Iterable[LensItem], read: LensReadouts) -> dict[int, str]:
    """Text of every token that a reader may see."""
    if tokenizer is None:
        return {}
    ids = {token for item in items for token in (*item.prompt_ids, *item.target_ids)}
    ids |= set(read.readout.top_ids.unique().tolist()) | set(read.target.tolist())
    ordered = sorted(token for token in ids if token < len(tokenizer))
    texts = tokenizer.batch_decode([[t] for t in ordered], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(ordered)
    # A byte by itself has no text, but a name in the vocabulary.
    named = [p if p.startswith("<0x") else t for p, t in zip(pieces, texts, strict=True)]
    return dict(zip(ordered, named, strict=True))


def _notes(settings: LensSettings, items: Sequence[LensItem]) -> tuple[str, ...]:
    notes = []
    if apart := sum(item.split_apart for item in items):
        notes.append(
            f"In {apart} of {len(items)} items the target was split by itself: the tokenizer joins "
            "it with the prompt, or the prompt is token ids."
        )
    later = sum(item.first > 0 for item in items)
    if later and settings.span is TargetSpan.FIRST:
        notes.append(
            f"In {later} of {len(items)} items the target begins with a token that is a space "
            "alone; the token after it is looked for, with the space given."
        )
    if not settings.norm:
        notes.append(
            "Streams were unembedded without the final norm: not even the last layer's "
            "readout is what the model computes."
        )
    return tuple(notes)
