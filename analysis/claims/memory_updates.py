"""Do memory vectors with larger coefficients get larger updates?

The gradient of a memory vector is a sum of the layer's error over positions, each times the
coefficient there. Adam divides every coordinate of it by its own recent size.

Source: Kim et al., ICLR 2025: appendix A.1.

Example:
    >>> [claim.identifier for claim in CLAIMS]
    ['gradients-follow-coefficients', 'adam-updates-follow-coefficients']
"""

from analysis.claims.choices import Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import Contrast
from analysis.claims.measurements import Table
from analysis.claims.selection import Arm
from analysis.statistics.results import Direction

GRADIENTS = Arm("gradients", {"measure": "gradients"})
UPDATES = Arm("updates under Adam", {"measure": "updates"})
COMMAND = "python -m analysis.memory_updates"
_PROPORTIONAL = (
    "proportional for one position; over positions, errors of opposite signs cancel, and a memory "
    "vector whose coefficient changes its sign loses more of it"
)


def _follow(
    identifier: str, arm: Arm, statement: str, place: str, doubts: tuple[str, ...]
) -> Claim:
    return Claim(
        identifier=identifier,
        statement=statement,
        paper=Paper.KNOWLEDGE_ENTROPY,
        place=place,
        quantity="rank correlation over the memory vectors of a layer, mean over layers",
        command=COMMAND,
        table=Table.UPDATES,
        design=Contrast(arm),
        unit=Unit.CORRELATION,
        expected=Direction.RISES,
        family="updates of memory vectors",
        doubts=doubts,
    )


CLAIMS = (
    _follow(
        "gradients-follow-coefficients",
        GRADIENTS,
        "gradients of memory vectors are larger where their coefficients are",
        "appendix A.1",
        (_PROPORTIONAL, "argued, not measured"),
    ),
    _follow(
        "adam-updates-follow-coefficients",
        UPDATES,
        "updates of memory vectors under Adam are larger where their coefficients are",
        "appendix A.1, section 4.3",
        (
            "the argument leaves out that Adam divides each coordinate by its own size, which "
            "takes the scale of the coefficient off",
            "argued, not measured",
        ),
    ),
)
