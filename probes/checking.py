"""Checking: arguments of another kind are refused in one line, and numbers are compared.

`takes` names, for arguments of a public function, what each has to be. It looks before the function
does anything, and costs a few microseconds a call. The rounding of equal products in another order
stays below a share of the largest value that depends on the type (`tolerance`); a wrong description
of a model is off by the order of that value.

Example:
    >>> @takes(model=hooked_model)
    ... def n_layers(model):
    ...     return model.n_layers
    >>> n_layers("gpt2")
    Traceback (most recent call last):
    ValueError: n_layers: model is the string 'gpt2'; give what probes.load_model returns for it
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_TOKENS = 8


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
Check = Callable[[Any], str | None]
"""What is wrong with a value, as what follows its name; None where nothing is."""


def takes(**wanted: Check) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Refuse arguments that are something else."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)
        several = {n for n, p in signature.parameters.items() if p.kind is p.VAR_POSITIONAL}
        assert wanted.keys() <= signature.parameters.keys()

        @wraps(function)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            given = signature.bind(*args, **kwargs).arguments
            for name, check in wanted.items():
                if name not in given:
                    continue
                for value in given[name] if name in several else (given[name],):
                    if (wrong := check(value)) is not None:
                        raise ValueError(f"{function.__name__}: {name} is {wrong}")
            return function(*args, **kwargs)

        return checked

    return decorate


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


def instance_of(kind: type[Any], how: str) -> Check:
    """A check for instances of a class."""

    def check(value: Any) -> str | None:
        # A class has the attributes of what it makes, but is none.
        is_one = isinstance(value, kind) and not isinstance(value, type)
        return None if is_one else f"{shown(value)}; give {how}"

    return check


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


def shown(value: Any) -> str:
    """A value in a few words, for a refusal."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN_LETTERS else f"{value[:_SHOWN_LETTERS]}..."
        return f"the string {text!r}"
    if isinstance(value, bool | int | float):
        return f"the number {value}" if not isinstance(value, bool) else str(value)
    if isinstance(value, list | tuple | set | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {list(value.shape)}"
    article = "an" if type(value).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(value).__name__}"


_SHOWN_LETTERS = 40
