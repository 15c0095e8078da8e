"""The catalogue: all published numbers, by their identifiers.

Example:
    >>> published_named("chang-duplication").change_from
    'paraphrase'
"""

from collections.abc import Mapping
from difflib import get_close_matches

from analysis.published import continual_memorization, factual_knowledge, knowledge_entropy
from analysis.published.records import Published

PUBLISHED: Mapping[str, Published] = {
    one.identifier: one
    for module in (knowledge_entropy, factual_knowledge, continual_memorization)
    for one in module.RECORDS
}
"""Every number, in the order of the papers."""


def published_named(identifier: str) -> Published:
    """The published number of a name."""
    if identifier in PUBLISHED:
        return PUBLISHED[identifier]
    near = get_close_matches(identifier, PUBLISHED, 1)
    hint = f"did you mean {near[0]!r}?" if near else "they begin with kim-, chang- or chen-"
    raise ValueError(f"there is no published number {identifier!r}; {hint}")
