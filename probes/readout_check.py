"""Readout check: whether a model's logits are the norm and unembedding of its last stream.

Where something stands between them, a lens would show what the model does not compute, so it is
refused.

Example:
    >>> import probes
    >>> from probes.lens_items import lens_items
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                   # doctest: +SKIP
    >>> check_readout(model, lens_items(model, ["The"], [" end"])[0])           # doctest: +SKIP
"""

import torch
from torch import Tensor

from probes.checking import difference, tolerance
from probes.corpus.token_batch import as_token_batch
from probes.finite import require_finite
from probes.hooked_model import HookedModel
from probes.lens_items import LensItem
from probes.readout import norm_and_unembed
from probes.sites import HookPoint, Site

CHECKED_TOKENS = 8
"""Of a prompt; what a model computes does not depend on how long its text is."""


def check_readout(model: HookedModel, item: LensItem) -> None:
    """Refuse a model whose logits are not the norm and unembedding of its last stream.

    Raises:
        ValueError: they differ by more than rounding.
    """
    kept: list[Tensor] = []
    batch = as_token_batch({"input_ids": [list(item.prompt_ids[:CHECKED_TOKENS])]})
    last = HookPoint(Site.RESID_POST, model.n_layers - 1)

    def keep(stream: Tensor, _point: HookPoint) -> None:
        kept.append(stream.detach())

    with torch.no_grad(), model.evaluating(), model.hooks([(last, keep)]):
        logits = model.logits(batch)[:, -1]
        # After the pass, so that what the model computes is what is compared with.
        read = norm_and_unembed(model.anatomy, kept[-1][:, -1])
    last_token = torch.arange(batch.input_ids.shape[1])[None] == batch.input_ids.shape[1] - 1
    require_finite(logits.amax(dim=-1), model, batch, last_token, "a logit of the first item")
    gap = difference(read, logits)
    if not gap <= tolerance(logits.dtype):
        raise ValueError(
            f"the readout of the last layer differs from the logits of {model.name} by {gap:.2g} "
            "of the largest; something changes the stream after the last block or the logits, so a "
            "lens would not show what the model computes"
        )
