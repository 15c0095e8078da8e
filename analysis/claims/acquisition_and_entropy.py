"""Do acquisition and forgetting follow the entropy of the start, and what becomes of each age?

Source: Kim et al., ICLR 2025: section 4.2, appendices A.1 and B.3 to B.5.

Example:
    >>> [claim.identifier for claim in CLAIMS][2]
    'acquisition-follows-entropy'
"""

from analysis.claims.choices import Extreme, Paper, Unit
from analysis.claims.claim import ClaimGroup
from analysis.claims.designs import ACROSS_ITEMS, AllOf, Contrast, Trend
from analysis.claims.following import Follows
from analysis.claims.knowledge_settings import (
    ACQUIRED,
    COMMAND,
    DOWNSTREAM,
    FORGOTTEN,
    KNOWN,
    LAST,
)
from analysis.claims.measurements import Table
from analysis.claims.selection import UNEDITED, Arm
from analysis.statistics.results import Direction

_ENTROPY = Arm(
    "knowledge entropy of the start",
    {
        **{"measure": "knowledge entropy", "moment": "unedited start", "against": None},
        **{"exposure": None, "kind": None},
    },
)
_A, _F = Arm("acquisition", ACQUIRED), Arm("forgetting", FORGOTTEN)
_REWARMED = (
    "late checkpoints come from the end of a learning-rate decay and are warmed up anew, so that "
    "age is mixed with the distance between both learning rates"
)
_DRIFT = (
    "both series drift with age: two unrelated random walks of ten points correlate beyond 0.94 in "
    "four of ten draws"
)
_SMALL_RATE = "at a learning rate of 1e-4 acquisition does not fall: 21.6, 23.0, 23.7, 22.6 %"
_LINE = "change along the line from the first to the last checkpoint"


_claim = ClaimGroup(
    paper=Paper.KNOWLEDGE_ENTROPY,
    command=COMMAND,
    table=Table.ACQUISITION,
    family="acquisition and entropy",
    where=UNEDITED,
).claim


def _middle() -> AllOf:
    """The middle of pretraining against an early checkpoint and the last one."""
    middle = Arm("middle checkpoint", {"step": Extreme.MIDDLE})
    others = (
        Arm("early checkpoint", {"step": Extreme.EARLY}),
        Arm("last checkpoint", {"step": Extreme.LARGEST}),
    )
    return AllOf(tuple(Contrast(middle, other, least=ACROSS_ITEMS) for other in others))


CLAIMS = (
    _claim(
        "acquisition-falls-with-age",
        "later checkpoints acquire a smaller share",
        "Figure 4a, Table 1",
        Trend(_A),
        {},
        _LINE,
        Direction.FALLS,
        unit=Unit.SHARE,
        value="25.2, 24.8, 21.4, 18.8 % at 118k, 369k, 554k, 738k steps",
        doubts=(_SMALL_RATE, _REWARMED, "no repeats with other seeds are reported"),
    ),
    _claim(
        "forgetting-rises-with-age",
        "later checkpoints forget a larger share",
        "Figure 4a, Table 1",
        Trend(_F),
        {},
        _LINE,
        Direction.RISES,
        unit=Unit.SHARE,
        value="10.5, 12.9, 17.0, 19.5 % at 118k, 369k, 554k, 738k steps",
        doubts=(
            _REWARMED,
            "the mean of the six tasks has a standard error of 0.6 points",
            "longer pretraining makes models more sensitive to any change of their weights "
            "(arXiv 2503.19206), which needs no entropy",
        ),
    ),
    _claim(
        "acquisition-follows-entropy",
        "acquisition follows the knowledge entropy of the start over checkpoints",
        "section 4.3, footnote 11",
        Follows(_A, _ENTROPY),
        {},
        "rank correlation of first differences",
        Direction.RISES,
        unit=Unit.CORRELATION,
        value="Pearson 0.94 of levels, p 6e-5, which is that of ten checkpoints",
        doubts=(
            _DRIFT,
            _SMALL_RATE,
            "weight decay in pretraining changes plasticity as well (arXiv 2602.11137)",
        ),
    ),
    _claim(
        "forgetting-follows-entropy",
        "forgetting goes against the knowledge entropy of the start over checkpoints",
        "section 4.3, footnote 11",
        Follows(_F, _ENTROPY),
        {},
        "rank correlation of first differences",
        Direction.FALLS,
        unit=Unit.CORRELATION,
        value="Pearson -0.96 of levels, p 1e-5, which is that of ten checkpoints",
        doubts=(_DRIFT,),
    ),
    _claim(
        "middle-checkpoint-knows-most",
        "of an early, the middle and the last checkpoint the middle one ends with the best "
        "knowledge score",
        "Figure 4b, Table 2",
        _middle(),
        KNOWN,
        "K of the middle less the better of the others",
        Direction.RISES,
        value="K -0.281, -0.280, -0.293, -0.301 at 118k, 369k, 554k, 738k steps",
        doubts=(
            "the first two differ by 0.001 of a score that the released code divides by the padded "
            "length",
            "the authors call the choice of the middle an approximation",
        ),
    ),
    _claim(
        "middle-checkpoint-keeps-most",
        "of an early, the middle and the last checkpoint the middle one ends with the best "
        "downstream score",
        "Figure 4b, Table 2",
        _middle(),
        DOWNSTREAM,
        "P of the middle less the better of the others",
        Direction.RISES,
        unit=Unit.SHARE,
        value="P 54.0, 54.6, 52.8, 52.0 % at 118k, 369k, 554k, 738k steps",
        doubts=("the first two differ by one standard error of the six tasks",),
    ),
    _claim(
        "once-ends-below-its-start",
        "at the last checkpoint passages that are met once end below their start",
        "Figure 11, appendix B.3",
        Contrast(Arm("met once", {"exposure": "once", "moment": "end"})),
        {**LAST, "measure": "A", "against": "start", "kind": "all"},
        "A of passages met once",
        Direction.FALLS,
        unit=Unit.SHARE,
        doubts=("read off a figure without intervals, from one run",),
    ),
    _claim(
        "gap-is-larger-on-new-text",
        "acquisition falls with age more steeply when the text trained on is newer",
        "Figure 13, appendix B.4.2",
        Trend(
            Arm("new text", {"novelty": "new"}),
            Arm("familiar text", {"novelty": "familiar"}),
        ),
        ACQUIRED,
        f"{_LINE}, on new text less on familiar text",
        Direction.FALLS,
        unit=Unit.SHARE,
        value="-6.4 points on PubMed, -3.4 on C4 from the first to the last checkpoint",
        doubts=("two corpora, which differ in more than their novelty", _REWARMED),
    ),
)
