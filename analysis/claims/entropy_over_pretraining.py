"""Does entropy fall over pretraining: of each kind, in each layer, on each corpus?

Source: Kim et al., ICLR 2025: sections 3.3 and 3.4, appendices A.2 to A.4.

Example:
    >>> [claim.identifier for claim in CLAIMS][0]
    'entropy-falls'
"""

from analysis.claims.choices import Paper
from analysis.claims.claim import Claim, ClaimGroup
from analysis.claims.designs import Design, EachOf, Foremost, Trend
from analysis.claims.measurements import Table
from analysis.claims.selection import Arm, Settings
from analysis.statistics.results import Direction

KNOWLEDGE = {"measure": "|c|"}
TOTALS: Settings = {"layer": None}
_CHANGE = "change along the line from the first to the last checkpoint"
_SMALL_RANGE = (
    "the published values lie within 0.4 % of the largest possible, where the sampling of "
    "documents and single-precision sums matter"
)
_ONE_RUN = "one pretraining run, measured once: runs of the same recipe can differ"
_VARIANTS = ("|c|", "max(c, 0)", "|max(gate, 0) · up|")


_group = ClaimGroup(
    paper=Paper.KNOWLEDGE_ENTROPY,
    command="python -m analysis.entropy --revisions",
    table=Table.PRETRAINING,
    family="entropy over pretraining",
)


def _falls(
    identifier: str,
    statement: str,
    place: str,
    design: Design,
    where: Settings,
    *,
    value: str = "",
    doubts: tuple[str, ...] = (),
) -> Claim:
    return _group.claim(
        *(identifier, statement, place, design, where, _CHANGE, Direction.FALLS),
        value=value,
        doubts=doubts,
    )


_LINE = Trend(Arm("knowledge entropy", KNOWLEDGE))

CLAIMS = (
    _falls(
        "entropy-falls",
        "knowledge entropy falls over pretraining",
        "Figure 2, section 3.3",
        _LINE,
        TOTALS,
        value="OLMo-1B from 144.0 to 143.6 nats, OLMo-7B from 297.6 to 297.0 (axis ticks)",
        doubts=(
            _SMALL_RANGE,
            _ONE_RUN,
            "the released code averages over padding, and reads text that was decoded and "
            "tokenised again",
            "it is no property of the function that the model computes: rows scaled up and memory "
            "vectors scaled down alike change it and nothing else",
            "with SiLU the share of active neurons of single tokens grows in pretraining "
            "(arXiv 2411.02335), so that a narrower mean need not be narrower use",
        ),
    ),
    _falls(
        "entropy-falls-in-each-layer",
        "knowledge entropy falls in every layer",
        "Figure 8, section 3.3",
        EachOf(_LINE, "layer"),
        {},
        value="OLMo-1B between 8.88 and 9.00 nats a layer (axis ticks)",
        doubts=("shown at three checkpoints", _ONE_RUN),
    ),
    _falls(
        "entropy-falls-most-in-the-last-layer",
        "knowledge entropy falls most in the last layer",
        "Figure 8, section 3.3",
        Foremost(_LINE, "layer"),
        {},
        doubts=("shown at three checkpoints", _ONE_RUN),
    ),
    _falls(
        "entropy-falls-on-each-corpus",
        "knowledge entropy falls whatever corpus it is measured on",
        "Figure 7, appendix A.2",
        EachOf(_LINE, "corpus"),
        TOTALS,
        value="Dolma, C4 and PubMed between 143.3 and 143.9 nats (axis ticks)",
        doubts=("the released code measures one corpus only", _ONE_RUN),
    ),
    _falls(
        "entropy-falls-with-each-activation",
        "knowledge entropy falls whichever way negative coefficients are treated",
        "Figure 9, appendix A.2",
        EachOf(Trend(Arm("knowledge entropy", {})), "measure", fewest=len(_VARIANTS)),
        {**TOTALS, "measure": _VARIANTS},
        value="between 143.2 and 144.0 nats (axis ticks)",
        doubts=(
            "the text (negative outputs become 0) and the formula (a ReLU for the gate) describe "
            "two different variants, and the released code has neither; both are tested",
        ),
    ),
    _falls(
        "attention-entropy-falls",
        "attention entropy falls over pretraining",
        "Figure 3, section 3.4",
        Trend(Arm("attention entropy", {"measure": "attention"})),
        TOTALS,
        value="between 40 and 70 nats (axis ticks)",
        doubts=("the released code does not have it", _ONE_RUN),
    ),
    _falls(
        "next-token-entropy-falls",
        "the entropy of next-token predictions falls over pretraining",
        "Figure 3, section 3.4",
        Trend(Arm("next-token entropy", {"measure": "next-token"})),
        TOTALS,
        value="between 2.4 and 2.8 nats (axis ticks)",
        doubts=("the released code does not have it", _ONE_RUN),
    ),
)
