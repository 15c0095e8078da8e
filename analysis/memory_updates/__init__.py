"""Do memory vectors with larger coefficients get larger updates? `analysis.memory_updates`."""

from probes.lazy_exports import lazily

_EXPORTS = {
    "MemoryUpdates": "analysis.memory_updates.measurement",
    "main": "analysis.memory_updates.command",
    "measure_updates": "analysis.memory_updates.measurement",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
