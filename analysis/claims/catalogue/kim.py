"""Kim et al., ICLR 2025: entropy over pretraining, and what follows it.

Sections 3.3, 3.4 and 4.2, appendices A.1 to A.4 and B.3 to B.5; claims on resuscitation are in
`kim_resuscitation`. The gradient of a memory vector is a sum of the layer's error over positions,
each times the coefficient there; Adam divides every coordinate of it by its own recent size.
"""

from functools import partial

from analysis.claims.choices import Anchor, Experiment, Extreme, Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import ACROSS_ITEMS, AllOf, Contrast, EachOf, Follows, Foremost, Trend
from analysis.claims.measurements import Table
from analysis.claims.selection import (
    ACQUIRED,
    DOWNSTREAM,
    FORGOTTEN,
    KNOWN,
    LAST,
    UNEDITED,
    Arm,
    Settings,
)
from analysis.statistics.results import Direction

FALLS, RISES = Direction.FALLS, Direction.RISES
_KNOWLEDGE = {"measure": "|c|"}
_TOTALS: Settings = {"layer": None}
_CHANGE = "change along the line from the first to the last checkpoint"
_SMALL_RANGE = (
    "the published values lie within 0.4 % of the largest possible, where the sampling "
    "of documents and single-precision sums matter"
)
_ONE_RUN = "one pretraining run, measured once: runs of the same recipe can differ"
_VARIANTS = ("|c|", "max(c, 0)", "|max(gate, 0) · up|")
_REWARMED = (
    "late checkpoints come from the end of a learning-rate decay and are warmed up "
    "anew, so that age is mixed with the distance between both learning rates"
)
_DRIFT = (
    "both series drift with age: two unrelated random walks of ten points correlate "
    "beyond 0.94 in four of ten draws"
)
_SMALL_RATE = "at a learning rate of 1e-4 acquisition does not fall: 21.6, 23.0, 23.7, 22.6 %"
_PROPORTIONAL = (
    "proportional for one position; over positions, errors of opposite signs cancel, "
    "and a memory vector whose coefficient changes its sign loses more of it"
)
_kim = partial(Claim, paper=Paper.KNOWLEDGE_ENTROPY, figure=Anchor.TRAJECTORIES)
_entropy = partial(
    _kim,
    table=Table.PRETRAINING,
    family="entropy over pretraining",
    needs=(Experiment.ENTROPIES,),
    expected=FALLS,
    quantity=_CHANGE,
)
_aging = partial(
    _kim,
    table=Table.ACQUISITION,
    family="acquisition and entropy",
    needs=(Experiment.AGES,),
)
_update = partial(
    _kim,
    table=Table.UPDATES,
    family="updates of memory vectors",
    needs=(Experiment.UPDATES,),
    figure=Anchor.UPDATES,
    unit=Unit.CORRELATION,
)
_FALLING = Trend(Arm("knowledge entropy", _KNOWLEDGE))
_START_ENTROPY = Arm(
    "knowledge entropy of the start",
    {
        **{"measure": "knowledge entropy", "moment": "unedited start", "against": None},
        **{"exposure": None, "kind": None},
    },
)
_A, _F = (Arm("acquisition", ACQUIRED), Arm("forgetting", FORGOTTEN))


def _middle() -> AllOf:
    """The middle of pretraining against an early checkpoint and the last one."""
    middle = Arm("middle checkpoint", {"step": Extreme.MIDDLE})
    others = (
        Arm("early checkpoint", {"step": Extreme.EARLY}),
        Arm("last checkpoint", {"step": Extreme.LARGEST}),
    )
    return AllOf(tuple(Contrast(middle, other, least=ACROSS_ITEMS) for other in others))


CLAIMS = (
    _entropy(
        "entropy-falls",
        "knowledge entropy falls over pretraining",
        "Figure 2, section 3.3",
        _FALLING,
        where=_TOTALS,
        value="OLMo-1B from 144.0 to 143.6 nats, OLMo-7B from 297.6 to 297.0 (axis ticks)",
        doubts=(
            _SMALL_RANGE,
            _ONE_RUN,
            "the released code averages over padding, and reads text that was decoded and "
            "tokenised again",
            "it is no property of the function that the model computes: rows scaled up and "
            "memory vectors scaled down alike change it and nothing else",
            "with SiLU the share of active neurons of single tokens grows in pretraining "
            "(arXiv 2411.02335), so that a narrower mean need not be narrower use",
        ),
    ),
    _entropy(
        "entropy-falls-in-each-layer",
        "knowledge entropy falls in every layer",
        "Figure 8, section 3.3",
        EachOf(_FALLING, "layer"),
        value="OLMo-1B between 8.88 and 9.00 nats a layer (axis ticks)",
        doubts=("shown at three checkpoints", _ONE_RUN),
    ),
    _entropy(
        "entropy-falls-most-in-the-last-layer",
        "knowledge entropy falls most in the last layer",
        "Figure 8, section 3.3",
        Foremost(_FALLING, "layer"),
        doubts=("shown at three checkpoints", _ONE_RUN),
    ),
    _entropy(
        "entropy-falls-on-each-corpus",
        "knowledge entropy falls whatever corpus it is measured on",
        "Figure 7, appendix A.2",
        EachOf(_FALLING, "corpus"),
        where=_TOTALS,
        value="Dolma, C4 and PubMed between 143.3 and 143.9 nats (axis ticks)",
        doubts=("the released code measures one corpus only", _ONE_RUN),
    ),
    _entropy(
        "entropy-falls-with-each-activation",
        "knowledge entropy falls whichever way negative coefficients are treated",
        "Figure 9, appendix A.2",
        EachOf(Trend(Arm("knowledge entropy", {})), "measure", fewest=len(_VARIANTS)),
        where={**_TOTALS, "measure": _VARIANTS},
        value="between 143.2 and 144.0 nats (axis ticks)",
        doubts=(
            "the text (negative outputs become 0) and the formula (a ReLU for the gate) "
            "describe two different variants, and the released code has neither; both are "
            "tested",
        ),
    ),
    _entropy(
        "attention-entropy-falls",
        "attention entropy falls over pretraining",
        "Figure 3, section 3.4",
        Trend(Arm("attention entropy", {"measure": "attention"})),
        where=_TOTALS,
        value="between 40 and 70 nats (axis ticks)",
        doubts=("the released code does not have it", _ONE_RUN),
    ),
    _entropy(
        "next-token-entropy-falls",
        "the entropy of next-token predictions falls over pretraining",
        "Figure 3, section 3.4",
        Trend(Arm("next-token entropy", {"measure": "next-token"})),
        where=_TOTALS,
        value="between 2.4 and 2.8 nats (axis ticks)",
        doubts=("the released code does not have it", _ONE_RUN),
    ),
    _aging(
        "acquisition-falls-with-age",
        "later checkpoints acquire a smaller share",
        "Figure 4a, Table 1",
        Trend(_A),
        FALLS,
        _CHANGE,
        UNEDITED,
        unit=Unit.SHARE,
        value="25.2, 24.8, 21.4, 18.8 % at 118k, 369k, 554k, 738k steps",
        doubts=(_SMALL_RATE, _REWARMED, "no repeats with other seeds are reported"),
    ),
    _aging(
        "forgetting-rises-with-age",
        "later checkpoints forget a larger share",
        "Figure 4a, Table 1",
        Trend(_F),
        RISES,
        _CHANGE,
        UNEDITED,
        unit=Unit.SHARE,
        value="10.5, 12.9, 17.0, 19.5 % at 118k, 369k, 554k, 738k steps",
        doubts=(
            _REWARMED,
            "the mean of the six tasks has a standard error of 0.6 points",
            "longer pretraining makes models more sensitive to any change of their weights "
            "(arXiv 2503.19206), which needs no entropy",
        ),
    ),
    _aging(
        "acquisition-follows-entropy",
        "acquisition follows the knowledge entropy of the start over checkpoints",
        "section 4.3, footnote 11",
        Follows(_A, _START_ENTROPY),
        RISES,
        "rank correlation of first differences",
        UNEDITED,
        unit=Unit.CORRELATION,
        value="Pearson 0.94 of levels, p 6e-5, which is that of ten checkpoints",
        doubts=(
            _DRIFT,
            _SMALL_RATE,
            "weight decay in pretraining changes plasticity as well (arXiv 2602.11137)",
        ),
    ),
    _aging(
        "forgetting-follows-entropy",
        "forgetting goes against the knowledge entropy of the start over checkpoints",
        "section 4.3, footnote 11",
        Follows(_F, _START_ENTROPY),
        FALLS,
        "rank correlation of first differences",
        UNEDITED,
        unit=Unit.CORRELATION,
        value="Pearson -0.96 of levels, p 1e-5, which is that of ten checkpoints",
        doubts=(_DRIFT,),
    ),
    _aging(
        "middle-checkpoint-knows-most",
        "of an early, the middle and the last checkpoint the middle one ends with the best "
        "knowledge score",
        "Figure 4b, Table 2",
        _middle(),
        RISES,
        "K of the middle less the better of the others",
        {**UNEDITED, **KNOWN},
        value="K -0.281, -0.280, -0.293, -0.301 at 118k, 369k, 554k, 738k steps",
        doubts=(
            "the first two differ by 0.001 of a score that the released code divides by the "
            "padded length",
            "the authors call the choice of the middle an approximation",
        ),
    ),
    _aging(
        "middle-checkpoint-keeps-most",
        "of an early, the middle and the last checkpoint the middle one ends with the best "
        "downstream score",
        "Figure 4b, Table 2",
        _middle(),
        RISES,
        "P of the middle less the better of the others",
        {**UNEDITED, **DOWNSTREAM},
        unit=Unit.SHARE,
        value="P 54.0, 54.6, 52.8, 52.0 % at 118k, 369k, 554k, 738k steps",
        doubts=("the first two differ by one standard error of the six tasks",),
    ),
    _aging(
        "once-ends-below-its-start",
        "at the last checkpoint passages that are met once end below their start",
        "Figure 11, appendix B.3",
        Contrast(Arm("met once", {"exposure": "once", "moment": "end"})),
        FALLS,
        "A of passages met once",
        {**UNEDITED, **LAST, "measure": "A", "against": "start", "kind": "all"},
        unit=Unit.SHARE,
        doubts=("read off a figure without intervals, from one run",),
    ),
    _aging(
        "gap-is-larger-on-new-text",
        "acquisition falls with age more steeply when the text trained on is newer",
        "Figure 13, appendix B.4.2",
        Trend(Arm("new text", {"novelty": "new"}), Arm("familiar text", {"novelty": "familiar"})),
        FALLS,
        f"{_CHANGE}, on new text less on familiar text",
        {**UNEDITED, **ACQUIRED},
        unit=Unit.SHARE,
        needs=(Experiment.AGES, Experiment.FAMILIAR_TEXT),
        value="-6.4 points on PubMed, -3.4 on C4 from the first to the last checkpoint",
        doubts=("two corpora, which differ in more than their novelty", _REWARMED),
    ),
    _update(
        "gradients-follow-coefficients",
        "gradients of memory vectors are larger where their coefficients are",
        "appendix A.1",
        Contrast(Arm("gradients", {"measure": "gradients"})),
        RISES,
        "rank correlation over the memory vectors of a layer, mean over layers",
        doubts=(_PROPORTIONAL, "argued, not measured"),
    ),
    _update(
        "adam-updates-follow-coefficients",
        "updates of memory vectors under Adam are larger where their coefficients are",
        "appendix A.1, section 4.3",
        Contrast(Arm("updates under Adam", {"measure": "updates"})),
        RISES,
        "rank correlation over the memory vectors of a layer, mean over layers",
        doubts=(
            "the argument leaves out that Adam divides each coordinate by its own size, which "
            "takes the scale of the coefficient off",
            "argued, not measured",
        ),
    ),
)
