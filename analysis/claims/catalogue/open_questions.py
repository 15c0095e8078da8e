"""Questions that the sources leave open: claims without an expected answer.

They are tested two-sided; "answered" says that there is an effect, whose sign is the answer. They
are from the limitations of Chang et al., sections 4.3 and 6 of Kim et al., and from what follows
from the definitions, which no paper asks.
"""

from functools import partial

from analysis.claims.choices import Anchor, Experiment, Extreme, Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import ACROSS_ITEMS, ACROSS_SEEDS, Contrast, Follows, Trend
from analysis.claims.measurements import Table
from analysis.claims.selection import (
    BOTH_MIXES,
    DOWNSTREAM,
    FACTOID,
    KNOWN,
    LAST,
    MET,
    NO_REPLAY,
    PER_PASSAGE,
    RIGHT,
    UNEDITED,
    UNEDITED_START,
    Arm,
    Settings,
    instead,
    resuscitated,
)

_CURVES: Settings = {"measure": "slope", **PER_PASSAGE, **UNEDITED}
_PRESERVING = resuscitated(2.0, site="preserving")
_GAINED: Settings = {"moment": "last injection", "against": "start", **MET}
_question = partial(Claim, table=Table.ACQUISITION, family="open questions")

CLAIMS = (
    _question(
        "probability-and-generation",
        "does what a model generates follow the log-probability that it has accumulated?",
        "limitations",
        Follows(
            Arm("gain of generated", {"measure": "gain of generated"}),
            Arm("gain of log-probability", {"measure": "gain of log-probability"}),
        ),
        None,
        "rank correlation of first differences over checkpoints",
        {**_GAINED, **UNEDITED},
        unit=Unit.CORRELATION,
        paper=Paper.FACTUAL_KNOWLEDGE,
        needs=(Experiment.AGES,),
        figure=Anchor.ENCOUNTERS,
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
        None,
        "effectivity of the first checkpoint less that a fifth of the way on",
        {"measure": "effectivity", **PER_PASSAGE, **UNEDITED},
        paper=Paper.FACTUAL_KNOWLEDGE,
        needs=(Experiment.AGES,),
        figure=Anchor.TRAJECTORIES,
    ),
    _question(
        "batch-size-grid",
        "over a wide range of batch sizes, does forgetting get slower or faster?",
        "limitations",
        Trend(
            Arm("unedited", {}), axis="batch_size", averaged=("learning_rate",), least=ACROSS_SEEDS
        ),
        None,
        "change of the slope along the line from the smallest to the largest batch",
        _CURVES,
        unit=Unit.SLOPE,
        paper=Paper.FACTUAL_KNOWLEDGE,
        needs=(Experiment.UNEDITED, Experiment.BATCHES),
        figure=Anchor.ENCOUNTERS,
    ),
    _question(
        "learning-rate-grid",
        "over a wide range of learning rates, does forgetting get slower or faster?",
        "limitations",
        Trend(
            Arm("unedited", {}), axis="learning_rate", averaged=("batch_size",), least=ACROSS_SEEDS
        ),
        None,
        "change of the slope along the line from the smallest to the largest rate",
        _CURVES,
        unit=Unit.SLOPE,
        paper=Paper.FACTUAL_KNOWLEDGE,
        needs=(Experiment.UNEDITED, Experiment.RATES),
        figure=Anchor.ENCOUNTERS,
        doubts=(
            "Kim et al. find more forgetting at higher rates, and most acquisition at a middle one",
        ),
    ),
    _question(
        "preserving-resuscitation-gain",
        "does resuscitation that leaves the function as it was change the end knowledge score?",
        "section 6 asks for edits that keep what the model can do",
        Contrast(_PRESERVING, UNEDITED_START, least=ACROSS_ITEMS),
        None,
        "K less that of the unedited start, right after the last injection",
        {**KNOWN, **LAST},
        paper=Paper.KNOWLEDGE_ENTROPY,
        needs=(Experiment.UNEDITED, Experiment.DOSES, Experiment.CONTROLS),
        figure=Anchor.RESUSCITATION,
    ),
    _question(
        "preserving-resuscitation-damage",
        "does resuscitation that leaves the function as it was change the end downstream score?",
        "section 6 asks for edits that keep what the model can do",
        Contrast(_PRESERVING, UNEDITED_START, least=ACROSS_ITEMS),
        None,
        "P less that of the unedited start, at the end",
        {**DOWNSTREAM, **LAST},
        unit=Unit.SHARE,
        paper=Paper.KNOWLEDGE_ENTROPY,
        needs=(Experiment.UNEDITED, Experiment.DOSES, Experiment.CONTROLS),
        figure=Anchor.RESUSCITATION,
    ),
    _question(
        "preserving-against-scaling",
        "does the paper's resuscitation end with another knowledge score than the one that "
        "leaves the function as it was?",
        "follows from the definition",
        Contrast(resuscitated(2.0), _PRESERVING, least=ACROSS_ITEMS),
        None,
        "K of the paper's edit less that of the preserving one",
        {**KNOWN, **LAST},
        needs=(Experiment.UNEDITED, Experiment.DOSES, Experiment.CONTROLS),
        figure=Anchor.RESUSCITATION,
    ),
    _question(
        "row-learning-rates-alone",
        "do learning rates of rows alone, without any edit, change the end knowledge score?",
        "follows from what Adam makes of a rescaling",
        Contrast(instead("row_learning_rates"), UNEDITED_START, least=ACROSS_ITEMS),
        None,
        "K less that of the unedited start, right after the last injection",
        {**KNOWN, **LAST},
        needs=(Experiment.UNEDITED, Experiment.DOSES, Experiment.CONTROLS),
        figure=Anchor.RESUSCITATION,
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
        None,
        "facts of A right with mixes and resuscitation less with mixes alone",
        {**RIGHT, **FACTOID, **NO_REPLAY, **BOTH_MIXES.settings, "equal": None},
        unit=Unit.SHARE,
        table=Table.MEMORIZATION,
        needs=(Experiment.MIXES,),
        figure=Anchor.MEMORIZATION,
    ),
    _question(
        "contribution-entropy",
        "does the entropy of contributions, which no rescaling moves, rise or fall over "
        "pretraining?",
        "follows from the definition",
        Trend(Arm("contribution entropy", {"measure": "|c| · ‖v‖"})),
        None,
        "change along the line from the first to the last checkpoint",
        {"layer": None},
        table=Table.PRETRAINING,
        needs=(Experiment.ENTROPIES,),
        figure=Anchor.TRAJECTORIES,
    ),
    _question(
        "adam-and-coefficients",
        "do updates under Adam follow coefficients less, or more, than gradients do?",
        "appendix A.1 leaves Adam out",
        Contrast(
            Arm("updates under Adam", {"measure": "updates"}),
            Arm("gradients", {"measure": "gradients"}),
        ),
        None,
        "rank correlation with coefficients, of updates less of gradients",
        unit=Unit.CORRELATION,
        table=Table.UPDATES,
        needs=(Experiment.UPDATES,),
        figure=Anchor.UPDATES,
    ),
)
