"""Checking: arguments of another kind are refused in one line, and numbers are compared.

`takes` names, for arguments of a public function, what each has to be. The rounding of equal
products in another order stays below a share of the largest value that depends on the type
(`tolerance`); a wrong description of a model is off by the order of that value.

Example:
    >>> @takes(model=hooked_model)
    ... def n_layers(model):
    ...     return model.n_layers
    >>> n_layers("gpt2")
    Traceback (most recent call last):
    ValueError: n_layers: model is the string 'gpt2'; give what probes.load_model returns for it
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from probes.refusals import Check, instance_of, meant, not_callable_with, shown

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_TOKENS = 8


def as_device(device: str | torch.device | None) -> torch.device:
    """A device from its name; None picks CUDA where there is one, otherwise the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0][:80]}); "
            "pass 'cpu', or 'cuda' on a machine with an NVIDIA GPU"
        ) from error
    return chosen


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or wider if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, as a share of the largest value expected."""
    if found.shape != expected.shape:
        return float("inf")
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / largest)


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may come to, as a share of the largest value."""
    return _TOLERANCE.get(dtype, 0.1)


@contextmanager
def refusing_failures(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into a refusal in one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{what} ({type(error).__name__}: {reason})") from error


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; each is looked at only where their sum is not finite."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return bool(values.sum(dtype=wide).isfinite()) or bool(values.isfinite().all())


def refuse_not_finite(tensors: Mapping[str, Tensor], what: str, instead: str) -> None:
    """Refuse named tensors of which a value is NaN or infinite."""
    if wrong := next((name for name, values in tensors.items() if not all_finite(values)), None):
        raise ValueError(f"{what} is not finite, at {wrong}; {instead}")


def what_makes_finite(name: str, weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """What a user can do about numbers of a model that are not finite."""
    for weight, values in weights.items():
        if values.is_floating_point() and not all_finite(values):
            return f"weight {weight} of {name} is not finite: load a sound checkpoint"
    if dtype is torch.float16:
        return (
            f"{name} runs in float16, which ends at 65504: load it with dtype='bfloat16' or "
            "dtype='float32'"
        )
    return (
        f"{name} runs in {str(dtype).removeprefix('torch.')}, so something makes its numbers "
        "very large: take off edits and functions that are attached to it"
    )


def few_tokens(vocabulary: int, device: torch.device) -> Tensor:
    """A fixed row of token ids."""
    # Spread over the vocabulary; the first ids are often special tokens or single bytes.
    ids = torch.linspace(vocabulary // 3, vocabulary - 1, _TOKENS).long()
    return ids[None].to(device)


def activation_of(config: Any, known: str | None = None) -> Callable[[Tensor], Tensor] | None:
    """The MLP's activation function, by a known name or that which the configuration gives it."""
    from transformers.activations import ACT2FN

    name = activation_name(config, known)
    return None if name is None else ACT2FN[name]


def activation_name(config: Any, known: str | None = None) -> str | None:
    """What transformers calls it."""
    from transformers.activations import ACT2FN

    keys = ("hidden_activation", "hidden_act", "activation_function", "activation")
    names = (known, *(getattr(config, key, None) for key in keys))
    return next((name for name in names if isinstance(name, str) and name in ACT2FN), None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the length of a `with` block."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def takes(**wanted: Check) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Refuse arguments that are something else."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)
        several = {n for n, p in signature.parameters.items() if p.kind is p.VAR_POSITIONAL}
        assert wanted.keys() <= signature.parameters.keys()

        @wraps(function)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                misfit = _unknown(signature, kwargs) or str(error)
                raise TypeError(f"{function.__name__}: {misfit}") from None
            for name, check in wanted.items():
                if name not in given:
                    continue
                for value in given[name] if name in several else (given[name],):
                    if (wrong := check(value)) is not None:
                        raise ValueError(f"{function.__name__}: {name} is {wrong}")
            return function(*args, **kwargs)

        return checked

    return decorate


def _unknown(signature: inspect.Signature, given: Collection[str]) -> str | None:
    """Which argument a function does not take, and which one it does."""
    unknown = next((name for name in given if name not in signature.parameters), None)
    return unknown and f"there is no argument {unknown!r}; {meant(unknown, signature.parameters)}"


class MeasuredModel:
    """What measurements and edits take as a model: `RunningModel` inherits from it."""


def hooked_model(value: Any) -> str | None:
    """What is wrong with a value as a hooked model."""
    if isinstance(value, MeasuredModel):
        return None
    for_it = " for it" if isinstance(value, str) or hasattr(value, "forward") else ""
    return f"{shown(value)}; give what probes.load_model returns{for_it}"


def batch(value: Any) -> str | None:
    """What is wrong with a value as one batch."""
    if isinstance(value, Mapping) or hasattr(value, "input_ids"):
        return None
    how = ": {'input_ids': ids}" if hasattr(value, "shape") else ""
    how = ": {'input_ids': model.to_tokens(text)}" if isinstance(value, str) else how
    return f"{shown(value)}; give a mapping with input_ids [batch pos]{how}"


def batches(value: Any) -> str | None:
    """What is wrong with a value as several batches; an iterator is not begun."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | type):
        firsts = value[:1] if isinstance(value, list | tuple) else ()
        wrong = next(filter(None, map(batch, firsts)), None)
        return None if wrong is None else f"a {type(value).__name__} whose first is {wrong}"
    return f"{shown(value)}; give what probes.token_batches returns, or mappings with input_ids"


def pairs(value: Any) -> str | None:
    """What is wrong with a value as (prompt, target) pairs; an iterator is not begun."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | type):
        return f"{shown(value)}; give a list of (prompt, target) pairs"
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            # Encoded items are objects of their own, and name their parts.
            is_encoded = hasattr(item, "prompt_ids") and hasattr(item, "target_ids")
            is_pair = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
            if not (is_encoded or is_pair):
                return (
                    f"a {type(value).__name__} whose item {place} is {shown(item)}; give a list of "
                    "(prompt, target) pairs"
                )
    return None


def each_of(kind: type[Any], how: str) -> Check:
    """A check for lists of instances of a class; see `instance_of`."""
    one = instance_of(kind, how)

    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"{shown(value)}; give a list, each of it {how}"
        wrongs = ((place, one(item)) for place, item in enumerate(value))
        found = (f"a {type(value).__name__} whose item {n} is {w}" for n, w in wrongs if w)
        return next(found, None)

    return check


def as_tensor(value: Any, what: str, axes: str | None) -> Any:
    """Numbers as a tensor; arrays and lists are taken too.

    Args:
        value: the numbers.
        what: whose they are.
        axes: names of the axes, `"layer d_mlp"` say; None for any.
    """
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what}: found {shown(value)}; give a tensor [{axes or ''}]") from None
    if axes is not None and found.ndim != len(axes.split()):
        raise ValueError(f"{what}: found shape {list(found.shape)}; give a tensor [{axes}]")
    return found


def hook_pairs(given: Any) -> list[tuple[Any, Callable[..., Any]]]:
    """Pairs of hook point and function, checked; what functions return is checked later."""
    several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
    pairs = [*given] if several else [given]
    functions = set()
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[1]):
            raise ValueError(
                f"a hook is a pair of a name and a function, found {shown(pair)}; give "
                "[(name, function)], the function taking (tensor, hook)"
            )
        functions.add(pair[1])
    for function in functions:
        if error := not_callable_with(function, None, None):
            name = getattr(function, "__name__", type(function).__name__)
            raise ValueError(
                f"{name} cannot be called as a hook ({error}); give a function of (tensor, hook)"
            )
    return [(name, _alike(function)) for name, function in pairs]


def _alike(function: Callable[..., Any]) -> Callable[..., Any]:
    """A hook function, of which anything but a tensor like the one it got is refused."""

    def checked(tensor: Any, point: Any) -> Any:
        new = function(tensor, point)
        if new is None or new is tensor:
            return new
        same = ("shape", "dtype", "device")
        if all(getattr(new, name, None) == getattr(tensor, name) for name in same):
            return new
        of_type = f" of {new.dtype}" if hasattr(new, "dtype") else ""
        raise ValueError(
            f"the hook at {point.name} returned {shown(new)}{of_type}; return a tensor of shape "
            f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}, or None to leave it"
        )

    return checked


def as_tensors(given: Any, what: str, axes: str) -> dict[int, Any]:
    """Copies of tensors by layer, without gradients on the CPU; see `as_tensor`."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {shown(given)}; give rows by layer, {{3: tensor [{axes}]}}")
    return {
        layer: as_tensor(rows, f"{what} in layer {layer}", axes).detach().clone().cpu()
        for layer, rows in given.items()
    }
