"""Lens results made by hand, with prime sizes, for tests of what draws and writes them."""

import torch

from analysis.document import html
from analysis.lens_page import lens_report
from analysis.lens_result import LensResult
from probes.choices import TargetSpan
from probes.lens import LensReadouts
from probes.prompts import LensItem
from probes.readout import Readout
from probes.results import Provenance

D_VOCAB = 211


def make_lens(
    *,
    n_items: int = 3,
    n_layers: int = 5,
    length: int = 7,
    top_k: int = 2,
    d_vocab: int = D_VOCAB,
    model: str = "tiny",
    lens: str = "logit",
    seed: int = 0,
    embedding: bool = False,
    positions: str = "all",
    target_length: int = 1,
    span: TargetSpan = TargetSpan.FIRST,
    controls: tuple[str, ...] = (),
    vocabulary: dict[int, str] | None = None,
    prompts: tuple[str | None, ...] | None = None,
    targets: tuple[str | None, ...] | None = None,
    notes: tuple[str, ...] = (),
):
    """A result whose ranks fall with depth; item i has `length + i` tokens if `positions` is all.

    Tokens are called ` t0`, ` t1`, ... unless `vocabulary` says otherwise.
    """
    random = torch.Generator().manual_seed(seed)
    ids = [torch.randint(d_vocab, (length + i,), generator=random).tolist() for i in range(n_items)]
    goals = torch.randint(d_vocab, (n_items, target_length), generator=random).tolist()
    items = tuple(
        LensItem(
            tuple(ids[i]),
            tuple(goals[i]),
            prompts[i] if prompts else f"prompt {i}",
            targets[i] if targets else f" target {i}",
        )
        for i in range(n_items)
    )
    labels = ("embed",) * embedding + tuple(map(str, range(n_layers)))
    return LensResult(
        items=items,
        layer_labels=labels,
        span=span,
        per_token=_readouts(items, len(labels), top_k, d_vocab, positions, len(controls), random),
        control_names=controls,
        vocabulary={token: f" t{token}" for token in range(d_vocab)} | (vocabulary or {}),
        d_vocab=d_vocab,
        provenance=_provenance(model, lens, n_items),
        notes=notes,
    )


def _readouts(items, n_layers, top_k, d_vocab, positions, n_controls, random):
    places = []
    for index, item in enumerate(items):
        last = len(item.prompt_ids) - 1
        before = range(last) if positions == "all" else ()
        places += [(index, position, item.target_ids[0], -1) for position in before]
        places += [(index, last + i, token, i) for i, token in enumerate(item.target_ids)]
    item, position, target, place = torch.tensor(places).T
    # Wide at first, narrow at the end, so that targets come up with depth.
    depth = torch.linspace(0.2, 4.0, n_layers)[:, None, None]
    noise = torch.randn(n_layers, len(places), d_vocab, generator=random)
    logits = noise + depth * torch.nn.functional.one_hot(target, d_vocab)
    log_probs = logits.log_softmax(-1)
    top = log_probs.topk(top_k)
    final = log_probs[-1]
    asked = logits.gather(2, target.expand(n_layers, -1)[..., None])
    return LensReadouts(
        item,
        position,
        target,
        place,
        Readout(
            rank=(logits > asked).sum(-1),
            log_prob=log_probs.gather(2, target.expand(n_layers, -1)[..., None])[..., 0],
            entropy=-(log_probs.exp() * log_probs).sum(-1),
            kl=(final.exp() * (final - log_probs)).sum(-1).clamp_min(0),
            top_ids=top.indices,
            top_log_probs=top.values,
            control_rank=torch.randint(
                d_vocab, (n_layers, len(places), n_controls), generator=random
            ),
        ),
    )


def _provenance(model, lens, n_items):
    return Provenance(
        model=model,
        revision=None,
        weights_sha256="ab" * 32,
        architecture="llama",
        dtype="float32",
        device="cpu",
        corpus=None,
        corpus_licence=None,
        corpus_sha256=None,
        documents=n_items,
        rows=n_items,
        tokens=43,
        configuration={"lens": lens, "top_k": 2, "backend": "native"},
        versions={"mnemoscope": "0.1.0", "torch": "2.13.0"},
    )


def lens_page(*arguments, **keywords):
    """The page of `lens_report`."""
    return html(lens_report(*arguments, **keywords))
