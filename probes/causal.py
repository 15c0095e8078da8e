r"""Causal check: which place, restored, brings back a target that a corrupted subject has lost.

A lens shows where a target can be read; it does not show that the model uses what is read there.
Causal tracing asks the model. Three kinds of run:

- **clean**: the prompt as it is; every site's output is kept at the positions to restore.
- **corrupted**: Gaussian noise on the embeddings of the subject's tokens, `noise` standard
  deviations of all entries of the token embedding; `draws` draws of it.
- **restored**: the corrupted run, with a site's clean output put back at one layer.

What is reported is the log-probability of the target's first token at the readout position, in
nats, as the mean over draws of noise, and the share of the drop that restoring brings back
(`probes.causal_result`). The same draws serve every site and layer.

The stream is restored at one layer; outputs of the MLP and of attention can be restored over a
`window` of layers around it, since each of them alone adds little.

The noise of an item follows from a seed that is drawn once and from its prompt, so the result of an
item depends neither on the other items nor on their order nor on the device. Rows of one batch
restore different places: one item takes `(1 + sites * n_layers) * draws` rows in all.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", 2022, section 2.1 and
appendix B.1. Their code takes the standard deviation over the tokens of known subjects and averages
probabilities, not their logarithms; it restores one position, where the default here is two.

Example:
    >>> import torch, probes
    >>> from probes.lens_items import lens_items
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                   # doctest: +SKIP
    >>> items = lens_items(model, ["The capital of France is"], [" Paris"])     # doctest: +SKIP
    >>> generator = torch.Generator().manual_seed(0)
    >>> causal_recovery(model, items, generator=generator).mean_recovery.shape  # doctest: +SKIP
    torch.Size([3, 30])
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from probes.causal_result import CausalResult
from probes.causal_runs import Noise, Trace, trace
from probes.causal_settings import (
    DEFAULT_SITES,
    RESTORABLE,
    CausalSettings,
    RestoredPositions,
)
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.lens_items import LensItem
from probes.provenance import Provenance, provenance_of
from probes.readout_check import check_readout
from probes.sites import Site
from probes.subject_tokens import subject_positions

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
