"""Model folder: an ordinary Hugging Face folder, adapters merged into it, read back bit by bit.

What is written, as plain transformers loads it, is what the model computes with: weights that an
adapter or a parametrization makes are made permanent. Then every tensor in the files is compared
with the model's, bit by bit.
"""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from probes.checkpoint_files import quiet_transformers
from probes.projections import bias_of, computed_rows, is_conv1d, matrix_of
from probes.rotary import set_frequencies


def ordinary_model(hf_model: Any) -> Any:
    """A model of the same class and configuration, on the meta device: names and shapes alone."""
    kinds = (kind for kind in type(hf_model).__mro__ if not issubclass(kind, FSDPModule))
    kind = next(kind for kind in kinds if issubclass(kind, nn.Module))
    with torch.device("meta"):
        made = kind(copy.deepcopy(hf_model.config))
    return made.eval()


def ordinary_weights(hf_model: Any) -> dict[str, Tensor]:
    """The weights that a model computes with, by the names that its class gives them."""
    return _weights(hf_model, ordinary_model(hf_model))


def refuse_unordinary(hf_model: Any, why: str) -> None:
    """Make sure that a model holds its weights as its class does."""
    ordinary = ordinary_model(hf_model)
    modules = dict(hf_model.named_modules(remove_duplicate=False))
    for path, expected in ordinary.named_modules(remove_duplicate=False):
        actual = modules.get(path)
        if actual is not None and not _is_the_same(actual, expected):
            raise ValueError(
                f"{path} of this {type(hf_model).__name__} ({type(actual).__name__}) does not hold "
                f"its weights as the class does, and {why}; merge or remove what changes it "
                "(merge_and_unload, prune.remove, remove_parametrizations)"
            )
    _weights(hf_model, ordinary)


def _weights(hf_model: Any, ordinary: Any) -> dict[str, Tensor]:
    modules = dict(hf_model.named_modules(remove_duplicate=False))
    state, expected_state = hf_model.state_dict(), ordinary.state_dict()
    found: dict[str, Tensor] = {}
    accounted: set[str] = set()
    for path, expected in ordinary.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        names = [prefix + name for name in _tensor_names(expected)]
        actual = modules.get(path)
        if actual is None:
            raise ValueError(_misfit(hf_model, f"has no {path}, which its configuration asks for"))
        if _is_the_same(actual, expected):
            found |= {name: state[name] for name in names}
            accounted.update(names)
        else:
            computed = _computed_weights(hf_model, path, actual, expected)
            found |= dict(zip(names, computed, strict=True))
            accounted.update(name for name in state if name.startswith(prefix))
    _refuse_misfits(hf_model, found, expected_state, state.keys() - accounted)
    return {name: found[name] for name in expected_state}


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def copied(hf_model: Any) -> Any:
    """A copy of a model, which shares nothing with it."""
    try:
        return copy.deepcopy(hf_model)
    except RuntimeError as error:
        raise ValueError(
            f"this {type(hf_model).__name__} cannot be copied for another backend: it holds "
            "tensors that are computed from others (pruning, weight norm); make them permanent "
            "first (prune.remove, remove_weight_norm)"
        ) from error


def tied_names(model: Any) -> dict[str, str]:
    """Names of parameters that are the same tensor as another, and the name of that one."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            found[name] = kept
    return found


def _tensor_names(module: nn.Module) -> list[str]:
    """Names of the parameters and saved buffers that a module has itself."""
    buffers = module._buffers.keys() - module._non_persistent_buffers_set
    own = {**module._parameters, **{n: module._buffers[n] for n in buffers}}
    return [name for name, tensor in own.items() if tensor is not None]


def _is_the_same(actual: nn.Module, expected: nn.Module) -> bool:
    names, wanted = set(_tensor_names(actual)), set(_tensor_names(expected))
    return type(actual) is type(expected) and names == wanted


def _computed_weights(hf_model: Any, path: str, actual: Any, expected: Any) -> list[Tensor]:
    """What stands for the weights of a projection or embedding, in the order of `_tensor_names`."""
    if type(expected) is nn.Embedding:
        return [computed_rows(actual, expected.num_embeddings)]
    if not isinstance(expected, nn.Linear) and not is_conv1d(expected):
        kind = type(expected).__name__
        what = f"has a {type(actual).__name__} as {path}, not a plain {kind}"
        raise ValueError(_misfit(hf_model, what))
    matrix, bias = matrix_of(actual), bias_of(actual)
    weight = matrix if is_conv1d(expected) else matrix.T
    made = {"weight": weight.detach().contiguous()}
    if expected.bias is not None:
        made["bias"] = torch.zeros_like(weight[:, 0]) if bias is None else bias.detach()
    elif bias is not None:
        raise ValueError(_misfit(hf_model, f"has a bias in {path}, and its class has none there"))
    return [made[name] for name in _tensor_names(expected)]


def _refuse_misfits(
    hf_model: Any,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    left: set[str],
) -> None:
    for name, tensor in found.items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} of this {type(hf_model).__name__} is not in memory (offloaded, or on "
                "'meta'), so it cannot be saved; load the model onto one device"
            )
        if tensor.shape != expected[name].shape:
            given, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            what = f"has {name} of shape {given}, and its configuration says {wanted}"
            raise ValueError(_misfit(hf_model, what))
    if left:
        what = f"holds {min(left)} ({len(left)} such), which its class has not"
        raise ValueError(_misfit(hf_model, what))
    if odd := set_frequencies(hf_model):
        what = f"has other rotary frequencies ({min(odd)}) than its configuration gives"
        raise ValueError(_misfit(hf_model, what))


def _misfit(hf_model: Any, what: str) -> str:
    return (
        f"{type(hf_model).__name__} {what}, so a folder that plain transformers loads cannot hold "
        "it; make the model fit its configuration first"
    )


_GENERATION_FILE = "generation_config.json"


def write_model(
    hf_model: Any,
    tokenizer: Any | None,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a model into a folder that exists, and read it back."""
    from transformers.core_model_loading import revert_weight_conversion

    given = ordinary_weights(hf_model) if weights is None else weights
    ordinary, kept = _as_reloaded(hf_model, given)
    try:
        with quiet_transformers():
            in_files = revert_weight_conversion(ordinary, kept)
            ordinary.save_pretrained(
                folder,
                state_dict=dict(in_files),
                max_shard_size=max_shard_size,
                save_original_format=False,
            )
            _write_generation(hf_model, folder)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"this {type(hf_model).__name__} cannot be saved: {' '.join(str(error).split())}"
        ) from error
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    _compare(in_files, folder)


def _as_reloaded(hf_model: Any, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A model without weights that says how a reload hangs together, and what it has to find."""
    from transformers import GenerationConfig

    ordinary = ordinary_model(hf_model)
    tied = tied_names(ordinary)
    pairs = [(weights[name], weights[first]) for name, first in tied.items()]
    if any(a.data_ptr() != b.data_ptr() and not torch.equal(a, b) for a, b in pairs):
        # Otherwise whoever loads the folder ties them.
        ordinary.config.tie_word_embeddings, tied = False, {}
    kept = {name: tensor for name, tensor in weights.items() if name not in tied}
    for name in {name for name in tied_names(hf_model) if name in kept}:
        # Tied by hand: two tensors to whoever loads them, and safetensors keeps no tensor twice.
        kept[name] = kept[name].clone()
    _refuse_mixed(hf_model, kept)
    ordinary._weight_conversions = getattr(hf_model, "_weight_conversions", None)
    ordinary.generation_config = GenerationConfig()
    return ordinary.to(hf_model.dtype), kept


def _refuse_mixed(hf_model: Any, weights: Mapping[str, Tensor]) -> None:
    """A reload has all weights in one type, but for those that the class keeps in float32."""
    own = hf_model.dtype
    apart = {*hf_model._keep_in_fp32_modules, *hf_model._keep_in_fp32_modules_strict}
    for name, tensor in weights.items():
        mixed = tensor.is_floating_point() and tensor.dtype != own
        if mixed and not any(part in name for part in apart):
            raise ValueError(
                f"{name} is {tensor.dtype} in a model of {own}, and a reload has one type for all; "
                "cast the model to one (hf_model.to(...)) before it is saved"
            )


def _write_generation(hf_model: Any, folder: Path) -> None:
    """As the model has it: saving it in transformers' way refuses some that it loads itself."""
    from transformers import GenerationConfig

    if hf_model.can_generate() and hf_model.generation_config is not None:
        hf_model.generation_config.to_json_file(folder / _GENERATION_FILE)
        GenerationConfig.from_pretrained(folder)


def _compare(expected: Mapping[str, Tensor], folder: Path) -> None:
    """Make sure that the files hold these tensors and no others, bit by bit."""
    found: set[str] = set()
    wrong = None
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found.add(name)
                if name not in expected or not _same_bits(file.get_tensor(name), expected[name]):
                    wrong = wrong or f"{name} in {path.name} is another"
    if missing := expected.keys() - found:
        wrong = wrong or f"{min(missing)} is missing"
    if wrong is not None:
        raise ValueError(
            f"{folder} does not hold what was written to it: {wrong}; look at the disk, and write "
            "it again"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = (tensor.detach().cpu().contiguous().reshape(-1) for tensor in (one, other))
    return torch.equal(*(values.view(torch.uint8) for values in flat))
