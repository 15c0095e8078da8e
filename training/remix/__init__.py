"""Continual memorization with mixing: `python -m training.remix`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "training.remix.command"})
