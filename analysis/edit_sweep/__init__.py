"""Sweeps of edits: what each does to entropies and loss: `python -m analysis.edit_sweep`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.edit_sweep.command"})
