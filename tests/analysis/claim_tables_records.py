"""Results of `analysis.memory_updates` with correlations made by hand."""

import json


def write_updates(folder, *, model, **changed):
    """Two checkpoints of two layers, and one without a step; a correlation is missing."""
    settings = {"model": model, "corpus": "plants", "batches": 3, "eps": 1e-5, **changed}
    checkpoints = [
        {
            "checkpoint": name,
            "step": step,
            "layers": [
                {"layer": 0, "gradients": 0.75 + shift, "updates": -0.25 + shift},
                {"layer": 1, "gradients": 0.5 + shift, "updates": None},
            ],
        }
        for name, step, shift in (("step8", 8, 0.0), ("step64", 64, 0.125), ("main", None, 0.25))
    ]
    folder.mkdir()
    content = {"model": model, "configuration": settings, "checkpoints": checkpoints}
    (folder / "updates.json").write_text(json.dumps(content))
    return folder
