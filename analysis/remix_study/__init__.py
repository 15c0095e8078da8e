"""Study of continual memorization: `python -m analysis.remix_study`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.remix_study.command"})
