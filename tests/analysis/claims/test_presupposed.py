"""Claims about an age of pretraining, and claims that presuppose others."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims import CLAIMS, Pretrained, claim_named, judge
from analysis.claims.selection import AGES
from analysis.measurements import NONE
from analysis.significance import ScaleError
from tests.analysis.claims.claim_records import alone, rows_for

GAP, FALL = "gap-is-larger-on-new-text", "acquisition-falls-with-age"


def gap_rows(fall):
    """Acquisition by age: familiar text rises by 1 where new text falls by so much."""
    new = rows_for(claim_named(FALL), fall, noise=0.02)
    familiar = rows_for(claim_named(FALL), fall - 1, noise=0.02, draw=1)
    return pd.concat([new.assign(novelty="new"), familiar.assign(novelty="familiar")])


def judged_gap(frame, names=(GAP,), **given):
    claims = [claim_named(name) for name in names]
    return judge(claims, {claims[0].table: frame}, **given)


def test_a_difference_of_falls_needs_the_fall():
    (found,) = judged_gap(gap_rows(1.0))
    assert (found.verdict, found.reason) == ("supported", "")
    # The same difference, with nothing that falls: neither word is said of it.
    for frame in (gap_rows(0.0), gap_rows(-1.0)):
        gap, fall = judged_gap(frame, (GAP, FALL))
        assert (gap.verdict, gap.p_value < 0.05, fall.verdict == "supported") == (
            *("inconclusive", True, False),
        )
        assert (
            gap.reason
            == f"acquisition does not fall beyond chance here: {fall.shown}, {fall.verdict}"
        )
        assert gap.reason in gap.sentence
        assert gap.sentence.startswith("Inconclusive: acquisition falls with age more steeply")


def test_a_claim_is_not_tested_where_what_it_presupposes_is_not():
    name = "adam-and-coefficients"
    frame = rows_for(claim_named(name), 1.0)
    one = claim_named(name)
    assert judge([alone(one)], {one.table: frame})[0].verdict == "answered"
    few = frame.assign(value=np.where(frame["measure"] == "gradients", 0.0, frame["value"]))
    (found,) = judge([one], {one.table: few})
    assert found.verdict == "inconclusive"
    names = ("another-generic-text-does-as-well", "generic-mix-later-helps")
    claims = [CLAIMS[each] for each in names]
    found = judge(claims, {claims[0].table: rows_for(alone(claims[0]), 1.0)})
    assert [each.verdict for each in found] == ["not tested at this scale"] * 2
    assert found[0].test.startswith("presupposes that a generic mix at a factoid stage B keeps")
    assert found[1].test in found[0].test


def test_late_claims_are_not_tested_on_the_start_of_pretraining():
    frame, steps = gap_rows(1.0), (10, 2560)
    for tokens, verdict in ((419_000, "not tested at this scale"), (420_000 * 256, "supported")):
        model = Pretrained(parameters=1000, steps=steps, tokens=tokens)
        assert judged_gap(frame, pretrained=model)[0].verdict == verdict
    (found,) = judged_gap(frame, pretrained=Pretrained(parameters=1000, steps=steps, tokens=5000))
    assert found.test.startswith(
        "the trajectory ends at step 2,560, at 5.0 tokens a parameter, before the stable point at "
        "420 (Kim et al., appendix B.5"
    )
    # Checkpoints before the stable point are left out of what is tested.
    model = Pretrained(parameters=1000, steps=steps, tokens=840_000)
    (found,) = judged_gap(frame, pretrained=model)
    assert found.test == "step has 2 values in common, 8 are needed"


def test_ages_keep_their_own_checkpoints():
    rows = pd.DataFrame({"step": [10, 20, 40, NONE]})
    model = Pretrained(parameters=2, steps=(10, 20, 40), tokens=1680)
    kept = {name: AGES[name].rows(rows, model)["step"].tolist() for name in ("early", "late")}
    assert kept == {"early": [10, 20], "late": [20, 40, NONE]}
    late = Pretrained(parameters=2, steps=(40,), tokens=1680)
    with pytest.raises(ScaleError, match="begins at step 40, at 840 tokens a parameter, after the"):
        AGES["early"].rows(rows[2:3], late)
    with pytest.raises(ScaleError, match="is not known, and the claim is about what comes after"):
        AGES["late"].rows(rows, Pretrained(parameters=2, steps=(40,)))
    assert len(AGES["late"].rows(rows[3:], Pretrained(parameters=2, tokens=840))) == 1
