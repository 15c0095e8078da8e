"""Study of continual knowledge learning over a trajectory: `python -m analysis.ckl_study`."""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.ckl_study.command"})
