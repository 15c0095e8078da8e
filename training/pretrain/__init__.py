"""Pretrain small models: `python -m training.pretrain`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "training.pretrain.command"})
