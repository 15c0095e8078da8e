"""Chang et al., NeurIPS 2024: what encounters with a passage add, and how fast it fades.

Sections 4.1 to 4.4, of which a summary without tables is at hand; the quantities are those of the
released code.
"""

from functools import partial

from analysis.claims.choices import Anchor, Experiment, Extreme, Paper, Unit
from analysis.claims.claim import Claim
from analysis.claims.designs import ACROSS_ITEMS, AllOf, Contrast
from analysis.claims.measurements import Table
from analysis.claims.selection import LAST, MET, PER_PASSAGE, UNEDITED, Arm
from analysis.statistics.results import Direction

FALLS, RISES = Direction.FALLS, Direction.RISES
_LEAST_GROWTH = 1.1
"""Times the effectivity of the first checkpoint: less is taken for no improvement."""
_LEFT = 0.1
"""Of what encounters within the threshold leave: less is taken for nothing."""
_MAXIMUM_OF_NOISE = "a maximum over noise is above 0 where nothing was learnt"
_FIT = (
    "fitted over an even grid of steps, so that late steps decide; points of a curve "
    "hang together, and an outlier rule picks other probes at every step"
)
_encounters = partial(
    Claim,
    paper=Paper.FACTUAL_KNOWLEDGE,
    table=Table.ACQUISITION,
    family="encounters",
    needs=(Experiment.AGES,),
    figure=Anchor.ENCOUNTERS,
)
_WITHIN = Arm("within the threshold", {"spacing": "within"})
_BEYOND = Arm("beyond the threshold", {"spacing": "beyond"})


def _kind(name: str) -> Arm:
    return Arm(f"{name} probes", {"kind": name})


CLAIMS = (
    _encounters(
        "encounters-raise",
        "each encounter raises the log-probability of its passage at once",
        "section 4.1",
        Contrast(Arm("encounters", {}), least=ACROSS_ITEMS),
        RISES,
        "change over the update of an encounter, mean over encounters",
        {**UNEDITED, "measure": "rise", **PER_PASSAGE},
    ),
    _encounters(
        "gains-are-lost-again",
        "until the next encounter a part of the gain is lost",
        "section 4.1",
        Contrast(Arm("between encounters", {}), least=ACROSS_ITEMS),
        FALLS,
        "change from a local maximum to the next encounter",
        {**UNEDITED, "measure": "fall", **PER_PASSAGE},
        doubts=("what follows a maximum over noise is lower where nothing is lost",),
    ),
    _encounters(
        "memorization-gains-most",
        "encounters raise memorization probes more than semantic ones, and these more than "
        "compositional ones",
        "section 4.1",
        AllOf(
            (
                Contrast(_kind("memorization"), _kind("semantic"), least=ACROSS_ITEMS),
                Contrast(_kind("semantic"), _kind("compositional"), least=ACROSS_ITEMS),
            )
        ),
        RISES,
        "the smaller of both differences in effectivity",
        {**UNEDITED, "measure": "effectivity", "exposure": "met", "moment": None, "against": None},
        doubts=("98 % of the memorization probes are passage text word for word",),
    ),
    _encounters(
        "larger-models-acquire-more",
        "an encounter raises the log-probability more in a larger model",
        "section 4.2",
        Contrast(
            Arm("largest model", {"parameters": Extreme.LARGEST}),
            Arm("smallest model", {"parameters": Extreme.SMALLEST}),
            averaged=("trajectory",),
            least=ACROSS_ITEMS,
        ),
        RISES,
        "effectivity of the largest model less that of the smallest, after as many updates",
        {**UNEDITED, "measure": "effectivity", **PER_PASSAGE, **LAST},
        needs=(Experiment.UNEDITED, Experiment.SIZES),
        doubts=("two sizes, trained on other batches at other learning rates", _MAXIMUM_OF_NOISE),
    ),
    _encounters(
        "later-checkpoints-acquire-no-more",
        "an encounter raises the log-probability no more, by a tenth, in the last "
        "checkpoint than in the first",
        "section 4.2",
        Contrast(
            Arm("last checkpoint", {"step": Extreme.LARGEST}),
            Arm("first checkpoint", {"step": Extreme.SMALLEST}),
            scale=_LEAST_GROWTH,
            least=ACROSS_ITEMS,
        ),
        FALLS,
        "effectivity of the last checkpoint less 1.1 times that of the first",
        {**UNEDITED, "measure": "effectivity", **PER_PASSAGE},
        doubts=("three checkpoints, and no very early one", _MAXIMUM_OF_NOISE),
    ),
    _encounters(
        "forgetting-is-linear-in-log-steps",
        "forgetting is described better by a line in the logarithm of steps than by a "
        "power or an exponential",
        "section 4.3",
        AllOf(
            (
                Contrast(Arm("power", {"measure": "AIC over power"})),
                Contrast(Arm("exponential", {"measure": "AIC over exponential"})),
            )
        ),
        RISES,
        "AIC of the better of both less that of the line",
        {**UNEDITED, **MET, "moment": None, "against": None},
        unit=Unit.AIC,
        doubts=(
            'called a power law, which the fit is not; the summary\'s "R(t) ~ t^(-a)" was '
            "never fitted",
            _FIT,
        ),
    ),
    _encounters(
        "duplication-forgets-faster",
        "passages met in duplication are forgotten faster than those met in paraphrase",
        "section 4.3",
        Contrast(
            Arm("duplication", {"exposure": "duplication"}),
            Arm("paraphrase", {"exposure": "paraphrase"}),
        ),
        FALLS,
        "slope of the forgetting curve, duplication less paraphrase",
        {**UNEDITED, "measure": "slope", "kind": "all", "moment": None, "against": None},
        unit=Unit.SLOPE,
        doubts=("other passages in each group", _FIT),
    ),
    _encounters(
        "larger-batches-forget-more-slowly",
        "with larger batches forgetting is slower",
        "section 4.3",
        Contrast(
            Arm("largest batch", {"batch_size": Extreme.LARGEST}),
            Arm("smallest batch", {"batch_size": Extreme.SMALLEST}),
            averaged=("learning_rate",),
        ),
        RISES,
        "slope of the forgetting curve, largest less smallest batch",
        {**UNEDITED, "measure": "slope", "moment": None, "against": None, **MET},
        unit=Unit.SLOPE,
        needs=(Experiment.UNEDITED, Experiment.BATCHES),
        doubts=(
            "two batch sizes, 128 and 2048; the smaller with a fresh optimizer and a constant "
            "learning rate",
            "per step and per token are two questions, whose slopes per decade are the same",
        ),
    ),
    _encounters(
        "encounters-within-the-threshold-add-up",
        "encounters at intervals within the learnability threshold leave more than those beyond it",
        "section 4.4",
        Contrast(_WITHIN, _BEYOND, averaged=("interval",), least=ACROSS_ITEMS),
        RISES,
        "net gain within the threshold less that beyond it",
        {**UNEDITED, "measure": "net gain", **PER_PASSAGE},
        needs=(Experiment.UNEDITED, Experiment.SPACINGS),
        doubts=("stated, not measured: the threshold is where a fitted line reaches zero",),
    ),
    _encounters(
        "encounters-beyond-the-threshold-leave-nothing",
        "encounters at intervals beyond the learnability threshold leave less than a tenth "
        "of what those within it leave",
        "section 4.4",
        Contrast(_BEYOND, _WITHIN, scale=_LEFT, averaged=("interval",), least=ACROSS_ITEMS),
        FALLS,
        "net gain beyond the threshold less a tenth of that within it",
        {**UNEDITED, "measure": "net gain", **PER_PASSAGE},
        needs=(Experiment.UNEDITED, Experiment.SPACINGS),
        doubts=(
            "stated, not measured",
            "with other mixtures the threshold is a sharp transition that depends on the size "
            "of the model (arXiv 2505.18091)",
        ),
    ),
)
