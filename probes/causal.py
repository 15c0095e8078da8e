"""Causal check: which place, restored, brings back a target that a corrupted subject has lost.

Causal tracing asks the model in three kinds of run: **clean**; **corrupted**, with Gaussian noise
on the embeddings of the subject's tokens (`noise` standard deviations of all entries of the token
embedding, in `draws` draws); and **restored**, the corrupted run with a site's clean output put
back at one layer, or over a `window` of layers. What is reported is the log-probability of the
target's first token, in nats, as the mean over draws, and the share of the drop that restoring
brings back. The noise of an item follows from a seed that is drawn once and from its prompt:
neither from other items nor from the device, and the same draws serve every site and layer.

The subject is the item's own where it has one, otherwise the content words of the prompt: those
that are not in `FUNCTION_WORDS`, and words in capitals always ("US" is not "us"). Where special
tokens, punctuation and the last token leave nothing, all tokens before the last are the subject.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", 2022, section 2.1, appendix
B.1. Their code takes the standard deviation over tokens of known subjects, averages probabilities,
not their logarithms, and restores one position, where the default here is two.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.activation_patching import Patch, keeping_first, run_patched
from probes.checking import hooked_model, takes
from probes.choices import RestoredPositions, as_choice
from probes.hooked_model import HookedModel
from probes.lens import check_readout, some_items
from probes.places import Hooks
from probes.prompts import LensItem, spelling
from probes.refusals import instance_of
from probes.results import Provenance, provenance_of
from probes.shown import Result, finite_or_none
from probes.sites import HookPoint, Site

DEFAULT_SITES = (Site.RESID_POST, Site.MLP_OUT, Site.ATTENTION_OUT)
STREAMS = (Site.RESID_PRE, Site.RESID_MID, Site.RESID_POST)
RESTORABLE = (*STREAMS, Site.MLP_OUT, Site.ATTENTION_OUT)
"""Sites that have a vector of the stream's width at every position and layer."""
_VOCABULARY_CHUNK = 4096

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


@dataclass(frozen=True, eq=False)
class CausalResult(Result):
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
        return (self.gain / (self.clean - self.corrupted)).where(self.measurable, float("nan"))

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

    def _facts(self) -> Mapping[str, Any]:
        best = {
            site: f"best at layer {int(found.argmax())} ({float(found.max()):.0%})"
            for site, found in zip(self.sites, self.mean_recovery, strict=True)
            if self.measurable.any()
        }
        counts = {"items": len(self.clean), "measurable": int(self.measurable.sum())}
        return {"": self.provenance.about, **counts, **best}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, for JSON; a missing recovery is None."""
        read = ("clean", "corrupted", "restored")
        return {
            "sites": list(self.sites),
            **{name: getattr(self, name).tolist() for name in read},
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

        axes = [self.sites, *map(range, self.restored.shape[1:])]
        frame = pd.MultiIndex.from_product(axes, names=["site", "layer", "item"])
        frame = frame.to_frame(index=False)
        for name in ("clean", "corrupted", "restored", "recovery"):
            frame[name] = getattr(self, name).expand_as(self.restored).flatten().tolist()
        return frame


@takes(
    model=hooked_model,
    items=some_items,
    generator=instance_of(torch.Generator, "torch.Generator().manual_seed(...)"),
)
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
    settings = _Settings(
        sites=_sites(model, sites),
        positions=as_choice(RestoredPositions, positions, "positions"),
        window=window,
        noise=noise,
        draws=draws,
        least_drop=least_drop,
    )
    if not items:
        raise ValueError("there are no items to trace; give at least one prompt and target")
    check_readout(model, items[0])
    subjects = [subject_positions(model, item) for item in items]
    restored_at = [
        settings.restored_at(subject, len(item.read_ids) - 1)
        for item, subject in zip(items, subjects, strict=True)
    ]
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    source, traces = Noise(seed, noise * embedding_std(model)), []
    for item, subject, at in zip(items, subjects, restored_at, strict=True):
        traces.append(_trace(model, item, subject, at, settings, source))
        if on_items is not None:
            on_items(1)
    clean, corrupted, restored = zip(*traces, strict=True)
    return CausalResult(
        sites=tuple(map(str, settings.sites)),
        clean=torch.stack(clean),
        corrupted=torch.stack(corrupted),
        restored=torch.stack(restored, dim=-1),
        subjects=tuple(subjects),
        restored_at=tuple(restored_at),
        least_drop=least_drop,
        noise_std=source.std,
        provenance=provenance_of(
            model,
            {"backend": model.backend, "noise_seed": seed, **asdict(settings)},
            documents=len(items),
            rows=len(items),
            tokens=sum(len(item.prompt_ids) for item in items),
        ),
    )


def _sites(model: HookedModel, asked: Sequence[Site | str] | str) -> tuple[Site, ...]:
    found = dict.fromkeys([asked] if isinstance(asked, str) else asked)
    if wrong := next((site for site in found if site not in RESTORABLE), None):
        raise ValueError(f"{str(wrong)!r} cannot be restored; give some of {', '.join(RESTORABLE)}")
    if reason := next(filter(None, (model.lacks(Site(site)) for site in found)), None):
        raise ValueError(reason)
    return tuple(map(Site, found))


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
    added = model.tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special}
    special |= {*model.tokenizer.all_special_ids}
    ordinary = [place for place, token in enumerate(item.prompt_ids) if token not in special]
    if not ordinary:
        raise ValueError(
            f"the prompt {item.prompt or item.prompt_ids!r} has only special tokens, so nothing in "
            "it can be its subject; give one with words"
        )
    text, spans = spelling(model.tokenizer, [item.prompt_ids[place] for place in ordinary])
    # A word in capitals always counts.
    words = [
        word.span()
        for word in _WORD.finditer(text)
        if (len(word[0]) > 1 and word[0].isupper()) or word[0].lower() not in FUNCTION_WORDS
    ]
    content = [
        place
        for place, (low, high) in zip(ordinary, spans, strict=True)
        if any(low < stop and high > start for start, stop in words)
    ]
    for candidates in (content, ordinary):
        if earlier := tuple(place for place in candidates if place != length - 1):
            return earlier
    return tuple(ordinary)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    sites: tuple[Site, ...]
    positions: RestoredPositions
    window: int
    noise: float
    draws: int
    least_drop: float

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
        width = 1 if site in STREAMS else self.window
        start = layer - width // 2
        layers = range(max(0, start), min(n_layers, start + width))
        return tuple(HookPoint(site, near) for near in layers)

    def restored_at(self, subject: tuple[int, ...], last: int) -> tuple[int, ...]:
        """At which positions clean values are put back, ascending."""
        return {
            RestoredPositions.SUBJECT: subject,
            RestoredPositions.SUBJECT_LAST: subject[-1:],
            RestoredPositions.LAST: (last,),
            RestoredPositions.BOTH: tuple(sorted({subject[-1], last})),
        }[self.positions]


@dataclass(frozen=True)
class Noise:
    """The source of the noise of every item."""

    seed: int
    std: float  # in units of the embeddings

    def of(
        self, item: LensItem, draws: int, n_tokens: int, d_model: int
    ) -> Float[Tensor, "draw subject d_model"]:
        """Noise of an item: the same on any device, and whatever else is traced."""
        digest = hashlib.sha256(repr((self.seed, item.prompt_ids)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        return self.std * torch.randn(draws, n_tokens, d_model, generator=generator)


def _trace(
    model: HookedModel,
    item: LensItem,
    subject: tuple[int, ...],
    at: tuple[int, ...],
    settings: _Settings,
    noise: Noise,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "site layer"]]:
    """One item clean, corrupted, and with each site restored at each layer; means over draws."""
    n_layers, draws = model.n_layers, settings.draws
    places = [(site, layer) for site in settings.sites for layer in range(n_layers)]
    values: dict[HookPoint, Tensor] = {}
    nothing = Patch((), ())

    def log_probs(patches: list[Patch], others: Callable[[slice], Hooks]) -> Tensor:
        what = "the log-probability of a target", f"item {item.prompt or item.prompt_ids!r}"
        return run_patched(model, item.read_ids, patches, values, read, what=what, others=others)

    def read(logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-1)[:, item.first_id]

    (clean,) = log_probs(
        [nothing], lambda _: keeping_first([HookPoint(*place) for place in places], values)
    )
    drawn = noise.of(item, draws, len(subject), model.d_model)
    # Corrupted rows, then those that restore: by site, then layer, then draw.
    restored = [nothing, *(Patch(settings.points(*place, n_layers), at) for place in places)]
    of_rows = drawn.repeat(len(restored), 1, 1)

    def corrupting(rows: slice) -> Hooks:
        corrupt = partial(_corrupted, noise=of_rows[rows], subject=subject)
        return [(HookPoint(Site.EMBED, None), corrupt)]

    found = log_probs([patch for patch in restored for _ in range(draws)], corrupting)
    means = found.view(1 + len(places), draws).mean(dim=1)
    return clean, means[0], means[1:].view(len(settings.sites), n_layers)


def _corrupted(
    embeddings: Tensor, _point: HookPoint, *, noise: Tensor, subject: tuple[int, ...]
) -> Tensor:
    new = embeddings.clone()
    new[:, torch.tensor(subject, device=new.device)] += noise.to(new)
    return new
