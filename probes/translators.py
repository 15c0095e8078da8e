r"""Translators: one affine map per layer, which make a logit lens a tuned or a Jacobian lens.

Early layers write in other directions than the unembedding reads. A translator corrects for that:
:math:`h + W_\ell h + b_\ell` stands in for the stream after the last block. In a **tuned** lens
:math:`W` and :math:`b` are learnt (`training.tuned_lens`), so that what is read comes as near as it
can to what the model goes on to predict. In a **jacobian** lens :math:`W_\ell = J_\ell - 1` and
:math:`b_\ell = 0`, where :math:`J_\ell` is the mean Jacobian of the stream after the last block on
the layer's stream (`training.jacobian_lens`).

There is one for the stream before block 0 and one for the output of every block but the last. They
belong to one set of weights, and say by its hash which. Published Jacobian lenses have none for the
stream before block 0, and say nothing of weights.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, section 3; Gurnee et al., "Verbalizable Representations Form a Global Workspace in
Language Models", Transformer Circuits (2026).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from probes.checking import refuse_not_finite, refusing_failures, wide
from probes.choices import Lens, as_choice
from probes.hooked_model import HookedModel
from probes.shown import Shown, json_text

TENSORS_FILE = "translators.safetensors"
DESCRIPTION_FILE = "translators.json"


@dataclass(frozen=True, eq=False)
class Translators(Shown):
    """A tuned or a Jacobian lens; call it with a layer and streams."""

    weight: Float32[Tensor, "layer d_model d_model"]
    """`W` of the stream before block 0, then of the output of every block but the last."""
    bias: Float32[Tensor, "layer d_model"]
    model: str
    """What the model was loaded as."""
    weights_sha256: str | None
    """Hash of the weights they were trained for; None for a published lens, which does not say."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Every setting of their training, and the hash of its text."""
    name: Lens = Lens.TUNED
    """Which lens they make."""
    first: int = -1
    """The block that the first of them is for; -1 is the stream before block 0."""

    def __call__(
        self, layer: int, stream: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """What stands in for the stream after the last block."""
        index, last = layer - self.first, len(self.weight)
        if not 0 <= index <= last:
            raise ValueError(
                f"a lens of {self.model} has layers {self.first} to {last + self.first}, found "
                f"{layer}; give one of them (-1 is the stream before block 0)"
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
            "lens": str(self.name),
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "training": dict(self.training),
            "first": self.first,
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
    """Translators from a folder or a published file, on the device of the model that they are for.

    Args:
        directory: what `Translators.save` wrote; or a Jacobian lens as its authors publish it: a
            `.pt` file, `owner/repository/path/to/file.pt` on the hub, or a repository there such as
            `neuronpedia/jacobian-lens`, which is searched for the model's name.
        model: the model to read, on any backend.

    Raises:
        ValueError: there are no translators, or those of other weights or of another shape.
    """
    folder = Path(directory)
    if folder.is_dir() or not _is_published(folder):
        return _kept(folder, model).to(model.device)
    return _published(folder if folder.is_file() else _from_hub(folder, model), model)


def _kept(folder: Path, model: HookedModel) -> Translators:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, tensors_path = folder / DESCRIPTION_FILE, folder / TENSORS_FILE
    for needed in (path, tensors_path):
        if not needed.is_file():
            raise ValueError(
                f"there is no {needed.name} in {folder}; give the folder that "
                "python -m training.tuned_lens or training.jacobian_lens wrote"
            )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        description = {key: read[key] for key in ("model", "weights_sha256", "training")}
        description["name"] = as_choice(Lens, read["lens"], "lens")
        description["first"] = first = int(read.get("first", -1))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe translators ({error}); train anew") from error
    if description["weights_sha256"] not in (None, model.content_hash()):
        raise ValueError(
            f"the translators in {folder} were trained for other weights, of "
            f"{description['model']}; those of {model.name} differ: train some for it with "
            f"python -m training.{description['name']}_lens"
        )
    try:
        tensors = load(tensors_path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{tensors_path} cannot be read ({error}); train anew") from error
    layers, width = model.n_layers - 1 - first, model.d_model
    expected = {"weight": (layers, width, width), "bias": (layers, width)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise ValueError(f"{tensors_path} holds {found}; {model.name} needs {expected}")
    refuse_not_finite(tensors, f"{tensors_path}", "train a lens again")
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    return Translators(**widened, **description)


_PUBLISHED_END = "_jacobian_lens.pt"


def _is_published(path: Path) -> bool:
    """Whether a path is a published file, or can be a name on the hub."""
    on_hub = len(path.parts) == 2 and not path.is_absolute() and not path.parent.is_dir()
    return path.suffix == ".pt" or (on_hub and not path.parts[0].startswith((".", "~")))


def _from_hub(path: Path, model: HookedModel) -> Path:
    """Fetch a published lens: the file that is named, or the one named after the model."""
    from huggingface_hub import HfApi, hf_hub_download

    repository, file = "/".join(path.parts[:2]), "/".join(path.parts[2:])
    with refusing_failures(
        f"{path} is no folder and no file here, and could not be fetched from the hub"
    ):
        if not file:
            wanted = f"/{_short(model.name)}{_PUBLISHED_END}"
            # Which fails at once where the hub is out of reach, not after many tries.
            known = HfApi().model_info(repository, timeout=10).siblings or ()
            names = [one.rfilename for one in known]
            found = [name for name in names if f"/{name}".lower().endswith(wanted)]
            if len(found) != 1:
                raise ValueError(
                    f"{repository} has {len(found)} files that end with {wanted}; name one as "
                    f"{repository}/path/to/file.pt"
                )
            (file,) = found
        return Path(hf_hub_download(repository, file))


def _short(name: str) -> str:
    return name.rsplit("/")[-1].lower()


def _published(path: Path, model: HookedModel) -> Translators:
    """A Jacobian lens in the format of its authors: a matrix for each block but the last."""
    with refusing_failures(f"{path} cannot be read"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not isinstance(content.get("J"), dict):
        raise ValueError(f"{path} holds no Jacobian lens, which would have matrices named J")
    told = dict(content.get("metadata") or {})
    owner = told.get("model_name") or path.name.removesuffix(_PUBLISHED_END)
    if told.get("model_name") and _short(owner) != _short(model.name):
        raise ValueError(f"{path} was fitted for {owner}; {model.name} needs a lens of its own")
    matrices = {int(layer): matrix for layer, matrix in content["J"].items()}
    last, square = model.n_layers - 1, (model.d_model, model.d_model)
    sound = sorted(matrices) == list(range(last)) and told.get("target_layer", last) == last
    if not sound or any(tuple(matrix.shape) != square for matrix in matrices.values()):
        shapes = sorted({tuple(matrix.shape) for matrix in matrices.values()})
        raise ValueError(
            f"{path} holds matrices {shapes} of blocks {sorted(matrices)}; {model.name} needs "
            f"{square} of blocks 0 to {last - 1}"
        )
    weight = torch.stack([matrices[layer].float() for layer in range(last)])
    refuse_not_finite({"J": weight}, f"{path}", "take another lens")
    return Translators(
        weight=weight - torch.eye(model.d_model),
        bias=torch.zeros(last, model.d_model),
        model=str(owner),
        weights_sha256=None,
        training={
            "file": path.name,
            "file_sha256": sha256(path.read_bytes()).hexdigest(),
            "rows": int(content.get("n_prompts", 0)),
            **told,
        },
        name=Lens.JACOBIAN,
        first=0,
    ).to(model.device)
