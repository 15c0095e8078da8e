"""Report on runs of continual knowledge learning: `python -m analysis.ckl_report`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.ckl_report.command"})
