"""Model identity: were coefficients measured on this model, and do they fit its shape?

Hashing all weights takes seconds for large models, so the hash is kept for as long as autograd's
counters say that no weight was written to.
"""

from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn

from probes.choices import Coefficient
from probes.hooked_model import HookedModel
from probes.results import EntropyResult

_Versions = list[tuple[str, int, int]]
_hashes: "WeakKeyDictionary[nn.Module, tuple[_Versions, str]]" = WeakKeyDictionary()


def measured_means(
    given: Float[Tensor, "layer d_mlp"] | EntropyResult,
) -> tuple[Float[Tensor, "layer d_mlp"], str | None]:
    """Mean |c| of every neuron, float64 on the CPU, and the hash of the model, where it is known.

    Args:
        given: the means, or a result that has them.

    Raises:
        ValueError: the result has no means of |c|.
    """
    if isinstance(given, Tensor):
        return given.detach().double().cpu(), None
    measured = given.provenance.configuration.get("coefficient", Coefficient.ABS)
    if measured != Coefficient.ABS:
        raise ValueError(
            f"an edit of inactive neurons needs means of |c|, but this result has coefficient "
            f"{str(measured)!r}; measure with coefficient='abs'"
        )
    return given.mean_coefficients.double().cpu(), given.provenance.weights_sha256


def require_measured_on(
    model: HookedModel, shape: tuple[int, ...], model_hash: str | None, *, whose: str
) -> None:
    """Refuse coefficients that belong to another model.

    Args:
        model: the model to be edited.
        shape: of the coefficients, `(layer, d_mlp)`.
        model_hash: content hash of the model that they were measured on; None if it is not known.
        whose: the edit, for the message.

    Raises:
        ValueError: the shapes or the hashes differ.
    """
    if shape != (model.n_layers, model.d_mlp):
        raise ValueError(
            f"{whose} has coefficients of {shape[0]} layers of {shape[1]} neurons, but "
            f"{model.name} has {model.n_layers} layers of {model.d_mlp}; measure them on this model"
        )
    if model_hash is not None and model_hash != (found := content_hash(model)):
        raise ValueError(
            f"{whose} has coefficients of another model: measured on weights {model_hash[:12]}, "
            f"found {found[:12]} in {model.name}; measure again, or pass the coefficients as a "
            "tensor without model_hash"
        )


def content_hash(model: HookedModel) -> str:
    """`model.content_hash()`, computed again only where a weight was written to."""
    module = model.engine.module
    versions = [_version(name, weight) for name, weight in model.engine.state_dict().items()]
    known: Any = _hashes.get(module)
    if known is None or known[0] != versions:
        known = _hashes[module] = (versions, model.content_hash())
    return known[1]


def _version(name: str, weight: Tensor) -> tuple[str, int, int]:
    # Tensors made in inference mode cannot be written to outside of it, and have no counter.
    return name, weight.data_ptr(), 0 if weight.is_inference() else weight._version
