"""Origin: which weights, texts and versions a kept result belongs to.

Commands that go on where they were stopped leave finished results alone. A result is finished only
where all that its numbers depend on is as it was: the command compares settings, and here weights
and texts are compared by their hashes, the type of numbers, the device and the versions of
libraries.
"""

from collections.abc import Mapping
from pathlib import Path

from probes.hooked_model import HookedModel
from probes.results import Provenance, provenance_of

_SHOWN = 12
"""Digits of a hash in a message."""


def origin_of(model: HookedModel, **texts: str | None) -> dict[str, str | None]:
    """What a result that is measured now would belong to."""
    now = provenance_of(model, {}, documents=0, rows=0, tokens=0)
    return _origin(now, texts)


def origin_in(kept: Provenance) -> dict[str, str | None]:
    """What a kept result belongs to that was measured on one corpus."""
    return _origin(kept, {"corpus": kept.corpus_sha256})


def refuse_another(
    path: Path, before: Mapping[str, str | None], now: Mapping[str, str | None]
) -> None:
    """Refuse a kept result that belongs to something else."""
    for name in {**now, **before}:
        if (then := before.get(name)) != (today := now.get(name)):
            raise ValueError(
                f"{path} was measured with {name.replace('_', ' ')} {str(then)[:_SHOWN]}, now it "
                f"is {str(today)[:_SHOWN]}; give another --out, or remove it to measure again"
            )


def _origin(known: Provenance, texts: Mapping[str, str | None]) -> dict[str, str | None]:
    return {
        "weights": known.weights_sha256,
        "dtype": known.dtype,
        "device": known.device,
        **texts,
        **known.versions,
    }
