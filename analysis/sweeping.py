"""Sweep: the entropies of several models, or of the checkpoints of one, from a script.

`python -m analysis.entropy` makes the same of `--revisions`; both measure through
`analysis.trajectory`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.checkpoints import Checkpoint, checkpoints, is_series, step_of
from analysis.numbers import numbered
from analysis.sweep_folder import begin, origin_of
from analysis.trajectory import Trajectory, measure_checkpoints
from probes.checking import batches as some_batches
from probes.corpus.token_batch import Batches
from probes.hooked_model import HookedModel
from probes.measure import measure_entropy
from probes.models import load_model
from probes.refusals import shown

Model = str | Path | HookedModel


def sweep(
    models: Model | Sequence[Model] | Mapping[str, Model],
    batches: Batches | Callable[[HookedModel], Batches],
    *,
    revisions: Sequence[str] = (),
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **settings: Any,
) -> Trajectory:
    """Measure entropies of several models or checkpoints, one loaded at a time.

    Args:
        models: a hub id with `revisions`, a run directory or a pattern of folders, whose
            checkpoints are taken by their steps; or several names, folders or hooked models, in
            order; or these by what to call them.
        batches: what `probes.measure_entropy` takes, gone through once for every model; or a
            function that makes them for a model, where tokenizers differ.
        revisions: of a hub id, or checkpoints of a run directory.
        out: a folder to keep every result in as soon as it is measured; a sweep that was stopped
            goes on there. None keeps results in memory alone.
        device: where to load models; None for the usual place.
        dtype: what to load them as; None for the usual type.
        **settings: further arguments of `probes.measure_entropy`: `kinds`, `coefficient`, ...

    Returns:
        The trajectory: `to_dataframe()`, `plot()`, `findings`, `save(directory)`.

    Raises:
        ValueError: there are no models, one stands twice, batches can be gone through only once,
            or the folder holds another sweep.

    Example:
        >>> found = analysis.sweep("runs/tiny", batches, kinds="knowledge")     # doctest: +SKIP
        >>> found.plot(), found.findings                                        # doctest: +SKIP
    """
    if isinstance(batches, Iterator):
        raise ValueError(
            "these batches can be gone through only once, and every model needs them; give a "
            "list, what probes.token_batches returns, or a function of the model"
        )
    if not callable(batches) and (wrong := some_batches(batches)):
        raise ValueError(f"sweep: batches is {wrong}")
    todo, given = _models(models, revisions)
    kept = None if out is None else Path(out)
    if kept is not None:
        plain = {name: v for name, v in settings.items() if name not in ("beside", "on_batch")}
        begin(kept, json.loads(json.dumps(plain, default=str)))

    def load(one: Checkpoint) -> HookedModel:
        model = given.get(one.label, one.model)
        if isinstance(model, HookedModel):
            return model
        how: dict[str, Any] = {"device": device, "dtype": dtype, "revision": one.revision}
        return load_model(str(model), **{name: v for name, v in how.items() if v is not None})

    def texts(model: HookedModel) -> Batches:
        return batches(model) if callable(batches) else batches

    measured = measure_checkpoints(
        todo,
        ["."],
        kept,
        load=load,
        measure=lambda _, model: [measure_entropy(model, texts(model), **settings)],
        origins=lambda model: [
            origin_of(model, corpus=getattr(texts(model), "content_hash", None))
        ],
    )
    return Trajectory(tuple(measured))


def _models(
    models: Model | Sequence[Model] | Mapping[str, Model], revisions: Sequence[str]
) -> tuple[list[Checkpoint], Mapping[str, Model]]:
    """The checkpoints meant, and the models that stand for them where these were given."""
    if isinstance(models, str | Path) and is_series(str(models), revisions):
        return checkpoints(str(models), revisions), {}
    if revisions:
        raise ValueError("revisions belong to one hub id or run directory; give that alone")
    if not isinstance(models, Mapping):
        several = [models] if isinstance(models, str | Path | HookedModel) else list(models)
        names = [one.name if isinstance(one, HookedModel) else Path(one).name for one in several]
        models = dict(zip(numbered(names), several, strict=True))
    if not models:
        raise ValueError("there are no models to measure; give at least one")
    todo = []
    for name, one in models.items():
        if not isinstance(one, str | Path | HookedModel):
            raise ValueError(f"sweep: model {name!r} is {shown(one)}; give a name or a model")
        step = step_of(name) if "step" in name else None
        where = one.name if isinstance(one, HookedModel) else str(one)
        todo.append(Checkpoint(where, None, name, step))
    if all(one.step is not None for one in todo):
        todo.sort(key=lambda one: one.step or 0)
    return todo, models
