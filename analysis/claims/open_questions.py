"""Questions that the sources leave open: claims without an expected answer.

They are tested two-sided. "Answered" says that there is an effect; its sign is the answer.

Source: Chang et al., NeurIPS 2024: limitations; Kim et al., ICLR 2025: sections 4.3 and 6; and what
follows from the definitions, which no paper asks.

Example:
    >>> all(claim.is_question for claim in CLAIMS)
    True
"""

from analysis.claims.choices import Extreme, Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import ACROSS_ITEMS, ACROSS_SEEDS, Contrast, Design, Trend
from analysis.claims.following import Follows
from analysis.claims.knowledge_settings import (
    COMMAND,
    DOWNSTREAM,
    KNOWN,
    LAST,
    MET,
    PLAIN,
    instead,
    resuscitated,
)
from analysis.claims.measurements import Table
from analysis.claims.memorization_settings import BOTH, FACTOID, NO_REPLAY, RIGHT
from analysis.claims.memorization_settings import COMMAND as REMIX_COMMAND
from analysis.claims.memory_updates import COMMAND as UPDATES_COMMAND
from analysis.claims.memory_updates import GRADIENTS, UPDATES
from analysis.claims.selection import UNEDITED, Arm, Settings

_PER_PASSAGE: Settings = {**MET, "moment": None, "against": None}
_CURVES: Settings = {"measure": "slope", **_PER_PASSAGE, **UNEDITED}
_PRESERVING = resuscitated(2.0, site="preserving")
_GAINED: Settings = {"moment": "last injection", "against": "start", **MET}


def _question(
    identifier: str,
    question: str,
    place: str,
    design: Design,
    where: Settings,
    quantity: str,
    *,
    unit: Unit = Unit.NATS,
    paper: Paper | None = None,
    table: Table = Table.ACQUISITION,
    command: str = COMMAND,
    doubts: tuple[str, ...] = (),
) -> Claim:
    return Claim(
        identifier=identifier,
        statement=question,
        paper=paper,
        place=place,
        quantity=quantity,
        command=command,
        table=table,
        design=design,
        unit=unit,
        expected=None,
        family="open questions",
        where=where,
        doubts=doubts,
    )


CLAIMS = (
    _question(
        "probability-and-generation",
        "does what a model generates follow the log-probability that it has accumulated?",
        "limitations",
        Follows(
            Arm("gain of generated", {"measure": "gain of generated"}),
            Arm("gain of log-probability", {"measure": "gain of log-probability"}),
        ),
        {**_GAINED, **UNEDITED},
        "rank correlation of first differences over checkpoints",
        unit=Unit.CORRELATION,
        paper=Paper.FACTUAL_KNOWLEDGE,
    ),
    _question(
        "very-early-pretraining",
        "does an encounter add more, or less, very early in pretraining than later?",
        "limitations",
        Contrast(
            Arm("first checkpoint", {"step": Extreme.SMALLEST}),
            Arm("a fifth of the way", {"step": Extreme.EARLY}),
            least=ACROSS_ITEMS,
        ),
        {"measure": "effectivity", **_PER_PASSAGE, **UNEDITED},
        "effectivity of the first checkpoint less that a fifth of the way on",
        paper=Paper.FACTUAL_KNOWLEDGE,
    ),
    _question(
        "batch-size-grid",
        "over a wide range of batch sizes, does forgetting get slower or faster?",
        "limitations",
        Trend(
            Arm("unedited", {}), axis="batch_size", averaged=("learning_rate",), least=ACROSS_SEEDS
        ),
        _CURVES,
        "change of the slope along the line from the smallest to the largest batch",
        unit=Unit.SLOPE,
        paper=Paper.FACTUAL_KNOWLEDGE,
    ),
    _question(
        "learning-rate-grid",
        "over a wide range of learning rates, does forgetting get slower or faster?",
        "limitations",
        Trend(
            Arm("unedited", {}), axis="learning_rate", averaged=("batch_size",), least=ACROSS_SEEDS
        ),
        _CURVES,
        "change of the slope along the line from the smallest to the largest rate",
        unit=Unit.SLOPE,
        paper=Paper.FACTUAL_KNOWLEDGE,
        doubts=(
            "Kim et al. find more forgetting at higher rates, and most acquisition at a middle one",
        ),
    ),
    _question(
        "preserving-resuscitation-gain",
        "does resuscitation that leaves the function as it was change the end knowledge score?",
        "section 6 asks for edits that keep what the model can do",
        Contrast(_PRESERVING, PLAIN, least=ACROSS_ITEMS),
        {**KNOWN, **LAST},
        "K less that of the unedited start, right after the last injection",
        paper=Paper.KNOWLEDGE_ENTROPY,
    ),
    _question(
        "preserving-resuscitation-damage",
        "does resuscitation that leaves the function as it was change the end downstream score?",
        "section 6 asks for edits that keep what the model can do",
        Contrast(_PRESERVING, PLAIN, least=ACROSS_ITEMS),
        {**DOWNSTREAM, **LAST},
        "P less that of the unedited start, at the end",
        unit=Unit.SHARE,
        paper=Paper.KNOWLEDGE_ENTROPY,
    ),
    _question(
        "preserving-against-scaling",
        "does the paper's resuscitation end with another knowledge score than the one that leaves "
        "the function as it was?",
        "follows from the definition",
        Contrast(resuscitated(2.0), _PRESERVING, least=ACROSS_ITEMS),
        {**KNOWN, **LAST},
        "K of the paper's edit less that of the preserving one",
    ),
    _question(
        "row-learning-rates-alone",
        "do learning rates of rows alone, without any edit, change the end knowledge score?",
        "follows from what Adam makes of a rescaling",
        Contrast(instead("row_learning_rates"), PLAIN, least=ACROSS_ITEMS),
        {**KNOWN, **LAST},
        "K less that of the unedited start, right after the last injection",
        doubts=("equal to the preserving edit up to epsilon, clipping, decay and rounding",),
    ),
    _question(
        "mixing-and-resuscitation",
        "does resuscitating the start change what is kept where both mixes are used?",
        "joins both papers",
        Contrast(
            Arm("resuscitated", resuscitated(2.0).settings),
            Arm("unedited", UNEDITED),
            averaged=("mix_ratio", "mix_words"),
            least=ACROSS_ITEMS,
        ),
        {**RIGHT, **FACTOID, **NO_REPLAY, **BOTH.settings, "equal": None},
        "facts of A right with mixes and resuscitation less with mixes alone",
        unit=Unit.SHARE,
        table=Table.MEMORIZATION,
        command=REMIX_COMMAND,
    ),
    _question(
        "contribution-entropy",
        "does the entropy of contributions, which no rescaling moves, rise or fall over "
        "pretraining?",
        "follows from the definition",
        Trend(Arm("contribution entropy", {"measure": "|c| · ‖v‖"})),
        {"layer": None},
        "change along the line from the first to the last checkpoint",
        table=Table.PRETRAINING,
        command="python -m analysis.entropy --revisions",
    ),
    _question(
        "adam-and-coefficients",
        "do updates under Adam follow coefficients less, or more, than gradients do?",
        "appendix A.1 leaves Adam out",
        Contrast(UPDATES, GRADIENTS),
        {},
        "rank correlation with coefficients, of updates less of gradients",
        unit=Unit.CORRELATION,
        table=Table.UPDATES,
        command=UPDATES_COMMAND,
    ),
)
