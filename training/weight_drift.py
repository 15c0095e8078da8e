r"""Weight drift: how far training has taken the weights of a model, part by part.

With \(W_0\) the weights of a part at the start and W those now, as vectors:

- distance: \(\lVert W - W_0 \rVert_F\)
- relative: the distance over \(\lVert W_0 \rVert_F\)
- angle: between \(W_0\) and W, in radians: what of the drift is turning, not growing. It is
  Kahan's, from the three lengths, which small angles do not round to 0.

Distances of parts add up by their squares, so layers, kinds of parts and the whole model are put
together from them (`drift_table`).

A model's function can stay the same while its weights drift (rescaling an up row and its memory
vector, say): drift says where training has worked, not what it changed.

Source: Kahan, "Miscalculating Area and Angles of a Needle-like Triangle" (2014), section 5.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                  # doctest: +SKIP
    >>> observer = WeightDriftObserver(start_weights(model), Cadence(every=50))  # doctest: +SKIP
    >>> drift_table(drift_since(start_weights(model), model))["distance"].max()  # doctest: +SKIP
    0.0
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from probes.hooked_model import HookedModel
from training.kept_weights import Weights, refuse_others, refuse_sharded, start_weights
from training.observers import Cadence
from training.parameter_parts import Part, parameter_parts
from training.runs.records import Record, WeightDriftRecord
from training.weight_products import products_by_part

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightDriftObserver", "angle_of", "drift_since", "drift_table", "start_weights"]


class WeightDriftObserver:
    """Measures how far the weights are from those of the start.

    Args:
        start: the weights to compare with (`start_weights`, before the run).
        cadence: when.
    """

    def __init__(self, start: Weights, cadence: Cadence) -> None:
        self._start = start
        self._cadence = cadence

    def due(self, step: int) -> bool:
        """Whether to look after this many updates."""
        return self._cadence.due(step)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """Distance, relative distance and angle of every part.

        Raises:
            ValueError: the weights are sharded, or the start is another model's.
        """
        return [drift_since(self._start, model, step)]


def drift_since(start: Weights, model: HookedModel, step: int = 0) -> WeightDriftRecord:
    """How far a model is from some start.

    Args:
        start: the weights to compare with, on the CPU.
        model: the model now, such as one loaded from a checkpoint.
        step: what the record is to say.

    Raises:
        ValueError: the model's weights are sharded, or the start is another model's.
    """
    refuse_sharded(model, "weight drift", "compare checkpoints instead (`drift_since`)")
    refuse_others(model, start)
    now = start_weights(model)
    moved = {name: weight - start[name] for name, weight in now.items()}
    found = products_by_part([now, start, moved], parameter_parts(model))
    lengths = {part: squares.diagonal().sqrt().tolist() for part, squares in found.items()}
    norms, start_norms, distances = zip(*lengths.values(), strict=True)
    return WeightDriftRecord(
        step,
        [str(part) for part in lengths],
        list(distances),
        [_relative(*pair) for pair in zip(distances, start_norms, strict=True)],
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

    names = [Part.named(name) for name in record.parts]
    lengths = zip(record.start_norm, record.norm, record.distance, strict=True)
    parts = dict(zip(names, lengths, strict=True))
    layers = sorted({part.layer for part in parts if part.layer is not None})
    rows = [_row("model", None, None, parts.values())]
    rows += [
        _row("layer", layer, None, [v for part, v in parts.items() if part.layer == layer])
        for layer in layers
    ]
    rows += [
        _row("module", None, module, [v for part, v in parts.items() if part.module == module])
        for module in dict.fromkeys(part.module for part in parts)
    ]
    rows += [_row("part", part.layer, part.module, [lengths]) for part, lengths in parts.items()]
    table = pd.DataFrame(rows)
    table.insert(0, "step", record.step)
    return table.astype({"layer": "Int64", "relative": float, "angle": float})


def angle_of(first: float, second: float, apart: float) -> float | None:
    """The angle between two vectors, in radians, from their lengths and their distance.

    Returns:
        From 0 to pi; None where a length is 0.
    """
    if not (first and second):
        return None
    long, short = max(first, second), min(first, second)
    inside = apart - (long - short) if short >= apart else short - (long - apart)
    # Rounding can take a triangle without area a little below none.
    across = max((long - short) + apart, 0.0) * max(inside, 0.0)
    along = (long + (short + apart)) * max((long - apart) + short, 0.0)
    return 2 * math.atan2(math.sqrt(across), math.sqrt(along))


def _relative(distance: float, start_norm: float) -> float | None:
    return distance / start_norm if start_norm else None


def _row(
    level: str, layer: int | None, module: str | None, parts: Iterable[tuple[float, float, float]]
) -> dict[str, Any]:
    start_norm, norm, distance = (math.hypot(*lengths) for lengths in zip(*parts, strict=True))
    return {
        "level": level,
        "layer": layer,
        "module": module,
        "distance": distance,
        "relative": _relative(distance, start_norm),
        "angle": angle_of(start_norm, norm, distance),
    }
