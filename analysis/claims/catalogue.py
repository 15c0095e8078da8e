"""The catalogue: all claims, by their identifiers.

Example:
    >>> claim_named("three-stages").place
    'Figure 8, section 5'
"""

from collections.abc import Mapping
from difflib import get_close_matches

from analysis.claims import (
    acquisition_and_entropy,
    encounters,
    entropy_over_pretraining,
    factoid_forgetting,
    memory_updates,
    mixing_claims,
    open_questions,
    resuscitation_claims,
)
from analysis.claims.claim import Claim

CLAIMS: Mapping[str, Claim] = {
    claim.identifier: claim
    for module in (
        entropy_over_pretraining,
        acquisition_and_entropy,
        memory_updates,
        resuscitation_claims,
        encounters,
        factoid_forgetting,
        mixing_claims,
        open_questions,
    )
    for claim in module.CLAIMS
}
"""Every claim, in the order of the ledger."""


def claim_named(identifier: str) -> Claim:
    """The claim of a name."""
    if identifier in CLAIMS:
        return CLAIMS[identifier]
    near = get_close_matches(identifier, CLAIMS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(CLAIMS)}"
    raise ValueError(f"there is no claim {identifier!r}; {hint}")
