"""Tuned lens: train translators, compare with the logit lens: `python -m training.tuned_lens`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "training.tuned_lens.command"})
