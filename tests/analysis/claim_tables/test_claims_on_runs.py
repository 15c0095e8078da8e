"""Claims judged on the table of planted runs: the table has the rows that they select."""

from functools import partial

import pytest

from tests.analysis.ckl_runs import make_run
from tests.analysis.claim_tables.test_acquisition import table_of
from tests.analysis.claim_tables.test_encounters import draws_that_fade, scored

STEPS = tuple(range(100, 1000, 100))
SEEDS = 3


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Nine checkpoints with three seeds, of which the last one is edited and spaced as well.

    With age gains fall by a tenth a checkpoint, and entropy by one nat and more.
    """
    from interventions.choices import ResuscitationSite

    folder = tmp_path_factory.mktemp("runs")
    up = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
    preserving = {**up, "resuscitation_site": ResuscitationSite.PRESERVING}
    runs = []
    for seed in range(SEEDS):
        make = partial(make_run, seed=seed, model="tiny", generate_every=None)
        for place, step in enumerate(STEPS):
            runs.append(
                make(
                    folder / f"{step}-{seed}",
                    gain=1 - 0.1 * place + 0.01 * seed,
                    right=(30, 25 - place - (place % 3)),
                    entropy=30 - place - 0.1 * place * (place % 3),
                    start=f"{place:02x}",
                    revision=f"step-{step:06d}",
                )
            )
        last = {"start": f"{len(STEPS) - 1:02x}", "revision": f"step-{STEPS[-1]:06d}"}
        for name, edit, gain in (("up", up, 1.5), ("preserving", preserving, 0.5)):
            edited = {"edit": edit, "unedited": True, "entropy": 40.0, "gain": gain}
            runs.append(make(folder / f"{name}-{seed}", **edited, **last))
        spaced = make(folder / f"spaced-{seed}", injection_interval=14, **last)
        runs.append(scored(spaced, draws_that_fade()))
        # The same at the shorter interval, in the place of the run of the last checkpoint.
        runs[-4] = scored(runs[-4], draws_that_fade())
    return table_of(*runs)


@pytest.fixture(scope="module")
def findings(table):
    from analysis.claims import CLAIMS, judge
    from analysis.measurements import Table

    claims = [claim for claim in CLAIMS.values() if claim.table is Table.ACQUISITION]
    return {one.claim: one for one in judge(claims, {Table.ACQUISITION: table})}


@pytest.mark.parametrize(
    ("claim", "n"),
    [
        ("acquisition-falls-with-age", len(STEPS)),
        ("acquisition-follows-entropy", len(STEPS)),
        ("encounters-raise", 10),
        ("memorization-gains-most", 10),
        ("later-checkpoints-acquire-no-more", 10),
        ("very-early-pretraining", 10),
        ("middle-checkpoint-knows-most", 10),
        ("middle-checkpoint-keeps-most", 60),
        ("forgetting-rises-with-age", len(STEPS)),
        ("once-ends-below-its-start", SEEDS),
        ("resuscitation-raises-entropy", SEEDS),
        ("preserving-resuscitation-gain", 10),
        ("preserving-resuscitation-damage", 60),
        ("preserving-against-scaling", 10),
        ("forgetting-is-linear-in-log-steps", SEEDS),
        ("duplication-forgets-faster", SEEDS),
        ("encounters-within-the-threshold-add-up", 10),
        ("encounters-beyond-the-threshold-leave-nothing", 10),
    ],
)
def test_claims_find_what_they_are_about(claim, n, findings):
    assert findings[claim].n == n, findings[claim].test
    assert findings[claim].seeds == SEEDS


def test_effects_are_those_that_were_planted(findings):
    # From a gain of 1 to one of 0.2: 1.5 and 0.3 of 6.
    assert findings["encounters-raise"].verdict == "supported"
    assert findings["acquisition-falls-with-age"].verdict == "supported"
    assert findings["resuscitation-raises-entropy"].effect == pytest.approx(
        40 - (30 - 8 - 0.1 * 8 * 2)
    )
    assert findings["preserving-against-scaling"].effect == pytest.approx(1.5 * (1.5 - 0.5))


def test_spacing_on_all_rows_would_keep_claims_from_their_rows(table):
    """Why net gains alone say it: a claim about the last checkpoint loses what it compares."""
    from analysis.claims import claim_named, judge
    from analysis.measurements import Table

    everywhere = table.copy()
    told = everywhere["step"].eq(STEPS[-1]) & everywhere["site"].isna()
    everywhere.loc[told, "spacing"] = "within"
    claim = claim_named("preserving-resuscitation-gain")
    found = judge([claim], {Table.ACQUISITION: everywhere})[0]
    assert found.verdict == "not tested at this scale"
