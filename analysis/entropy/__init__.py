"""Entropies of models and of series of checkpoints: `python -m analysis.entropy`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.entropy.command"})
