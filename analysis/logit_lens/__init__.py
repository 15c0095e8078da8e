"""Logit and tuned lens: where in depth a fact becomes readable: `python -m analysis.logit_lens`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.logit_lens.command"})
