r"""Translators: one affine map per layer, which make a logit lens a tuned lens.

Early layers write in other directions than the unembedding reads. A translator corrects for that:
:math:`h + W_\ell h + b_\ell` stands in for the stream after the last block, so that what is read
comes as near as it can to what the model goes on to predict. :math:`W` and
:math:`b` start at zero, which is the logit lens. `training.tuned_lens` fits them.

There is one for the stream before block 0 and one for the output of every block but the last. They
belong to one set of weights, and say by its hash which.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, section 3.

Example:
    >>> import torch
    >>> zeros = torch.zeros(2, 3, 3), torch.zeros(2, 3)
    >>> translators = Translators(*zeros, model="m", weights_sha256="0", training={})
    >>> translators(0, torch.ones(1, 3)).tolist()
    [[1.0, 1.0, 1.0]]
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from probes.checking import refuse_not_finite, wide
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from probes.shown import Shown

TENSORS_FILE = "translators.safetensors"
DESCRIPTION_FILE = "translators.json"


@dataclass(frozen=True, eq=False)
class Translators(Shown):
    """A tuned lens; call it with a layer and streams."""

    name: ClassVar[str] = "tuned"

    weight: Float32[Tensor, "layer d_model d_model"]
    """`W` of the stream before block 0, then of the output of every block but the last."""
    bias: Float32[Tensor, "layer d_model"]
    model: str
    """What the model was loaded as."""
    weights_sha256: str
    """Of the weights they were trained for."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Every setting of their training, and the hash of its text."""

    def __call__(
        self, layer: int, stream: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """What stands in for the stream after the last block."""
        index, last = layer + 1, len(self.weight)
        if not 0 <= index <= last:
            raise ValueError(
                f"a lens of {self.model} has layers -1 to {last - 1}, found {layer}; give one of "
                "them"
            )
        if index == last:
            return stream
        # A narrow stream is widened for the products, whose sum it would round.
        widened = wide(stream)
        weight, bias = self.weight[index].to(widened), self.bias[index].to(widened)
        return (widened + widened @ weight.T + bias).to(stream.dtype)

    def to(self, device: torch.device | str) -> "Translators":
        """The same translators on another device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def save(self, directory: str | Path) -> Path:
        """Write `translators.safetensors` and `translators.json`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        from safetensors.torch import save

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        description = {
            "lens": self.name,
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "training": dict(self.training),
        }
        text = json_text(description, f"{folder / DESCRIPTION_FILE}", indent=2)
        (folder / TENSORS_FILE).write_bytes(save(tensors))
        (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
        return folder


def identity_translators(model: HookedModel) -> Translators:
    """Translators that change nothing: the logit lens, where training starts."""
    size, device = (model.n_layers, model.d_model), model.device
    return Translators(
        weight=torch.zeros(*size, model.d_model, device=device),
        bias=torch.zeros(*size, device=device),
        model=model.name,
        weights_sha256=model.content_hash(),
    )


def load_translators(directory: str | Path, model: HookedModel) -> Translators:
    """Translators from a folder, on the device of the model that they are for.

    Args:
        directory: what `Translators.save` wrote.
        model: the model to read, on any backend.

    Raises:
        ValueError: the folder holds no translators, or those of other weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(directory)
    path, tensors_path = folder / DESCRIPTION_FILE, folder / TENSORS_FILE
    for needed in (path, tensors_path):
        if not needed.is_file():
            raise ValueError(
                f"there is no {needed.name} in {folder}; give the folder that "
                "python -m training.tuned_lens wrote"
            )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        description = {key: read[key] for key in ("model", "weights_sha256", "training")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe translators ({error}); train anew") from error
    if description["weights_sha256"] != model.content_hash():
        raise ValueError(
            f"the translators in {folder} were trained for other weights, of "
            f"{description['model']}; those of {model.name} differ: train some for it with "
            "python -m training.tuned_lens"
        )
    try:
        tensors = load(tensors_path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{tensors_path} cannot be read ({error}); train anew") from error
    expected = {
        "weight": (model.n_layers, model.d_model, model.d_model),
        "bias": (model.n_layers, model.d_model),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise ValueError(f"{tensors_path} holds {found}; {model.name} needs {expected}")
    refuse_not_finite(tensors, f"{tensors_path}", "train a lens again")
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    return Translators(**widened, **description).to(model.device)
