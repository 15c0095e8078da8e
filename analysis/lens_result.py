"""Lens result: what a lens showed for some prompts and targets, and how to keep it.

`rank`, `log_prob`, `entropy` and `kl` are `[layer item]`, at the readout position (before the
target's first token that is more than a space: as a rule the prompt's last); `per_token` holds
every position and target token that was read. Ranks count from 0, the top; log-probabilities,
entropies and divergences are in nats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probes.checking import hooked_model, takes
from probes.choices import Lens, LensPositions, TargetSpan, as_choice
from probes.corpus.batching import token_batches
from probes.corpus.sources import load_corpus
from probes.hooked_model import HookedModel
from probes.lens import LensReadouts, LensSettings, read_lens
from probes.localization import (
    Localization,
    frequency_matched,
    localize,
    shuffled_targets,
    token_counts,
)
from probes.prompts import LensItem, Prompts, Text, lens_items
from probes.readout import Translate
from probes.results import Provenance, provenance_of
from probes.shown import Result, frame_of
from probes.translators import Translators


@dataclass(frozen=True, eq=False)
class LensResult(Result):
    """What a lens showed.

    Attributes:
        items: the prompts and targets.
        layer_labels: names of the rows: `"embed"` for the stream before block 0, where it was
            asked for, then the number of the block whose output was read.
        span: which of a target's tokens an item's numbers are made of.
        per_token: everything that was read.
        control_names: what the further ranks of `per_token.readout.control_rank` are of.
        vocabulary: text of every token id that occurs in items and readouts.
        d_vocab: how many tokens ranks run over.
        provenance: where the numbers come from.
        notes: what a reader of the numbers must know.
    """

    items: tuple[LensItem, ...]
    layer_labels: tuple[str, ...]
    span: TargetSpan
    per_token: LensReadouts
    control_names: tuple[str, ...]
    vocabulary: Mapping[int, str]
    d_vocab: int
    provenance: Provenance
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def rank(self) -> Int64[Tensor, "layer item"]:
        """How many tokens come before the target; the worst or the mean of a span."""
        ranks = self.per_token.readout.rank
        if self.span is TargetSpan.MEAN:
            return self._over_span(ranks.double(), "mean").round().long()
        return self._over_span(ranks, "amax")

    @cached_property
    def log_prob(self) -> Float[Tensor, "layer item"]:
        """Log-probability of the target, in nats; the sum or the mean of a span."""
        how = "mean" if self.span is TargetSpan.MEAN else "sum"
        return self._over_span(self.per_token.readout.log_prob, how)

    @property
    def entropy(self) -> Float[Tensor, "layer item"]:
        """Entropy of the readout at the readout position, in nats."""
        return self.per_token.readout.entropy[:, self.first_rows]

    @property
    def kl(self) -> Float[Tensor, "layer item"]:
        """KL divergence of the model's final distribution from the readout, in nats."""
        return self.per_token.readout.kl[:, self.first_rows]

    @property
    def lens_name(self) -> str:
        """What people call the lens, `"logit lens"` say."""
        name = self.provenance.configuration["lens"]
        return Lens(name).words if name in list(Lens) else f"{name} lens"

    def control_rank(self, name: str) -> Int64[Tensor, "layer item"]:
        """Ranks of a control's tokens at the readout position.

        Raises:
            ValueError: there is no such control.
        """
        if name not in self.control_names:
            known = ", ".join(self.control_names) or "none"
            raise ValueError(f"no control is named {name!r}; this result has {known}")
        ranks = self.per_token.readout.control_rank[:, :, self.control_names.index(name)]
        return ranks[:, self.first_rows]

    def first_layer(self, k: int = 10) -> Int64[Tensor, "item"]:
        """First row at which each target is among the top `k`; -1 for never."""
        return self.localization(k).first_layer

    def settling_layer(self, k: int = 10) -> Int64[Tensor, "item"]:
        """First row from which each target stays among the top `k`; -1 for none."""
        return self.localization(k).settling_layer

    def localization(self, k: int = 10) -> Localization:
        """The depth at which targets become readable; see `probes.localization`."""
        return localize(self.rank, k, self.d_vocab)

    def text(self, token: int) -> str:
        """A token as text."""
        return self.vocabulary.get(token, f"<{token}>")

    def _facts(self) -> Mapping[str, Any]:
        layers, last = len(self.layer_labels), self.rank[-1]
        lens = {"lens": self.provenance.configuration["lens"], "layers": layers}
        top = f"{float((last == 0).double().mean()):.0%} of {len(self.items)}"
        found = {"on top at the last layer": top, "notes": self.notes}
        return {"": self.provenance.about, "items": len(self.items), **lens, **found}

    def _preview(self) -> Any:
        best = self.per_token.readout.top_ids[:, self.first_rows, 0]
        columns: dict[str, Any] = {"layer": self.layer_labels}
        for i, item in enumerate(self.items[:3]):
            name = self.text(item.first_id).strip()
            columns[f"{name}: rank"] = self.rank[:, i]
            columns[f"{name}: top token"] = [self.text(one) for one in best[:, i].tolist()]
        return frame_of(columns)

    def to_dataframe(self) -> Any:
        """One row per item, position and layer, tidy, as a pandas DataFrame."""
        import analysis

        return analysis.lens_table(self)

    def plot(self, item: int = 0) -> Any:
        """Heatmap of one item, layer by position (a `plotly` Figure)."""
        return self._drawn(item=item)

    def compare(self, other: "LensResult", *, k: int = 10, seed: int = 0) -> Any:
        """The other less this, item by item and layer by layer, with tests of what moved.

        Args:
            other: of the same prompts and targets, split into the same tokens.
            k: a target is found where it is among so many top tokens.
            seed: of the tests' random permutations.

        Raises:
            ValueError: the two are of different items, or of different tokens.
        """
        import analysis

        return analysis.compare_lenses(self, other, k=k, seed=seed)

    def save(self, directory: str | Path) -> Path:
        """Write `lens.json`, `lens.csv`, `items.csv` and `lens.html`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        import analysis

        return analysis.save_lens(self, Path(directory))

    @property
    def first_rows(self) -> Tensor:
        """Rows of the tokens that tell targets apart, one for each item, in their order."""
        first = torch.tensor([item.first for item in self.items])
        return torch.nonzero(self.per_token.place == first[self.per_token.item])[:, 0]

    def _over_span(self, values: Tensor, how: str) -> Tensor:
        if self.span is TargetSpan.FIRST:
            return values[:, self.first_rows]
        in_target = self.per_token.place >= 0
        index = self.per_token.item[in_target].expand(len(values), -1)
        start = torch.zeros(len(values), len(self.items), dtype=values.dtype)
        return start.scatter_reduce(1, index, values[:, in_target], how, include_self=False)


@takes(model=hooked_model)
def lens(
    model: HookedModel,
    prompts: Text | Sequence[Text],
    targets: Text | Sequence[Text],
    *,
    top_k: int = 10,
    positions: LensPositions | str | Sequence[int] | int = LensPositions.LAST,
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
        translators: of a tuned or a Jacobian lens; None for the logit lens.
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
        positions=as_choice(LensPositions, positions, "positions")
        if isinstance(positions, str)
        else tuple(map(int, [positions] if isinstance(positions, int) else positions)),
        span=as_choice(TargetSpan, span, "span"),
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
        "lens": str(getattr(translators, "name", Lens.LOGIT)),
        "prepend_bos": Prompts.of(model, prepend_bos).puts_bos,
        **asdict(settings),
    }
    if isinstance(translators, Translators):
        configuration["translators"] = dict(translators.training)
    return _result(model, items, settings, read, tuple(controls or ()), configuration, source)


def _result(
    model: HookedModel,
    items: Sequence[LensItem],
    settings: LensSettings,
    read: LensReadouts,
    control_names: tuple[str, ...],
    configuration: dict[str, Any],
    source: str | None,
) -> LensResult:
    tokens = sum(len(item.prompt_ids) for item in items)
    counts: dict[str, Any] = {"documents": len(items), "rows": len(items), "tokens": tokens}
    return LensResult(
        items=tuple(items),
        layer_labels=("embed",) * settings.embedding + tuple(map(str, range(model.n_layers))),
        span=settings.span,
        per_token=read,
        control_names=control_names,
        vocabulary=_vocabulary(model.tokenizer, items, read),
        d_vocab=model.d_vocab,
        provenance=provenance_of(model, configuration, corpus=source, **counts),
        notes=_notes(settings, items),
    )


def _vocabulary(tokenizer: Any, items: Iterable[LensItem], read: LensReadouts) -> dict[int, str]:
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
    apart = sum(item.split_apart for item in items)
    later = sum(item.first > 0 for item in items) if settings.span is TargetSpan.FIRST else 0
    notes = {
        f"In {apart} of {len(items)} items the target was split by itself: the tokenizer joins it "
        "with the prompt, or the prompt is token ids.": apart > 0,
        f"In {later} of {len(items)} items the target begins with a token that is a space alone; "
        "the token after it is looked for, with the space given.": later > 0,
        "Streams were unembedded without the final norm: not even the last layer's readout is what "
        "the model computes.": not settings.norm,
    }
    return tuple(note for note, holds in notes.items() if holds)


COUNTED_TOKENS = 200_000


def control_tokens(
    model: HookedModel,
    prompts: Text | Sequence[Text],
    targets: Text | Sequence[Text],
    *,
    corpus: str,
    seed: int,
    prepend_bos: bool | None = None,
) -> dict[str, list[int]]:
    """A token of each kind for every item."""
    items = lens_items(model, prompts, targets, prepend_bos=prepend_bos)
    ids = [item.target_ids[item.first :] for item in items]
    batches = token_batches(
        load_corpus(corpus),
        model.tokenizer,
        sequence_length=512,
        max_tokens=COUNTED_TOKENS,
        prepend_bos=prepend_bos,
    )
    counts = token_counts(batches, model.d_vocab)
    generator = np.random.default_rng(seed)
    tokenizer: Any = model.tokenizer
    # Special tokens, and ids of the unembedding that no token has, are no words.
    no_words = {*tokenizer.all_special_ids, *range(len(tokenizer), model.d_vocab)}
    drawn = {
        "shuffled": shuffled_targets(ids, generator),
        "frequency": frequency_matched(ids, counts, generator, special_ids=no_words),
    }
    return {name: [tokens[0] for tokens in others] for name, others in drawn.items()}
