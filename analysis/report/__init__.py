"""One page from any set of results: `python -m analysis.report`."""

from probes.lazy_exports import lazily

__getattr__, __dir__ = lazily(__name__, {"main": "analysis.report.__main__"})
