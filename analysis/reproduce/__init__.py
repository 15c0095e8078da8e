"""Every claim of the papers, tested: `python -m analysis.reproduce`.

| question | module |
|---|---|
| Which settings has a scale? | `analysis.reproduce.scales` |
| Which experiments does a claim need? | `analysis.reproduce.experiments` |
| Which runs has an experiment? | `analysis.reproduce.knowledge_runs`, `memorization_runs` |
| In which order, and what do they cost? | `analysis.reproduce.plan`, `analysis.reproduce.cost` |
| How are they made? | `analysis.reproduce.making` |
| What came of it? | `analysis.reproduce.conclusion` |
"""

from probes.lazy_exports import lazily

__all__ = ["main"]
__getattr__, __dir__ = lazily(__name__, {"main": "analysis.reproduce.command"})
