"""Every claim: its verdict flips with its data, chance does not support it, too little says so."""

import pytest
from scipy import stats

from analysis.claims import CLAIMS, MEASURES, Verdict, judge
from analysis.claims.catalogue import read_claims
from analysis.claims.choices import Experiment, Extreme
from analysis.claims.designs import EachOf, Follows, Foremost, Trend
from analysis.claims.selection import AGES
from analysis.measurements import COLUMNS
from tests.analysis.claims.claim_records import CHECKPOINTS, CLUSTERS, SEEDS, alone, rows_for

LEVEL = 0.05
QUICK_DRAWS, DRAWS = 2, 100


def every():
    return list(map(alone, CLAIMS.values()))


def verdict(claim, frame):
    return judge([claim], {claim.table: frame})[0]


def test_the_catalogue_says_everything_of_every_claim():
    claims = every()
    assert len(claims) > 60
    for claim in claims:
        assert claim.statement[0].islower()
        assert claim.statement.endswith("?") == claim.is_question
        assert not claim.statement.endswith(".")
        assert claim.place
        assert claim.command.startswith("python -m ")
        assert claim.paper is not None or claim.is_question
        assert claim.least.seeds >= 3
        assert claim.age is None or "step" in COLUMNS[claim.table]
        assert set(claim.where) <= set(COLUMNS[claim.table]), claim.identifier
        used = set(rows_for(claim, 1.0, seeds=1)["measure"])
        assert used <= set(MEASURES[claim.table]), claim.identifier
    measured = {name for one in claims for name in rows_for(one, 1.0, seeds=1)["measure"]}
    unused = {name for names in MEASURES.values() for name in names} - measured
    assert not unused, "a measure that no claim asks for"


FILE = """
paper = "Kim et al. 2025"
table = "acquisition"
needs = ["ages"]
figure = "encounters"

[doubts]
noise = "all of it is noise"

[[families]]
name = "ages"
test = "trend"

[families.claims.later-is-better]
statement = "later is better"
place = "Table 1"
expected = "rises"
quantity = "K"
rows = ["unedited", "known"]
age = "late"
presupposes = {claim = "gains-fade", otherwise = "nothing fades"}
where = {kind = "semantic", batch_size = [2, 3], step = "largest", temperature = "(none)"}
of = ["resuscitated, factor 1", "resuscitated, factor 2"]
less = "unedited"
axis = "ratio"
doubts = ["noise", "in so many words"]
"""


def test_a_claim_is_read_with_what_its_family_and_file_say():
    (one,) = read_claims(FILE)
    assert (one.identifier, one.family, str(one.needs[0])) == ("later-is-better", "ages", "ages")
    assert one.doubts == ("all of it is noise", "in so many words")
    settings = {name: one.where[name] for name in ("measure", "kind", "batch_size", "temperature")}
    assert settings == {
        "measure": "K",
        "kind": "semantic",
        "batch_size": (2, 3),
        "temperature": None,
    }
    assert one.where["step"] is Extreme.LARGEST
    first, second = one.design.parts
    assert first.base == second.base
    assert (first.arm.settings["factor"], second.arm.settings["factor"]) == (1.0, 2.0)
    assert first.axis == "ratio"
    assert one.age is AGES["late"]
    assert (one.presupposes.claim, one.presupposes.otherwise) == ("gains-fade", "nothing fades")


def test_what_a_claim_presupposes_can_be_tested_with_its_runs_and_presupposes_nothing():
    there = [claim for claim in CLAIMS.values() if claim.presupposes]
    assert len(there) > 10
    for claim in there:
        other = CLAIMS[claim.presupposes.claim]
        assert {*claim.needs, Experiment.UNEDITED} >= {*other.needs}, claim.identifier
        assert other.presupposes is None
        assert other.table is claim.table
        assert other.age in (None, claim.age)


@pytest.mark.parametrize(
    ("line", "other", "complaint"),
    [
        ('place = "Table 1"', "", "'later-is-better' needs 'place'"),
        ('axis = "ratio"', 'axes = "ratio"', "'later-is-better': a claim has no field 'axes'"),
        ('"unedited", "known"', '"unknown"', "needs 'unknown'"),
        ('less = "unedited"', 'less = "nothing"', "needs 'nothing'"),
        ('["noise", ', '["nois", ', "needs 'nois'"),
        ('axis = "ratio"', 'unequal = ["tokens"]', "no amount 'tokens' that could be unequal"),
        ('"late"', '"old"', "needs 'old'"),
        ("otherwise", "else", "`presupposes` has a claim and an otherwise, found"),
        ('"rises"', '"soars"', "'soars' is not a valid Direction"),
        ('test = "trend"', 'test = "trent"', "no test 'trent'; choose from contrast"),
    ],
)
def test_a_claim_that_is_none_is_refused_by_name(line, other, complaint):
    assert line in FILE
    with pytest.raises(ValueError, match=complaint):
        list(read_claims(FILE.replace(line, other)))


def test_a_verdict_flips_with_its_data():
    for claim in every():
        # Forty times the noise of a mean over five seeds: no test may miss it.
        for sign in (1, -1):
            found = verdict(claim, rows_for(claim, sign * 1.0, noise=0.05))
            wanted = Verdict.SUPPORTED if sign > 0 else Verdict.CONTRADICTED
            if claim.is_question:
                wanted = Verdict.ANSWERED
            expected = claim.expected.sign if claim.expected else 1
            assert found.verdict is wanted, (claim.identifier, sign, found.test)
            assert found.effect * expected * sign > 0, claim.identifier
            # Noise moves the effect of the weakest part by 0.2 at most; a correlation is within 1.
            assert abs(found.effect) == pytest.approx(1, abs=0.25), claim.identifier
            assert found.interval.low <= found.effect <= found.interval.high, claim.identifier
            assert found.seeds == SEEDS


def test_chance_supports_claims_no_more_often_than_the_level():
    claims = every()
    supported = contradicted = 0
    for claim in claims:
        for draw in range(QUICK_DRAWS):
            found = verdict(claim, rows_for(claim, 0.0, draw=draw + 1))
            supported += found.p_value < LEVEL
            contradicted += found.verdict == "contradicted"
    draws = QUICK_DRAWS * len(claims)
    # More would happen once in a thousand times by chance.
    most = stats.binom.isf(0.001, draws, LEVEL)
    assert supported <= most
    assert contradicted <= most


@pytest.mark.slow
def test_chance_supports_no_single_claim_more_often_than_the_level():
    claims = every()
    # Once in a thousand times by chance, of all claims together.
    most = stats.binom.isf(0.001 / len(claims), DRAWS, LEVEL)
    for claim in claims:
        p_values = [verdict(claim, rows_for(claim, 0.0, draw=d)) for d in range(DRAWS)]
        assert sum(found.p_value < LEVEL for found in p_values) <= most, claim.identifier
        against = sum(found.verdict == "contradicted" for found in p_values)
        assert against <= most, claim.identifier


def test_too_few_seeds_checkpoints_or_items_are_not_tested():
    for claim in every():
        few = [("seeds", {"seeds": claim.least.seeds - 1})]
        if claim.least.checkpoints:
            few.append((f"{claim.least.checkpoints}", {"points": claim.least.checkpoints - 1}))
        if claim.least.items:
            few.append(("items", {"clusters": claim.least.items - 1}))
        for word, less in few:
            found = verdict(claim, rows_for(claim, 1.0, noise=0.05, **less))
            assert found.verdict is Verdict.NOT_TESTED, (claim.identifier, less)
            assert word in found.test, (claim.identifier, found.test)
            assert found.effect is None
            assert "ot tested at this scale" in found.sentence


def test_what_checkpoints_are_needed_for_has_at_least_eight():
    over = []
    for claim in every():
        inner = claim.design
        while isinstance(inner, EachOf | Foremost):
            inner = inner.design if isinstance(inner, EachOf) else inner.trend
        if isinstance(inner, Follows) or (isinstance(inner, Trend) and inner.axis == "step"):
            over.append(claim.identifier)
            assert (claim.least.checkpoints, claim.least.seeds) == (8, 3), claim.identifier
    assert len(over) > 10
    assert CHECKPOINTS >= 8 > 0
    assert CLUSTERS >= 8
