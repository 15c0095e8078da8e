"""The catalogue: all claims, by their identifiers; a module for each paper.

Example:
    >>> claim_named("three-stages").place
    'Figure 8, section 5'
"""

from collections.abc import Mapping
from difflib import get_close_matches

from analysis.claims.catalogue import chang, chen, kim, kim_resuscitation, open_questions
from analysis.claims.claim import Claim

CLAIMS: Mapping[str, Claim] = {
    claim.identifier: claim
    for module in (kim, kim_resuscitation, chang, chen, open_questions)
    for claim in module.CLAIMS
}
"""Every claim, in the order of the ledger."""


def claim_named(identifier: str) -> Claim:
    """The claim of a name.

    Args:
        identifier: of the claim.

    Raises:
        ValueError: there is none.
    """
    if identifier in CLAIMS:
        return CLAIMS[identifier]
    near = get_close_matches(identifier, CLAIMS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(CLAIMS)}"
    raise ValueError(f"there is no claim {identifier!r}; {hint}")
