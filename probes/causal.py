r"""Causal check: which place, restored, brings back a target that a corrupted subject has lost.

A lens shows where a target can be read; it does not show that the model uses what is read there.
Causal tracing asks the model. Three kinds of run:

- **clean**: the prompt as it is; every site's output is kept at the positions to restore.
- **corrupted**: Gaussian noise on the embeddings of the subject's tokens, `noise` standard
  deviations of all entries of the token embedding; `draws` draws of it.
- **restored**: the corrupted run, with a site's clean output put back at one layer.

What is reported is the log-probability of the target's first token at the readout position, in
nats, as the mean over draws of noise, and the share of the drop that restoring brings back. The
same draws serve every site and layer.

The stream is restored at one layer; outputs of the MLP and of attention can be restored over a
`window` of layers around it, since each of them alone adds little.

The subject is the item's own where it has one. Otherwise it is the content words of the prompt:
every word that is not in `FUNCTION_WORDS`, and words in capitals always ("US" is not "us"). Special
tokens, punctuation and the last token, where the target is read, do not count; where that leaves
nothing, all tokens before the last are the subject.

The noise of an item follows from a seed that is drawn once and from its prompt, so the result of an
item depends neither on the other items nor on their order nor on the device. Rows of one batch
restore different places: one item takes `(1 + sites * n_layers) * draws` rows in all.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", 2022, section 2.1 and
appendix B.1. Their code takes the standard deviation over the tokens of known subjects and averages
probabilities, not their logarithms; it restores one position, where the default here is two.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.attach import HookFunction
from probes.checking import all_finite, wide
from probes.choices import RestoredPositions
from probes.corpus.token_batch import as_token_batch
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.hooks import refusal, run_hooked
from probes.json_text import finite_or_none
from probes.lens import check_readout
from probes.prompts import LensItem, spelling
from probes.readout import CHUNK_BYTES, unembed
from probes.results import Provenance, provenance_of
from probes.sites import HookPoint, Site

DEFAULT_SITES = (Site.RESID_POST, Site.MLP_OUT, Site.ATTENTION_OUT)
STREAMS = (Site.RESID_PRE, Site.RESID_MID, Site.RESID_POST)
RESTORABLE = (*STREAMS, Site.MLP_OUT, Site.ATTENTION_OUT)
"""Sites that have a vector of the stream's width at every position and layer."""


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """What to corrupt and what to restore.

    Attributes:
        sites: what to restore, one at a time.
        positions: where to restore it.
        window: over how many layers to restore outputs of the MLP and of attention.
        noise: standard deviations of the embeddings.
        draws: how many draws of noise to average over.
        least_drop: by how many nats corruption must lower an item for it to have a recovery.
    """

    sites: tuple[Site, ...] = DEFAULT_SITES
    positions: RestoredPositions = RestoredPositions.BOTH
    window: int = 1
    noise: float = 3.0
    draws: int = 5
    least_drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError(f"no site to restore; give some of {', '.join(RESTORABLE)}")
        if self.window < 1 or self.draws < 1:
            raise ValueError(
                f"window is {self.window} and draws is {self.draws}; give at least 1 of each"
            )
        if not 0 < self.noise < float("inf"):
            raise ValueError(
                f"noise is {self.noise}; give a positive number of standard deviations, since "
                "without noise the corrupted run is the clean one"
            )
        if not 0 < self.least_drop < float("inf"):
            raise ValueError(f"least_drop is {self.least_drop}; give a positive number of nats")

    def points(self, site: Site, layer: int, n_layers: int) -> tuple[HookPoint, ...]:
        """What is restored together for a site at a layer."""
        width = 1 if site in STREAMS else self.window
        start = layer - width // 2
        layers = range(max(0, start), min(n_layers, start + width))
        return tuple(HookPoint(site, near) for near in layers)

    def restored_at(self, subject: tuple[int, ...], last: int) -> tuple[int, ...]:
        """At which positions clean values are put back, ascending."""
        match self.positions:
            case RestoredPositions.SUBJECT:
                return subject
            case RestoredPositions.SUBJECT_LAST:
                return subject[-1:]
            case RestoredPositions.LAST:
                return (last,)
            case RestoredPositions.BOTH:
                return tuple(sorted({subject[-1], last}))


Hooks = list[tuple[HookPoint, HookFunction]]
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Noise:
    """Where the noise of every item comes from.

    Attributes:
        seed: the same for all items.
        std: its standard deviation, in units of the embeddings.
    """

    seed: int
    std: float

    def of(
        self, item: LensItem, draws: int, n_tokens: int, d_model: int
    ) -> Float[Tensor, "draw subject d_model"]:
        """Noise of an item: the same on any device, and whatever else is traced."""
        digest = hashlib.sha256(repr((self.seed, item.prompt_ids)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        return self.std * torch.randn(draws, n_tokens, d_model, generator=generator)


@dataclass(frozen=True)
class Trace:
    """What the runs of one item came to: means over draws, float64, on the CPU."""

    clean: Float[Tensor, ""]
    corrupted: Float[Tensor, ""]
    restored: Float[Tensor, "site layer"]


@dataclass(frozen=True)
class Row:
    """One row of a batch: its draw of noise, and the hook points that it restores."""

    draw: int
    points: tuple[HookPoint, ...]


def trace(
    model: HookedModel,
    item: LensItem,
    subject: tuple[int, ...],
    settings: CausalSettings,
    noise: Noise,
) -> Trace:
    """Run one item clean, corrupted, and with each site restored at each layer."""
    at = settings.restored_at(subject, len(item.read_ids) - 1)
    clean, values = _clean(model, item, settings, at)
    drawn = noise.of(item, settings.draws, len(subject), model.d_model)
    rows = _rows(settings, model.n_layers)
    size = max(1, _BATCH_TOKENS // len(item.read_ids))
    found = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        corrupt = _adding(drawn[[row.draw for row in some]], subject)
        hooks = [(HookPoint(Site.EMBED, None), corrupt), *restoring(some, values, at)]
        found.append(_log_probs(model, item, len(some), hooks))
    log_probs = torch.cat(found)
    shape = (len(settings.sites), model.n_layers, settings.draws)
    return Trace(
        clean=clean,
        corrupted=log_probs[: settings.draws].mean(),
        restored=log_probs[settings.draws :].reshape(shape).mean(dim=-1),
    )


def restoring(
    rows: Sequence[Row],
    clean: Mapping[HookPoint, Float[Tensor, "restored d_model"]],
    at: tuple[int, ...],
) -> Hooks:
    """Hooks that put clean vectors back, each into the rows that restore its hook point."""
    of_point: dict[HookPoint, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        for point in row.points:
            of_point[point].append(index)

    def restore(tensor: Tensor, point: HookPoint) -> Tensor:
        new = tensor.clone()
        chosen = torch.tensor(of_point[point], device=tensor.device)
        positions = torch.tensor(at, device=tensor.device)
        new[chosen[:, None], positions] = clean[point].to(tensor)
        return new

    return [(point, restore) for point in of_point]


def _adding(noise: Float[Tensor, "row subject d_model"], subject: tuple[int, ...]) -> HookFunction:
    def corrupt(embeddings: Tensor, _point: HookPoint) -> Tensor:
        new = embeddings.clone()
        new[:, torch.tensor(subject, device=new.device)] += noise.to(new)
        return new

    return corrupt


def _rows(settings: CausalSettings, n_layers: int) -> list[Row]:
    """Corrupted rows, then those that restore: by site, then layer, then draw."""
    places = [(site, layer) for site in settings.sites for layer in range(n_layers)]
    restored = [(), *(settings.points(site, layer, n_layers) for site, layer in places)]
    return [Row(draw, points) for points in restored for draw in range(settings.draws)]


def _clean(
    model: HookedModel, item: LensItem, settings: CausalSettings, at: tuple[int, ...]
) -> tuple[Float[Tensor, ""], dict[HookPoint, Tensor]]:
    values: dict[HookPoint, Tensor] = {}

    def keep(tensor: Tensor, point: HookPoint) -> None:
        values[point] = tensor.detach()[0, torch.tensor(at, device=tensor.device)]

    points = [HookPoint(s, layer) for s in settings.sites for layer in range(model.n_layers)]
    return _log_probs(model, item, 1, [(point, keep) for point in points])[0], values


def _log_probs(
    model: HookedModel, item: LensItem, n_rows: int, hooks: Hooks
) -> Float[Tensor, "row"]:
    """Log-probability of the target's first token, which tells it apart, after copies of a row."""
    ids = torch.tensor([item.read_ids]).expand(n_rows, -1)
    batch = as_token_batch({"input_ids": ids})
    normed = run_hooked(model, batch, hooks)
    assert normed is not None
    at_once = max(1, CHUNK_BYTES // (4 * model.d_vocab))
    found = []
    with torch.no_grad():
        for some in normed[:, -1].split(at_once):
            logits = wide(unembed(model.anatomy, some))
            found.append(logits.log_softmax(dim=-1)[:, item.first_id])
    log_probs = torch.cat(found).double().cpu()
    if not all_finite(log_probs):
        raise refusal(
            model,
            "the log-probability of a target",
            lambda: run_hooked(model, batch, hooks),
            torch.ones_like(ids, dtype=torch.bool),
            lambda _row, pos: f"item {item.prompt or item.prompt_ids!r}, token {pos}",
            (int((~log_probs.isfinite()).nonzero()[0]), ids.shape[1] - 1),
        )
    return log_probs


_LISTED = """
a an the this that these those some any no not
i you he she it we they me him her us them my your his its our their
and or but nor if then than so as because while although
of in on at to from by with for about into onto over under between during after before
is are was were be been being am do does did has have had having
can could will would shall should may might must
what which who whom whose when where why how
there here also just very
q question answer
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
"""Words that say nothing about what a prompt is about, and those that frame questions."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def subject_positions(model: Any, item: LensItem) -> tuple[int, ...]:
    """Positions of the subject's tokens in the prompt, from its start, ascending."""
    length = len(item.prompt_ids)
    if item.subject is not None:
        start, stop = item.subject
        if not 0 <= start < stop <= length:
            raise ValueError(
                f"subject {item.subject} lies outside a prompt of {length} tokens; give "
                f"(start, stop) with 0 <= start < stop <= {length}"
            )
        return tuple(range(start, stop))
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer to find the content words of a prompt with; give every "
            "item its subject, or load the model with a tokenizer"
        )
    ordinary = _ordinary_positions(model.tokenizer, item.prompt_ids)
    if not ordinary:
        raise ValueError(
            f"the prompt {item.prompt or item.prompt_ids!r} has only special tokens, so nothing in "
            "it can be its subject; give one with words"
        )
    content = _content_positions(model.tokenizer, item.prompt_ids, ordinary)
    for candidates in (content, ordinary):
        if earlier := tuple(position for position in candidates if position != length - 1):
            return earlier
    return ordinary


def _ordinary_positions(tokenizer: Any, ids: Sequence[int]) -> tuple[int, ...]:
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return tuple(position for position, token in enumerate(ids) if token not in special)


def _content_positions(
    tokenizer: Any, ids: Sequence[int], ordinary: Sequence[int]
) -> tuple[int, ...]:
    text, spans = spelling(tokenizer, [ids[position] for position in ordinary])
    words = [word.span() for word in _WORD.finditer(text) if _is_content(word[0])]
    return tuple(
        position
        for position, (low, high) in zip(ordinary, spans, strict=True)
        if any(low < stop and high > start for start, stop in words)
    )


def _is_content(word: str) -> bool:
    in_capitals = len(word) > 1 and word.isupper()
    return in_capitals or word.lower() not in FUNCTION_WORDS


def recovery_of(
    clean: Float[Tensor, "item"],
    corrupted: Float[Tensor, "item"],
    restored: Float[Tensor, "site layer item"],
    *,
    least_drop: float,
) -> Float[Tensor, "site layer item"]:
    """Share of what corruption took from a log-probability that restoring a place brings back."""
    drop = clean - corrupted
    return ((restored - corrupted) / drop).where(drop >= least_drop, float("nan"))


@dataclass(frozen=True, eq=False)
class CausalResult:
    """What restoring one place after the other brought back.

    Attributes:
        sites: names of what was restored.
        clean: log-probability of each target without corruption, in nats, float64; `[item]`.
        corrupted: the same with a corrupted subject, mean over draws of noise; `[item]`.
        restored: the same with one place restored, mean over the same draws;
            `[site layer item]`.
        subjects: positions of the tokens that were corrupted, by item.
        restored_at: positions that were restored, by item.
        least_drop: by how many nats corruption must lower an item for it to have a recovery.
        noise_std: standard deviation of the noise, in units of the embeddings.
        provenance: where the numbers come from, with every setting.
    """

    sites: tuple[str, ...]
    clean: Float[Tensor, "item"]
    corrupted: Float[Tensor, "item"]
    restored: Float[Tensor, "site layer item"]
    subjects: tuple[tuple[int, ...], ...]
    restored_at: tuple[tuple[int, ...], ...]
    least_drop: float
    noise_std: float
    provenance: Provenance

    @property
    def recovery(self) -> Float[Tensor, "site layer item"]:
        """Share of the drop that was brought back; NaN for items that hardly dropped."""
        return recovery_of(self.clean, self.corrupted, self.restored, least_drop=self.least_drop)

    @property
    def measurable(self) -> Bool[Tensor, "item"]:
        """Which items dropped enough to have a recovery."""
        return self.clean - self.corrupted >= self.least_drop

    @property
    def n_unmeasurable(self) -> int:
        """How many items have no recovery."""
        return int((~self.measurable).sum())

    @property
    def gain(self) -> Float[Tensor, "site layer item"]:
        """What restoring brought back, in nats; for every item."""
        return self.restored - self.corrupted

    @property
    def mean_recovery(self) -> Float[Tensor, "site layer"]:
        """Mean recovery of the measurable items; NaN where there are none."""
        return self.recovery[:, :, self.measurable].mean(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, for JSON; a missing recovery is None."""
        return {
            "sites": list(self.sites),
            "clean": self.clean.tolist(),
            "corrupted": self.corrupted.tolist(),
            "restored": self.restored.tolist(),
            "recovery": finite_or_none(self.recovery.tolist()),
            "mean_recovery": finite_or_none(self.mean_recovery.tolist()),
            "unmeasurable_items": self.n_unmeasurable,
            "subjects": [list(positions) for positions in self.subjects],
            "restored_at": [list(positions) for positions in self.restored_at],
            "least_drop": self.least_drop,
            "noise_std": self.noise_std,
            "units": "nats",
            "provenance": asdict(self.provenance),
        }

    def to_dataframe(self) -> Any:
        """One row per site, layer and item, tidy, as a pandas DataFrame."""
        import pandas as pd

        n_sites, n_layers, n_items = self.restored.shape
        index = pd.MultiIndex.from_product(
            [self.sites, range(n_layers), range(n_items)], names=["site", "layer", "item"]
        )
        frame = index.to_frame(index=False)
        for name, per_item in (("clean", self.clean), ("corrupted", self.corrupted)):
            frame[name] = per_item.repeat(n_sites * n_layers).tolist()
        frame["restored"] = self.restored.flatten().tolist()
        frame["recovery"] = self.recovery.flatten().tolist()
        return frame


_VOCABULARY_CHUNK = 4096


@takes(model=hooked_model)
def causal_recovery(
    model: HookedModel,
    items: Sequence[LensItem],
    *,
    generator: torch.Generator,
    sites: Sequence[Site | str] | Site | str = DEFAULT_SITES,
    positions: RestoredPositions | str = RestoredPositions.BOTH,
    window: int = 1,
    noise: float = 3.0,
    draws: int = 5,
    least_drop: float = 0.1,
    on_items: Callable[[int], None] | None = None,
) -> CausalResult:
    """Restore every layer of some sites in runs with a corrupted subject.

    Args:
        model: the hooked model; whatever is attached to it is in every run.
        items: prompts and targets; where one has no subject, its content words are taken.
        generator: where the seed of the noise comes from.
        sites: what to restore, one at a time: streams, outputs of the MLP or of attention.
        positions: `"both"`, `"subject-last"`, `"subject"` or `"last"`.
        window: over how many layers, centred on each, to restore outputs of the MLP and of
            attention; a stream is restored at one.
        noise: standard deviations of the embeddings.
        draws: how many draws of noise to average over.
        least_drop: by how many nats corruption must lower an item for it to have a recovery.
        on_items: called with 1 when an item is done.

    Returns:
        Log-probabilities in nats and recoveries, by site, layer and item.

    Raises:
        ValueError: there are no items, a setting is out of range, the model lacks a site, an item
            has no subject, or the last layer's readout is not what the model computes.
    """
    settings = CausalSettings(
        sites=_sites(model, sites),
        positions=_restored_positions(positions),
        window=window,
        noise=noise,
        draws=draws,
        least_drop=least_drop,
    )
    if not items:
        raise ValueError("there are no items to trace; give at least one prompt and target")
    check_readout(model, items[0])
    subjects = [subject_positions(model, item) for item in items]
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    source = Noise(seed, noise * embedding_std(model))
    traces = []
    for item, subject in zip(items, subjects, strict=True):
        traces.append(trace(model, item, subject, settings, source))
        if on_items is not None:
            on_items(1)
    return _result(model, items, subjects, settings, source, traces)


@torch.no_grad()
def embedding_std(model: HookedModel) -> float:
    """Standard deviation of all entries of the token embeddings, as they enter the model."""
    total = squares = torch.zeros((), dtype=torch.float64)
    ids = torch.arange(model.anatomy.n_tokens, device=model.device)
    count = 0
    for some in ids.split(_VOCABULARY_CHUNK):
        # Through the module, which in some families scales what it looks up.
        entries = model.anatomy.embed(some[None]).double().cpu()
        total, squares = total + entries.sum(), squares + entries.square().sum()
        count += entries.numel()
    mean = total / count
    return float((squares / count - mean.square()).sqrt())


def _result(
    model: HookedModel,
    items: Sequence[LensItem],
    subjects: Sequence[tuple[int, ...]],
    settings: CausalSettings,
    noise: Noise,
    traces: Sequence[Trace],
) -> CausalResult:
    return CausalResult(
        sites=tuple(map(str, settings.sites)),
        clean=torch.stack([one.clean for one in traces]),
        corrupted=torch.stack([one.corrupted for one in traces]),
        restored=torch.stack([one.restored for one in traces], dim=-1),
        subjects=tuple(subjects),
        restored_at=tuple(
            settings.restored_at(subject, len(item.read_ids) - 1)
            for item, subject in zip(items, subjects, strict=True)
        ),
        least_drop=settings.least_drop,
        noise_std=noise.std,
        provenance=_provenance(model, items, settings, noise),
    )


def _provenance(
    model: HookedModel, items: Sequence[LensItem], settings: CausalSettings, noise: Noise
) -> Provenance:
    return provenance_of(
        model,
        {"backend": model.backend, "noise_seed": noise.seed, **asdict(settings)},
        documents=len(items),
        rows=len(items),
        tokens=sum(len(item.prompt_ids) for item in items),
    )


def _sites(model: HookedModel, asked: Sequence[Site | str] | str) -> tuple[Site, ...]:
    asked = [asked] if isinstance(asked, str) else asked
    for site in asked:
        if site not in RESTORABLE:
            raise ValueError(
                f"{str(site)!r} cannot be restored; give some of {', '.join(RESTORABLE)}"
            )
        if reason := model.lacks(Site(site)):
            raise ValueError(reason)
    return tuple(dict.fromkeys(map(Site, asked)))


def _restored_positions(given: RestoredPositions | str) -> RestoredPositions:
    try:
        return RestoredPositions(given)
    except ValueError:
        raise ValueError(
            f"positions must be one of {', '.join(RestoredPositions)}, found {given!r}"
        ) from None
