"""Which mix keeps facts, at which stage, how much of it, and where do facts lie then?

Source: Chen et al., 2024: sections 4.2 and 5, Tables 2, 3, 5 and 6, Figures 4 to 8.

Example:
    >>> [claim.identifier for claim in CLAIMS][0]
    'random-mix-at-a-helps'
"""

from analysis.claims.choices import Extreme, Paper, Unit
from analysis.claims.claim import Claim, ClaimGroup
from analysis.claims.designs import ACROSS_ITEMS, ACROSS_SEEDS, AllOf, Contrast, Trend
from analysis.claims.measurements import Table
from analysis.claims.memorization_settings import (
    BOTH,
    COMMAND,
    FACTOID,
    FIRST,
    LATER,
    NON_FACTOID,
    OF_A_MIX,
    PLAIN,
    RIGHT,
    TRAINED,
    compared,
    mixed,
)
from analysis.claims.selection import Arm, Settings
from analysis.statistics.results import Direction

_DILUTED = (
    "in the released code padding counts in the loss, so that longer mixed rows shrink the "
    "share of the facts in it"
)
_NO_MIX = (
    "in the released code a mix is cut off before it is used where stage B is a long set of other "
    "tasks"
)
_LONGER = "runs with a mix take three times the steps"
_RIGHT = "facts of A right"
_FAMILIAR: Settings = {**RIGHT, "familiar": True}
_LENS = (
    "the logit lens is brittle in early layers; reading a fact at a layer is not storing it there"
)
_DEPTHS, _AMOUNTS = "where facts lie", "amounts of mixing"
_FURTHER = "mixes over more stages and for familiar facts"
"""Families."""
_NO_GROWTH = 1.1
"""Times the share right at the middle length: less is taken for no improvement."""


_claim = ClaimGroup(
    paper=Paper.CONTINUAL_MEMORIZATION,
    command=COMMAND,
    table=Table.MEMORIZATION,
    family="mixes and stages",
    unit=Unit.SHARE,
    where=TRAINED,
).claim


def _against_plain(
    identifier: str,
    what: str,
    arm: Arm,
    expected: Direction,
    where: Settings,
    value: str,
    *doubts: str,
    place: str = "Table 2, section 4.2",
    family: str = "mixes and stages",
) -> Claim:
    effect = "keeps more than" if expected is Direction.RISES else "keeps less than"
    return _claim(
        identifier,
        f"{what} {effect} no mix",
        place,
        compared(arm, PLAIN),
        where,
        f"{_RIGHT} with the mix less without",
        expected,
        family=family,
        value=value,
        doubts=doubts,
    )


_FACTS: Settings = {**RIGHT, **FACTOID}
_DEPTH: Settings = {**_FACTS, "measure": "first layer"}

CLAIMS = (
    _against_plain(
        "random-mix-at-a-helps",
        "before a factoid stage B a random mix at stage A",
        FIRST,
        Direction.RISES,
        _FACTS,
        "28.8 against 13.5 (KVR), 53.7 against 47.0 (PopQA), 51.0 against 39.8 % (TriviaQA)",
        _DILUTED,
        _LONGER,
    ),
    _against_plain(
        "generic-mix-later-helps",
        "a generic mix at a factoid stage B",
        LATER,
        Direction.RISES,
        _FACTS,
        "27.8 against 13.5, 86.4 against 47.0, 90.6 against 39.8 %",
        _DILUTED,
        _LONGER,
    ),
    _against_plain(
        "both-mixes-help",
        "a random mix at A with a generic one at a factoid stage B",
        BOTH,
        Direction.RISES,
        _FACTS,
        "53.2 against 13.5, 84.9 against 47.0, 88.9 against 39.8 %",
        "with Mistral only KVR gains much: PopQA and TriviaQA are hardly forgotten without",
        _DILUTED,
        _LONGER,
    ),
    _claim(
        "both-mixes-beat-each",
        "a random mix at A with a generic one at a factoid stage B keeps more than either alone",
        "Table 2, section 4.2",
        AllOf((compared(BOTH, FIRST), compared(BOTH, LATER))),
        _FACTS,
        f"{_RIGHT} with both less with the better one",
        Direction.RISES,
        value="53.2 against 28.8 and 27.8 (KVR); 84.9 against 86.4 (PopQA), 88.9 against 90.6 %",
        doubts=("true of KVR only: for PopQA and TriviaQA the generic mix alone is better",),
    ),
    _against_plain(
        "generic-mix-at-a-hurts",
        "before a factoid stage B a generic mix at stage A",
        mixed("generic", None),
        Direction.FALLS,
        _FACTS,
        "8.4 against 13.5, 17.5 against 47.0, 8.8 against 39.8 %",
        _DILUTED,
    ),
    _against_plain(
        "random-mix-later-hurts",
        "a random mix at a factoid stage B",
        mixed(None, "random"),
        Direction.FALLS,
        _FACTS,
        "2.1 against 13.5, 31.2 against 47.0, 22.3 against 39.8 %",
        _DILUTED,
    ),
    _claim(
        "early-mix-helps-more-before-other-tasks",
        "before a stage B of other tasks a mix at A keeps more than one at B",
        "Table 2, section 4.2",
        compared(FIRST, LATER),
        {**RIGHT, **NON_FACTOID},
        f"{_RIGHT} with a random mix at A less with a generic one at B",
        Direction.RISES,
        value="77.9 against 29.8 (KVR), 72.2 against 72.2 (PopQA), 68.3 against 56.3 %",
        doubts=(
            _NO_MIX,
            "the printed mean 72.2 of PopQA with a random mix at A is 74.2 by its own cells",
        ),
    ),
    _claim(
        "facts-lie-earlier",
        "with both mixes facts become readable in earlier layers",
        "Figures 4 and 11, section 5",
        compared(BOTH, PLAIN),
        _DEPTH,
        "first layer with the mixes less without",
        Direction.FALLS,
        unit=Unit.LAYERS,
        family=_DEPTHS,
        doubts=(_LENS, "histograms compared by eye", "no lens is in the released code"),
    ),
    _claim(
        "facts-lie-in-more-layers",
        "with both mixes facts become readable in more different layers",
        "Figures 4 and 11, section 5",
        Contrast(BOTH, PLAIN, averaged=OF_A_MIX),
        {**_DEPTH, "measure": "effective layers"},
        "effective number of first layers with the mixes less without",
        Direction.RISES,
        unit=Unit.LAYERS,
        family=_DEPTHS,
        doubts=(_LENS, "histograms compared by eye"),
    ),
    _claim(
        "mix-ratio-matters-less-at-a",
        "as mixes grow, a random mix at A gains on a generic one at a factoid stage B",
        "Figure 7, section 5",
        Trend(FIRST, LATER, axis="mix_ratio", averaged=("mix_words",), least=ACROSS_SEEDS),
        _FACTS,
        f"change of {_RIGHT}, at A less later, along the line of growing mixes",
        Direction.RISES,
        family=_AMOUNTS,
        doubts=("read off a figure without intervals", _LONGER),
    ),
    _claim(
        "longer-random-mix-hurts",
        "longer random word sequences at stage A keep less",
        "Figure 6, section 5",
        Trend(FIRST, axis="mix_words", least=ACROSS_SEEDS),
        _FACTS,
        f"change of {_RIGHT} along the line of growing lengths",
        Direction.FALLS,
        family=_AMOUNTS,
        doubts=("other lengths than 50 words are out of reach in the released code", _DILUTED),
    ),
    _claim(
        "longer-generic-mix-saturates",
        "generic text at stage B twice as long keeps less than a tenth more",
        "Figure 6, section 5",
        Contrast(
            Arm("longest", {"mix_words": Extreme.LARGEST}),
            Arm("half as long", {"mix_words": Extreme.MIDDLE}),
            scale=_NO_GROWTH,
            least=ACROSS_ITEMS,
        ),
        {**_FACTS, **LATER.settings},
        f"{_RIGHT} at the largest length less 1.1 times that at half of it",
        Direction.FALLS,
        family=_AMOUNTS,
        doubts=("other lengths than 50 words are out of reach in the released code", _DILUTED),
    ),
    _against_plain(
        "three-stages",
        "over two later factoid stages a random mix at A with generic ones later",
        BOTH,
        Direction.RISES,
        {**_FACTS, "stages": 3, "moment": "after C"},
        "37.0 % without, at least 30 points more with",
        "the third stage has no driver in the released code",
        place="Figure 8, section 5",
        family=_FURTHER,
    ),
    _against_plain(
        "familiar-facts-before-factoids",
        "for facts that the start knew, a generic mix at a factoid stage B",
        LATER,
        Direction.RISES,
        {**_FAMILIAR, **FACTOID},
        "51.6 against 30.3 % (PopQA, Llama), 54.6 against 25.9 % (TriviaQA)",
        place="Table 5, appendix B.3",
        family=_FURTHER,
    ),
    _against_plain(
        "familiar-facts-before-other-tasks",
        "for facts that the start knew, a generic mix at a stage B of other tasks",
        LATER,
        Direction.FALLS,
        {**_FAMILIAR, **NON_FACTOID},
        "10.9 against 24.4 % (PopQA, Llama), 18.1 against 36.6 % (TriviaQA)",
        "the text speaks of factoid stages only, where such mixes help",
        "the cells of Table 6 are the same for all four mixes, almost certainly by a copying error",
        _NO_MIX,
        place="Table 5, appendix B.3",
        family=_FURTHER,
    ),
)
