"""Kim et al., ICLR 2025: does resuscitating inactive memory vectors help to acquire and to keep?

Section 4.3, appendices B.6 to B.8. Scores are compared with those of the unedited start where the
unit is nats; shares of the edited start are what the paper shows, and flatter an edit that spoils
it.
"""

from functools import partial

from analysis.claims.choices import Anchor, Experiment, Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import ACROSS_ITEMS, ACROSS_SEEDS, AllOf, Contrast, Trend
from analysis.claims.measurements import Table
from analysis.claims.selection import (
    ACQUIRED,
    DOWNSTREAM,
    FORGOTTEN,
    KNOWN,
    LAST,
    UNEDITED,
    UNEDITED_START,
    Arm,
    cooled,
    instead,
    resuscitated,
)
from analysis.statistics.results import Direction

FALLS, RISES = Direction.FALLS, Direction.RISES
_DAMAGED = (
    "shares are of the edited start, which the edit has damaged: 70 % acquisition with "
    "the end score shown needs a start of about -0.97 where the unedited one has -0.37"
)
_FIGURE = "read off a figure without intervals, from one run"
_OTHER_ENTROPY = (
    "a factor of 2 or more need not raise the entropy: what was least active becomes most active"
)
_UNEDITED_DIFFERENCE = "K less that of the unedited start, right after the last injection"
_kim = partial(
    Claim,
    paper=Paper.KNOWLEDGE_ENTROPY,
    table=Table.ACQUISITION,
    needs=(Experiment.UNEDITED, Experiment.DOSES),
    figure=Anchor.RESUSCITATION,
)
_resuscitation = partial(_kim, family="resuscitation")
_dose = partial(_kim, family="the dose of resuscitation")
_others = partial(
    _kim,
    family="resuscitation against other edits",
    needs=(Experiment.UNEDITED, Experiment.DOSES, Experiment.CONTROLS),
)
_HELPING = tuple(resuscitated(factor) for factor in (1.0, 2.0, 3.0))
_COOLED = tuple(cooled(temperature) for temperature in (1.5, 2.0, 3.0))
_CONTROLS = tuple(
    instead(name) for name in ("random_rows", "most_active_rows", "matched_noise", "redo")
)


def _against_all(arm: Arm, bases: tuple[Arm, ...], *, by_item: bool) -> AllOf:
    """One arm against each of several others."""
    least = ACROSS_ITEMS if by_item else ACROSS_SEEDS
    return AllOf(tuple(Contrast(arm, base, least=least) for base in bases))


def _all_against(arms: tuple[Arm, ...], base: Arm, *, by_item: bool) -> AllOf:
    """Each of several arms against one other."""
    least = ACROSS_ITEMS if by_item else ACROSS_SEEDS
    return AllOf(tuple(Contrast(arm, base, least=least) for arm in arms))


CLAIMS = (
    _resuscitation(
        "resuscitation-raises-entropy",
        "resuscitation by a factor of 2 raises the knowledge entropy of the last checkpoint",
        "section 4.3",
        Contrast(
            Arm("edited", {**resuscitated(2.0).settings, "moment": "start"}),
            Arm("unedited", {**UNEDITED, "moment": "unedited start"}),
            least=ACROSS_SEEDS,
        ),
        RISES,
        "knowledge entropy of the edited start less that of the unedited one",
        {"measure": "knowledge entropy", **LAST},
        doubts=("the paper takes it for granted and does not report it", _OTHER_ENTROPY),
    ),
    _resuscitation(
        "resuscitation-helps-acquisition",
        "resuscitation by factors of 1, 2 and 3 each raises acquisition from the edited start",
        "Figure 5a",
        _all_against(_HELPING, UNEDITED_START, by_item=False),
        RISES,
        "A less that of unedited runs, each from its own start",
        {**ACQUIRED, **LAST},
        unit=Unit.SHARE,
        value="up to about 70 % (axis tick)",
        doubts=(_DAMAGED, _FIGURE),
    ),
    _resuscitation(
        "resuscitation-ends-knowing-more",
        "runs resuscitated by factors of 1, 2 and 3 each end with a better knowledge score",
        "Figure 5b",
        _all_against(_HELPING, UNEDITED_START, by_item=True),
        RISES,
        _UNEDITED_DIFFERENCE,
        {**KNOWN, **LAST},
        value="between -0.32 and -0.28 (axis ticks)",
        doubts=(_FIGURE, "differences of about 0.02 in a score divided by the padded length"),
    ),
    _resuscitation(
        "resuscitation-helps-retention",
        "resuscitation by factors of 1, 2 and 3 each lowers forgetting from the edited start",
        "Figure 5a",
        _all_against(_HELPING, UNEDITED_START, by_item=False),
        FALLS,
        "F less that of unedited runs, each from its own start",
        {**FORGOTTEN, **LAST},
        unit=Unit.SHARE,
        value="down to about -40 % (axis tick)",
        doubts=(
            "-40 % needs an edited start at about 37 %, near the 33 % of guessing: what is not "
            "known cannot be forgotten",
            _FIGURE,
        ),
    ),
    _resuscitation(
        "resuscitation-ends-keeping-more",
        "runs resuscitated by factors of 1, 2 and 3 each end with a better downstream score",
        "Figure 5b",
        _all_against(_HELPING, UNEDITED_START, by_item=True),
        RISES,
        "P less that of unedited runs, at the end",
        {**DOWNSTREAM, **LAST},
        unit=Unit.SHARE,
        value="between 51.8 and 52.3 % (axis ticks)",
        doubts=("all differences are within one standard error of the six tasks", _FIGURE),
    ),
    _resuscitation(
        "weakening-inactive-vectors-hurts",
        "a factor of 0.5 ends with a worse knowledge score than no edit",
        "Figure 5, section 4.3",
        Contrast(resuscitated(0.5), UNEDITED_START, least=ACROSS_ITEMS),
        FALLS,
        _UNEDITED_DIFFERENCE,
        {**KNOWN, **LAST},
        doubts=(_FIGURE,),
    ),
    _dose(
        "larger-ratio-helps-more",
        "up to a ratio of 0.7 the knowledge score rises with the share resuscitated",
        "Figure 15, appendix B.6",
        Trend(Arm("resuscitated", {}), axis="ratio", least=ACROSS_SEEDS),
        RISES,
        "change of K along the line from ratio 0.3 to 0.7",
        {
            **{**KNOWN, **LAST, **UNEDITED},
            **{"site": "up", "factor": 1.0, "ratio": (0.3, 0.5, 0.7)},
        },
        doubts=(_FIGURE,),
    ),
    _dose(
        "too-large-a-ratio-hurts",
        "a ratio of 0.9 ends with a worse knowledge score than one of 0.7",
        "Figure 15, appendix B.6",
        Contrast(resuscitated(1.0, 0.9), resuscitated(1.0, 0.7), least=ACROSS_ITEMS),
        FALLS,
        "K at ratio 0.9 less that at 0.7",
        {**KNOWN, **LAST},
        doubts=(_FIGURE, "beyond some ratio multipliers fall below 1 and weaken active neurons"),
    ),
    _dose(
        "resuscitation-helps-later-checkpoints-more",
        "the gain in acquisition from resuscitation, from the edited start, grows with the "
        "age of the checkpoint",
        "Figures 16a and 17a, appendix B.7",
        Trend(resuscitated(2.0), UNEDITED_START),
        RISES,
        "change of that gain along the line from the first to the last checkpoint",
        ACQUIRED,
        unit=Unit.SHARE,
        needs=(Experiment.AGES, Experiment.EDITED_AGES),
        doubts=(_DAMAGED, "grows whether or not the end scores do"),
    ),
    _dose(
        "later-checkpoints-end-knowing-more",
        "the gain in the knowledge score from resuscitation grows with the age of the checkpoint",
        "Figures 16b and 17b, appendix B.7",
        Trend(resuscitated(2.0), UNEDITED_START),
        RISES,
        "change of that gain along the line from the first to the last checkpoint",
        KNOWN,
        needs=(Experiment.AGES, Experiment.EDITED_AGES),
        doubts=("at 118k and 369k steps the end scores are worse than without the edit", _FIGURE),
    ),
    _others(
        "resuscitation-beats-controls",
        "resuscitation ends with a better knowledge score than the same multipliers on "
        "random or on the most active neurons, noise of its size, and neurons started "
        "afresh",
        "section 4.3",
        _against_all(resuscitated(2.0), _CONTROLS, by_item=True),
        RISES,
        "K less that of the best control",
        {**KNOWN, **LAST},
        doubts=("the paper has no control other than attention temperature",),
    ),
    _others(
        "feed-forward-beats-attention",
        "resuscitation acquires more than attention temperatures of 1.5, 2 and 3",
        "Figure 18, appendix B.8",
        _against_all(resuscitated(2.0), _COOLED, by_item=False),
        RISES,
        "A less that of the best temperature, each from its own start",
        {**ACQUIRED, **LAST},
        unit=Unit.SHARE,
        doubts=(
            _DAMAGED,
            "in the released code the temperature falls back to 1 during training by default",
        ),
    ),
    _others(
        "feed-forward-ends-knowing-more-than-attention",
        "resuscitation ends with a better knowledge score than attention temperatures of "
        "1.5, 2 and 3",
        "Figure 18, appendix B.8",
        _against_all(resuscitated(2.0), _COOLED, by_item=True),
        RISES,
        "K less that of the best temperature",
        {**KNOWN, **LAST},
        doubts=(_FIGURE,),
    ),
    _others(
        "feed-forward-keeps-more-than-attention",
        "resuscitation forgets less than attention temperatures of 1.5, 2 and 3",
        "Figure 18, appendix B.8",
        _against_all(resuscitated(2.0), _COOLED, by_item=False),
        FALLS,
        "F less that of the best temperature, each from its own start",
        {**FORGOTTEN, **LAST},
        unit=Unit.SHARE,
        doubts=('the paper says "generally"', _DAMAGED),
    ),
)
