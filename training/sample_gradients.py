r"""Sample gradients: which way, and how steeply, the mean loss on some items falls.

For items with trained tokens \(y_1 \dots y_T\) the gradient is that of the mean cross-entropy
\(\frac1T \sum_t -\ln p(y_t)\), in nats, with respect to every parameter that is trained. Every
token counts once: weights that a batch may have are not looked at.

Other items would have given another gradient. Items are dealt into blocks; how far the inner
product of a sample's gradient with a fixed vector moves with the choice of items is read from its
blocks, by the linearised delete-a-block jackknife: with \(S_k\) the summed gradient of block
k, \(T_k\) its tokens and g the whole gradient, \(e_k = (S_k - T_k\,g) \cdot v / T\), and the
variance of \(g \cdot v\) is \(\frac{K}{K-1} \sum_k e_k^2\).

Nothing is left behind in the model: `.grad` is not touched, and hooks are gone through.

Source: Kott (2001), "The Delete-a-Group Jackknife"; Shao and Tu (1995), section 2.1.

Example:
    >>> rows = [Rendered((5, 6, 7), (False, False, True), "", "kvr")] * 11
    >>> [block.n_rows for block in gradient_sample("A", rows, blocks=4).blocks]
    [3, 3, 3, 2]
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch import distributed as dist

from probes.hooked_model import HookedModel
from probes.sequence_rope import rope_border
from training.batches import IGNORED, TrainingBatch
from training.datasets.example_rows import rows_of_examples
from training.datasets.rendering import Rendered
from training.datasets.row_choices import LossNormalisation, Packing
from training.forward_inputs import forward_inputs, refuse_misfits, separation_of
from training.kept_weights import Weights, refuse_sharded
from training.observers import shared_out
from training.weight_products import inner_products


@dataclass(frozen=True)
class GradientSample:
    """Items whose gradient is looked at, always the same.

    Attributes:
        name: what records call them.
        blocks: the items, dealt into batches.
    """

    name: str
    blocks: tuple[TrainingBatch, ...]


@dataclass(frozen=True, eq=False)
class SampleGradient:
    """The gradient of a sample's mean loss.

    Attributes:
        loss: mean cross-entropy of a trained token, in nats.
        tokens: trained tokens.
        vector: the gradient, by the names of parameters.
    """

    loss: float
    tokens: int
    vector: Weights


def gradient_sample(name: str, rows: Sequence[Rendered], *, blocks: int = 8) -> GradientSample:
    """Deal items into blocks: item i goes to block i modulo their number.

    Args:
        name: what records are to call the sample.
        rows: the items; the first token of one is never predicted, and so never trained.
        blocks: how many; as many as items where there are fewer. A block runs in one batch.

    Raises:
        ValueError: there are fewer than two items or blocks, or an item trains no token.
    """
    if len(rows) < 2 or blocks < 2:
        raise ValueError(
            f"sample {name!r} has {len(rows)} items in {blocks} blocks; give two or more of both, "
            "since its error is read from how blocks differ"
        )
    if empty := [place for place, row in enumerate(rows) if not any(row.trained[1:])]:
        raise ValueError(f"item {empty[0]} of sample {name!r} trains no token; leave it out")
    return GradientSample(
        name, tuple(_batch(rows[k::blocks]) for k in range(min(blocks, len(rows))))
    )


class GradientReader:
    """Reads gradients of a model as it is now, through whatever is attached to it.

    In a run of several processes the blocks are shared out, and all come to the same gradients.

    Args:
        model: on the native backend, in evaluation mode; gradients need not be enabled.

    Raises:
        ValueError: its weights are sharded.
    """

    def __init__(self, model: HookedModel) -> None:
        refuse_sharded(
            model, "gradient alignment", "leave it out, or take 'ddp' or a single process"
        )
        self._model = model
        self._hf_model = model.hf_model
        named = model.hf_model.named_parameters()
        self._trained = {name: weight for name, weight in named if weight.requires_grad}
        self._separation = separation_of(self._hf_model)

    def read(self, sample: GradientSample) -> SampleGradient:
        """The gradient of a sample, on the model's device.

        Raises:
            ValueError: the model has not the tokens or positions of the sample.
        """
        total = {name: torch.zeros_like(weight) for name, weight in self._trained.items()}
        loss = torch.zeros((), dtype=torch.float64)
        tokens = sum(block.trained_tokens for block in sample.blocks)
        for block in sample.blocks:
            refuse_misfits(block, self._model)
        for place in _own_share(len(sample.blocks)):
            summed, gradient = self._summed(sample.blocks[place])
            loss += summed
            for name, value in gradient.items():
                total[name] += value
        _add_up([loss, *total.values()], self._model.device)
        return SampleGradient(
            float(loss) / tokens, tokens, {name: value / tokens for name, value in total.items()}
        )

    def variances(
        self, sample: GradientSample, own: SampleGradient, others: Sequence[Weights]
    ) -> Float64[Tensor, " other"]:
        """How inner products of a sample's gradient would vary with other items.

        Args:
            sample: whose gradient.
            own: that gradient.
            others: what it is multiplied with, taken as fixed.

        Returns:
            The variance of each product.
        """
        products = torch.zeros(len(sample.blocks), len(others), dtype=torch.float64)
        for place in _own_share(len(sample.blocks)):
            _, gradient = self._summed(sample.blocks[place])
            products[place] = inner_products([gradient], others)[0]
        _add_up([products], self._model.device)
        of_tokens = torch.tensor([block.trained_tokens for block in sample.blocks]).double()
        whole = inner_products([own.vector], others)
        deviations = (products - of_tokens[:, None] * whole) / own.tokens
        blocks = len(sample.blocks)
        return blocks / (blocks - 1) * deviations.square().sum(dim=0)

    def _summed(self, block: TrainingBatch) -> tuple[float, dict[str, Tensor]]:
        """The summed loss of a batch, and its gradient."""
        border = rope_border(self._hf_model.config)
        inputs = forward_inputs(block, self._separation, self._model.device, border)
        with torch.enable_grad():
            logits = self._hf_model(**inputs, use_cache=False).logits
            loss = _summed_loss(logits, block.labels.to(logits.device))
            # Not `backward`: the gradients of the run itself stay what they are.
            found = torch.autograd.grad(
                loss, list(self._trained.values()), allow_unused=True, materialize_grads=True
            )
        return float(loss.detach()), dict(zip(self._trained, found, strict=True))


def _summed_loss(
    logits: Float[Tensor, "batch pos d_vocab"], labels: Int64[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    # As in training, but float64 stays float64.
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    following = nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return nn.functional.cross_entropy(
        wide.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _batch(rows: Sequence[Rendered]) -> TrainingBatch:
    return rows_of_examples(
        rows,
        [""] * len(rows),
        [""],
        packing=Packing.BUCKETED,
        normalisation=LossNormalisation.TOKEN,
    )


def _own_share(blocks: int) -> range:
    """The blocks that this process takes."""
    if not shared_out():
        return range(blocks)
    return range(dist.get_rank(), blocks, dist.get_world_size())


def _add_up(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Sum over processes, in place; the device is one that they can exchange tensors of."""
    if shared_out():
        for tensor in tensors:
            shared = tensor.to(device)
            dist.all_reduce(shared)
            tensor.copy_(shared)
