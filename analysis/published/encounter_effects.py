"""Encounter effects: what encounters add and how it fades, as told in words, against runs of ours.

Arms are those of the claims about the same things; where a claim and what was told look from
opposite ends, they change places.
"""

from collections.abc import Mapping

from analysis.claims.catalogue import claim_named
from analysis.claims.designs import Contrast
from analysis.claims.knowledge_settings import MET
from analysis.claims.measurements import Table
from analysis.claims.selection import UNEDITED, Arm, matched
from analysis.published.acquisition_cells import FREE, conditions_of
from analysis.published.comparing import Measured
from analysis.published.records import Published
from analysis.published.result_names import FAMILIAR
from analysis.published.result_rows import ResultRows, measured

_CLAIMS: Mapping[str, str] = {
    "chang-effectivity": "encounters-raise",
    "chang-size": "larger-models-acquire-more",
    "chang-duplication": "duplication-forgets-faster",
    "chang-batch-size": "larger-batches-forget-more-slowly",
    "chang-threshold": "encounters-within-the-threshold-add-up",
}
_TURNED = ("chang-threshold",)
"""Told of what the claim takes as its base."""
_CURVE = {**UNEDITED, "measure": "slope", "moment": None, "against": None, **MET}


def measure_told(published: Published, rows: ResultRows) -> Measured:
    """What results say of something told in words."""
    name = published.identifier
    if name not in _CLAIMS:
        return _slope(rows)
    claim = claim_named(_CLAIMS[name])
    design = claim.design
    assert isinstance(design, Contrast)
    arm, base = design.arm, design.base
    if name in _TURNED and base is not None:
        arm, base = base, arm
    frame = rows.having(Table.ACQUISITION, claim.where, str(claim.where["measure"]))
    averaged = {*design.averaged, *FREE} - set(arm.settings)
    found = {"conditions": conditions_of(frame, rows, FAMILIAR), "rows": arm.name}
    if base is None:
        values = matched(frame, Table.ACQUISITION, [arm], averaged)[0]
        return measured(values, values, **found)
    both = matched(frame, Table.ACQUISITION, [arm, base], averaged)
    return measured(both[0], both[0] - both[1], **found)


def _slope(rows: ResultRows) -> Measured:
    """The slope of forgetting curves, which is a change itself."""
    frame = rows.having(Table.ACQUISITION, _CURVE, "slope")
    values = matched(frame, Table.ACQUISITION, [Arm("all runs", {"measure": "slope"})], FREE)[0]
    return measured(
        values, values, conditions=conditions_of(frame, rows, FAMILIAR), rows="all unedited runs"
    )
