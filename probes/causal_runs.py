r"""Causal runs: one item, run clean, corrupted, and with every place restored in turn.

Rows of one batch are copies of one prompt. Every row has a draw of noise added to the embeddings
of the subject, and restores places of its own: at a hook point, the rows that restore it have the
clean run's vectors put back at the positions to restore, and the others are left alone.

Log-probabilities are those of the target's first token after the prompt, in nats.

Example:
    >>> import torch
    >>> rows = [Row(0, ()), Row(0, (HookPoint(Site.MLP_OUT, 2),))]
    >>> clean = {HookPoint(Site.MLP_OUT, 2): torch.tensor([[5.0]])}
    >>> [(point, restore)] = restoring(rows, clean, at=(1,))
    >>> restore(torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]]), point).squeeze(-1).tolist()
    [[0.0, 1.0], [0.0, 5.0]]
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attach import HookFunction
from probes.checking import all_finite, wide
from probes.choices import RestoredPositions
from probes.corpus.token_batch import as_token_batch
from probes.finite import refusal
from probes.hooked_model import HookedModel
from probes.hooks import run_hooked
from probes.prompts import LensItem
from probes.readout import CHUNK_BYTES, unembed
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
