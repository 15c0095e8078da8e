"""Every claim of the papers, tested: `python -m analysis.reproduce`.

| question | module |
|---|---|
| Which settings has a scale? | `analysis.reproduce.scales` |
| Which experiments does a claim need? | `analysis.reproduce.experiments` |
| Which runs has an experiment, and what do they cost? | `analysis.reproduce.plan` |
| What came of them? | `analysis.reproduce.concluding` |

How they are made stands in `analysis.jobs`.
"""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.reproduce.command"})
