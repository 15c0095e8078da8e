"""What the Factual Knowledge Acquisition paper reports, as far as it is at hand: directions.

Its tables are not: the source is a summary without numbers. Slopes are per decade of steps.

Source: Chang et al., NeurIPS 2024: sections 4.1 to 4.4.

Example:
    >>> str(RECORDS[0].direction)
    'rises'
"""

from analysis.claims.choices import Paper
from analysis.published.records import Published, Reading
from analysis.statistics.results import Direction


def _told(
    name: str, section: str, measure: str, told: Direction, change_from: str, unit: str = "nats"
) -> Published:
    return Published(
        identifier=f"chang-{name}",
        paper=Paper.FACTUAL_KNOWLEDGE,
        place=f"section {section}",
        measure=measure,
        unit=unit,
        reading=Reading.WORDS,
        conditions={"model": "OLMo-1B and OLMo-7B", "corpus": "Dolma"},
        change_from=change_from,
        told=told,
    )


_SLOPE = "share a decade of steps"
RECORDS = (
    _told("effectivity", "4.1", "effectivity", Direction.RISES, "before the encounter"),
    _told("size", "4.2", "effectivity", Direction.RISES, "the smaller model"),
    _told("retainability", "4.3", "retainability", Direction.FALLS, "earlier steps", "share"),
    _told("duplication", "4.3", "forgetting slope", Direction.FALLS, "paraphrase", _SLOPE),
    _told("batch-size", "4.3", "forgetting slope", Direction.RISES, "the smaller batch", _SLOPE),
    _told("threshold", "4.4", "net gain", Direction.FALLS, "intervals within the threshold"),
)
"""All of them."""
