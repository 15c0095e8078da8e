r"""Weight drift: how far training has taken the weights of a model, part by part.

With \(W_0\) the weights of a part at the start and W those now, as vectors: `distance` is
\(\lVert W - W_0 \rVert_F\), `relative` the distance over \(\lVert W_0 \rVert_F\), `angle` that
between \(W_0\) and W in radians, by Kahan's formula from the three lengths, which small angles do
not round to 0. Distances add up by their squares, so layers, kinds of parts and the whole model are
put together from those of the parts (`drift_table`). Drift says where training has worked, not what
it changed: a model's function can stay the same.

Source: Kahan, "Miscalculating Area and Angles of a Needle-like Triangle" (2014), section 5.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from probes.checking import refuse_not_finite
from probes.hooked_model import HookedModel
from training.observers import Cadence, Timed
from training.runs.records import Record, WeightDriftRecord

if TYPE_CHECKING:
    import pandas as pd


class ModulePart(StrEnum):
    """What kind of part of a model a weight is in."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP_IN = "mlp_in"
    MLP_OUT = "mlp_out"
    NORM = "norm"
    UNEMBEDDING = "unembedding"
    OTHER = "other"


@dataclass(frozen=True)
class Part:
    """A part of a model; the layer is None for what is in none."""

    module: ModulePart
    layer: int | None = None

    def __str__(self) -> str:
        return str(self.module) if self.layer is None else f"{self.layer}.{self.module}"

    @classmethod
    def named(cls, name: str) -> "Part":
        layer, _, module = name.rpartition(".")
        if module not in list(ModulePart):
            raise ValueError(f"part {name!r} is none of {', '.join(ModulePart)}; name one of them")
        return cls(ModulePart(module), int(layer) if layer else None)


def parameter_parts(model: HookedModel) -> dict[str, Part]:
    """The part of every parameter, by the parameter's name."""
    anatomy = model.anatomy
    # What comes later is inside of what came before, or tied to it.
    modules: list[tuple[nn.Module | None, Part]] = [
        (anatomy.unembed, Part(ModulePart.UNEMBEDDING)),
        (anatomy.embed, Part(ModulePart.EMBEDDING)),
        (anatomy.final_norm, Part(ModulePart.NORM)),
    ]
    for number, layer in enumerate(anatomy.layers):
        modules += [
            (layer.block, Part(ModulePart.NORM, number)),
            *((m, Part(ModulePart.MLP_IN, number)) for m in (layer.mlp, layer.up, layer.gate)),
            (layer.down, Part(ModulePart.MLP_OUT, number)),
            (layer.attention, Part(ModulePart.ATTENTION, number)),
        ]
    owners = {
        id(w): part for module, part in modules if module is not None for w in module.parameters()
    }
    named = model.hf_model.named_parameters()
    return {name: owners.get(id(weight), Part(ModulePart.OTHER)) for name, weight in named}


Weights = Mapping[str, Tensor]  # a tensor for each parameter, by its name


def start_weights(model: HookedModel) -> dict[str, Tensor]:
    """Copies of a model's weights on the CPU, in float32 or wider.

    Taken before `training.train` is called, they are those of the start, also of a run that is
    resumed: it is given the same start again.
    """
    return {
        name: weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32), copy=True)
        for name, weight in model.hf_model.named_parameters()
    }


@contextmanager
def with_weights(model: HookedModel, weights: Weights) -> Iterator[None]:
    """Other weights for the length of a `with` block; then the same bits as before."""
    refuse_others(model, weights)
    parameters = dict(model.hf_model.named_parameters())
    own = {name: weight.detach().clone() for name, weight in parameters.items()}

    def write(values: Weights) -> None:
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(values[name])

    try:
        write(weights)
        yield
    finally:
        write(own)


def refuse_others(model: HookedModel, weights: Weights) -> None:
    """Make sure that weights are those of a model, or of its like."""
    own = {name: weight.shape for name, weight in model.hf_model.named_parameters()}
    given = {name: weight.shape for name, weight in weights.items()}
    if wrong := {name for name, _ in own.items() ^ given.items()}:
        raise ValueError(
            f"the start weights are not those of {model.name}: they differ in {min(wrong)!r}; take "
            "them from the model that is trained (`start_weights`)"
        )


def refuse_sharded(model: HookedModel, what: str, instead: str) -> None:
    """Refuse a model whose weights `fully_shard` has cut up."""
    if any(isinstance(part, FSDPModule) for part in model.hf_model.modules()):
        raise ValueError(f"{what} needs whole float32 weights, and 'fsdp' shards them; {instead}")


_VALUES_AT_ONCE = 2**20


def inner_products(
    rows: Sequence[Weights], columns: Sequence[Weights]
) -> Float64[Tensor, "row column"]:
    """Inner products of vectors over all parameters that the first row has, in float64."""
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for name in rows[0]:
        total += _products(*([one[name].flatten() for one in some] for some in (rows, columns)))
    return total


def products_by_part(
    vectors: Sequence[Weights], parts: Mapping[str, Part]
) -> dict[Part, Float64[Tensor, "vector vector"]]:
    """Inner products of all pairs of vectors, part by part; their sum is that of the whole."""
    found: dict[Part, Tensor] = {}
    for name in vectors[0]:
        values = [vector[name].flatten() for vector in vectors]
        nothing = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
        found[parts[name]] = found.get(parts[name], nothing) + _products(values, values)
    return found


def _products(
    rows: Sequence[Float[Tensor, "entry"]], columns: Sequence[Float[Tensor, "entry"]]
) -> Float64[Tensor, "row column"]:
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    device = rows[0].device
    # Not every device has float64.
    wide = torch.float32 if device.type == "mps" else torch.float64
    for start in range(0, rows[0].numel(), _VALUES_AT_ONCE):
        left, right = (
            torch.stack([t[start : start + _VALUES_AT_ONCE].to(device, wide) for t in some])
            for some in (rows, columns)
        )
        total += (left @ right.T).double().cpu()
    return total


class WeightDriftObserver(Timed):
    """Measures how far the weights are from those of the start.

    Args:
        start: the weights to compare with (`start_weights`, before the run).
        cadence: when.
    """

    def __init__(self, start: Weights, cadence: Cadence) -> None:
        self._start = start
        super().__init__(cadence)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """Distance, relative distance and angle of every part.

        Raises:
            ValueError: the weights are sharded, the start is another model's, or a weight is not
                finite.
        """
        return [drift_since(self._start, model, step)]


def drift_since(start: Weights, model: HookedModel, step: int = 0) -> WeightDriftRecord:
    """How far a model is from earlier weights.

    Args:
        start: the weights to compare with, on the CPU.
        model: the model now, such as one loaded from a checkpoint.
        step: what the record is to say.

    Raises:
        ValueError: the model's weights are sharded, the start is another model's, or a weight is
            not finite.
    """
    refuse_sharded(model, "weight drift", "compare checkpoints instead (`drift_since`)")
    refuse_others(model, start)
    now = start_weights(model)
    refuse_not_finite(start, "the start", "take it from a sound model (`start_weights`)")
    refuse_not_finite(now, model.name, "load a sound checkpoint")
    moved = {name: weight - start[name] for name, weight in now.items()}
    found = products_by_part([now, start, moved], parameter_parts(model))
    lengths = {part: squares.diagonal().sqrt().tolist() for part, squares in found.items()}
    norms, start_norms, distances = zip(*lengths.values(), strict=True)
    return WeightDriftRecord(
        step,
        [str(part) for part in lengths],
        list(distances),
        [d / n if n else None for d, n in zip(distances, start_norms, strict=True)],
        [angle_of(*three) for three in zip(start_norms, norms, distances, strict=True)],
        list(start_norms),
        list(norms),
    )


def drift_table(record: WeightDriftRecord) -> "pd.DataFrame":
    """Drift of every part, and of what parts come to together.

    Returns:
        One row each for the whole model, every layer, every kind of part over all layers, and every
        part: `step`, `level` (`model`, `layer`, `module`, `part`), `layer`, `module` (each empty
        where the row is of all), `distance`, `relative`, `angle`.
    """
    import pandas as pd

    parts = [Part.named(name) for name in record.parts]
    lengths = list(zip(record.start_norm, record.norm, record.distance, strict=True))
    rows = []

    def add(level: str, layer: int | None, module: str | None, among: Iterable[Part]) -> None:
        chosen = [own for part, own in zip(parts, lengths, strict=True) if part in among]
        start_norm, norm, distance = (math.hypot(*own) for own in zip(*chosen, strict=True))
        relative = distance / start_norm if start_norm else None
        angle = angle_of(start_norm, norm, distance)
        rows.append((record.step, level, layer, module, distance, relative, angle))

    add("model", None, None, parts)
    for layer in sorted({part.layer for part in parts if part.layer is not None}):
        add("layer", layer, None, [part for part in parts if part.layer == layer])
    for module in dict.fromkeys(part.module for part in parts):
        add("module", None, module, [part for part in parts if part.module == module])
    for part in parts:
        add("part", part.layer, part.module, [part])
    columns = ["step", "level", "layer", "module", "distance", "relative", "angle"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"layer": "Int64", "relative": float, "angle": float})


def angle_of(first: float, second: float, apart: float) -> float | None:
    """The angle between two vectors, in radians, from their lengths and their distance."""
    if not (first and second):
        return None
    long, short = max(first, second), min(first, second)
    inside = apart - (long - short) if short >= apart else short - (long - apart)
    # Rounding can take a triangle without area a little below none.
    across = max((long - short) + apart, 0.0) * max(inside, 0.0)
    along = (long + (short + apart)) * max((long - apart) + short, 0.0)
    return 2 * math.atan2(math.sqrt(across), math.sqrt(along))
