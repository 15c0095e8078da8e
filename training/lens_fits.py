"""What fits of lenses share: where one stands, and a comparison with the logit lens.

A fit that was stopped goes on from a file to the same bits: it reads its text again up to the batch
where it stood. Compared is, for each layer, the mean over positions of the KL divergence of the
model's final distribution from what a lens reads there, in nats, on text held out. Both lenses read
the same positions, so the difference comes with a standard error over positions (a little too
small, since positions of one document are alike).

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, section 4.
"""

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful

from probes.checking import all_finite, refuse_not_finite, refusing_failures, what_makes_finite
from probes.choices import Lens
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.lens import streams_at
from probes.readout import Translate, read_streams
from probes.shown import Result
from probes.translators import Translators
from training.runs.records import one_line_for_disk_errors, write_whole

STATE_FILE = "fit.pt"
EVERY_SECONDS = 30.0  # how often where a fit stands is kept


def remaining(
    fit: Stateful,
    batches: Iterable[TokenBatch],
    *,
    kept_in: Path | None,
    belongs_to: Mapping[str, Any],
    content_hash: Callable[[], str | None],
    most: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, TokenBatch]]:
    """Numbers, from 1, and batches that a fit has still to learn from; it is kept between them."""
    wanted = json.dumps(belongs_to, default=str)
    state = _read(kept_in, json.loads(wanted))
    if state is not None:
        fit.load_state_dict(state["fit"])
    done = 0 if state is None else state["done"]
    written = time.monotonic()
    for number, batch in enumerate(batches, start=1):
        if number > done:
            yield number, batch
        elif number == done and state is not None and state["text"] != content_hash():
            raise ValueError(f"{kept_in} has learnt from other text; begin again with --overwrite")
        if on_batch is not None:
            on_batch(1)
        if kept_in and number > done and time.monotonic() - written >= EVERY_SECONDS:
            now = {"fit": fit.state_dict(), "done": number, "text": content_hash()}
            _write(kept_in, {**now, "belongs_to": wanted})
            written = time.monotonic()
        if number == most:
            return


def _read(path: Path | None, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    with refusing_failures(f"{path} cannot be read; begin again with --overwrite"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["belongs_to"])
    for name in {**wanted, **before}:
        if before.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} holds a fit with {name} {before.get(name)}, not {wanted.get(name)}; give "
                "the same settings, or begin again with --overwrite"
            )
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    with one_line_for_disk_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        learnt = io.BytesIO()
        torch.save(state, learnt)
        write_whole(path, learnt.getvalue())


def model_of_fit(model: HookedModel) -> dict[str, Any]:
    """What a kept fit belongs to."""
    hardware = {"dtype": model.dtype, "device": model.device.type, "torch": torch.__version__}
    return {"weights_sha256": model.content_hash(), **hardware}


def text_origin(batches: Batches, whole: str | None = None) -> dict[str, Any]:
    """What tells text from others: its name, its hash, and how it was put into rows."""
    corpus = getattr(batches, "corpus", None)
    return {
        "corpus": getattr(corpus, "name", None),
        "corpus_licence": getattr(corpus, "licence", None),
        "corpus_sha256": whole or getattr(batches, "content_hash", None),
        "batching": getattr(batches, "configuration", None),
    }


@dataclass(frozen=True, eq=False)
class LensComparison(Result):
    """Mean KL divergence from the model's output by layer, in nats; the last layer is left out."""

    layer_labels: tuple[str, ...]  # "embed" for the stream before block 0, then numbers of blocks
    logit: Float[Tensor, "layer"]
    fitted: Float[Tensor, "layer"]
    difference_error: Float[Tensor, "layer"]  # standard error of `fitted - logit`
    positions: int  # that the means are over
    lens: Lens = Lens.TUNED

    @property
    def layers_nearer(self) -> int:
        """At how many layers the fitted lens is nearer to the model."""
        return int((self.fitted < self.logit).sum())

    def _facts(self) -> Mapping[str, Any]:
        nearer = f"{self.layers_nearer} of {len(self.logit)} layers nearer than the logit lens"
        means = {"mean KL": f"{float(self.fitted.mean()):.4g} nats, logit {self.logit.mean():.4g}"}
        return {"": nearer, **means, "positions": self.positions}

    def to_dataframe(self) -> Any:
        """One row per layer, as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": self.layer_labels,
                "logit_kl": self.logit.tolist(),
                f"{self.lens}_kl": self.fitted.tolist(),
                "difference": (self.fitted - self.logit).tolist(),
                "difference_standard_error": self.difference_error.tolist(),
                "positions": self.positions,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "layer_labels": list(self.layer_labels),
            "logit_kl": self.logit.tolist(),
            f"{self.lens}_kl": self.fitted.tolist(),
            "difference_standard_error": self.difference_error.tolist(),
            "positions": self.positions,
            "layers_nearer": self.layers_nearer,
        }


def compare_lenses(
    model: HookedModel,
    batches: Batches,
    translators: Translators,
    *,
    rows_per_batch: int = 64,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> LensComparison:
    """Compare a fitted lens with the logit lens."""
    generator = torch.Generator().manual_seed(seed)
    logit, fitted = [], []
    for batch in map(as_token_batch, as_batches(batches)):
        streams = sampled_streams(model, batch, rows_per_batch, generator)
        logit.append(_divergences(model, streams, None))
        fitted.append(_divergences(model, streams, translators))
        if on_batch is not None:
            on_batch(1)
    if not logit:
        raise ValueError("there were no batches to compare the lenses on; pass at least one")
    of_logit, of_fitted = torch.cat(logit, dim=1), torch.cat(fitted, dim=1)
    positions = of_logit.shape[1]
    return LensComparison(
        layer_labels=("embed", *map(str, range(model.n_layers - 1))),
        logit=of_logit.mean(dim=1),
        fitted=of_fitted.mean(dim=1),
        difference_error=(of_fitted - of_logit).std(dim=1, correction=0) / positions**0.5,
        positions=positions,
        lens=translators.name,
    )


def _divergences(
    model: HookedModel, streams: Float[Tensor, "layer row d_model"], translate: Translate | None
) -> Float[Tensor, "layer_but_last row"]:
    # The target is of no concern here, but a readout asks for one.
    targets = torch.zeros(streams.shape[1], dtype=torch.long, device=streams.device)
    with torch.no_grad():
        read = read_streams(
            model.anatomy, streams, targets, top_k=1, embedding=True, translate=translate
        )
    require_finite_layers(model, read.kl[:-1], "the KL divergence")
    return read.kl[:-1].double()


def require_finite_layers(
    model: HookedModel, values: Float[Tensor, "layer *rest"], of: str
) -> None:
    """Refuse values of the layers but the last, of which one is not finite."""
    if all_finite(values):
        return
    layers = {f"layer {layer - 1}": found for layer, found in enumerate(values)}
    weights = model.engine.state_dict()
    refuse_not_finite(layers, of, what_makes_finite(model.name, weights, model.dtype))


def sampled_streams(
    model: HookedModel, batch: TokenBatch, count: int, generator: torch.Generator
) -> Float[Tensor, "layer row d_model"]:
    """Residual streams at some positions of a batch, from before block 0 to after the last."""
    real = torch.nonzero(batch.attention_mask.cpu())
    chosen = real[torch.randperm(len(real), generator=generator)[:count]]
    streams = streams_at(model, batch, *chosen.unbind(dim=1), embedding=True)
    sums = streams.float().sum(dim=(0, 2))
    if not all_finite(sums):
        # Any one of them will do: the pass that follows finds out where it began.
        place = tuple(chosen[int((~sums.isfinite()).nonzero()[0, 0])])
        one = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        one[place] = True
        require_finite(sums.new_full((1,), torch.nan), model, batch, one, "a residual stream")
    return streams
