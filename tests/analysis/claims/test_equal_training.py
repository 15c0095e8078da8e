"""Arms that a claim compares are trained equally long, or the claim says that they are not."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.checkpoints import step_of
from analysis.claims import CLAIMS, Verdict, claim_named, judge
from analysis.claims.designs import AllOf, EachOf, Follows, Foremost, Trend
from analysis.claims.selection import rows_with
from analysis.measurements import AMOUNTS, NONE, Table, edit_settings
from analysis.reproduce_plan import whole_plan
from analysis.reproduce_scales import SCALES
from analysis.run_rows import chain_settings
from analysis.runs import Chain
from analysis.significance import ScaleError
from tests.analysis.claims.claim_records import rows_for
from training.choices import StopWhen
from training.data.primary_sets import BUILT_IN_INSTRUCTIONS, HUB_INSTRUCTIONS, PrimaryKind
from training.recipes import as_json
from training.remix import planned_updates
from training.remix_config import RemixConfig
from training.runs.directory import run_manifest

INSTRUCTIONS = {**BUILT_IN_INSTRUCTIONS, **HUB_INSTRUCTIONS}


def knowledge_row(config, familiar_corpus):
    name = "familiar" if config.corpus == familiar_corpus else "new"
    return {
        **edit_settings(as_json(config)),
        **{"seed": config.seed, "batch_size": config.batch_size, "novelty": name},
        **{"learning_rate": config.learning_rate, "interval": config.injection_interval},
        **{"parameters": 1 if "smaller" in config.model else 2, "trajectory": config.model},
        **{"step": step_of(config.revision or ""), "epochs": config.epochs},
        "interval_rows": config.injection_interval * config.batch_size,
        "encounters": config.injection_rounds * config.injection_cycles,
        "updates": config.steps or config.last_injection + config.injection_interval,
    }


def memorization_row(config):
    kinds = {
        stage.name: {
            "data": {
                "kind": str(
                    PrimaryKind.INSTRUCTIONS if stage.data in INSTRUCTIONS else PrimaryKind.FACTOIDS
                )
            }
        }
        for stage in config.stages
    }
    assert all(s.stop is StopWhen.EPOCHS or s.control is not None for s in config.stages)
    manifest = run_manifest("training.remix", "smoke", config, {"stages": kinds})
    chain = Chain(path=Path("run"), manifest=manifest, stages={}, relearning=None)
    updates = [planned_updates(config, place) for place in range(len(config.stages))]
    return {
        **{**edit_settings(chain.configuration), **chain_settings(chain)},
        "familiar": config.familiarity_items is not None,
        **{"updates_first": updates[0], "updates_later": sum(updates[1:])},
    }


def planned(scale):
    """The run-level columns of the tables that the runs of a scale would give."""
    jobs = whole_plan(replace(scale, seeds=1), Path("runs"))
    configs = [job.config for job in jobs if job.config is not None]
    corpus = scale.knowledge.familiar_corpus
    rows = {
        Table.MEMORIZATION: [memorization_row(c) for c in configs if isinstance(c, RemixConfig)],
        Table.ACQUISITION: [
            knowledge_row(c, corpus) for c in configs if hasattr(c, "injection_interval")
        ],
    }
    found = {table: pd.DataFrame(these).astype(object) for table, these in rows.items() if these}
    return {table: frame.where(frame.notna(), NONE) for table, frame in found.items()}


def parts_of(design):
    if isinstance(design, AllOf):
        return list(design.parts)
    if isinstance(design, EachOf):
        return parts_of(design.design)
    if isinstance(design, Foremost):
        return [design.trend]
    return [] if isinstance(design, Follows) else [design]


def compared(claim, frame):
    """The amounts of the runs that a claim compares with each other."""
    amounts = AMOUNTS[claim.table]
    ours = {name: value for name, value in claim.where.items() if name in frame}
    rows = rows_with(frame, ours)
    for part in parts_of(claim.design):
        arms = [part.arm] if part.base is None else [part.arm, part.base]
        wanted = [{k: v for k, v in arm.settings.items() if k in frame} for arm in arms]
        of_arms = [rows_with(rows, settings).assign(arm=n) for n, settings in enumerate(wanted)]
        free = {*amounts, *wanted[0], *part.averaged, "arm"}
        free |= {part.axis} if isinstance(part, Trend) else set()
        together = pd.concat(of_arms)
        keys = [name for name in frame if name not in free]
        for _, group in together.groupby(keys, sort=False):
            if group["arm"].nunique() == len(arms):
                yield group[list(amounts)]


def test_the_runs_of_every_scale_are_as_long_in_all_arms_that_a_claim_does_not_let_differ():
    needed = {name: set() for name in CLAIMS}
    for name, made in SCALES.items():
        scale = made()
        tables = planned(scale)
        for claim in CLAIMS.values():
            there = {*scale.experiments}.issuperset(claim.needs)
            if claim.table not in tables or not there or isinstance(claim.design, Follows):
                continue
            try:
                groups = list(compared(claim, tables[claim.table]))
            except ScaleError:
                groups = []
            assert groups or name == "desk", (name, claim.identifier)
            for group in groups:
                unequal = {column for column in group if group[column].nunique() > 1}
                assert unequal <= {*claim.unequal}, (name, claim.identifier, group)
                needed[claim.identifier] |= unequal
    for name, claim in CLAIMS.items():
        assert needed[name] == {*claim.unequal}, f"{name} says more than its arms differ in"


@pytest.fixture
def factoids_longer():
    """Facts forgotten in a longer stage of factoids than of other tasks."""
    frame = rows_for(claim_named("factoid-stages-hurt-more"), 1.0)
    longer = frame["later_kind"] == "factoid"
    return frame.assign(updates_first=40, updates_later=longer.map({True: 60, False: 8}))


def test_arms_of_unequal_length_are_not_compared(factoids_longer):
    claim = claim_named("factoid-stages-hurt-more")
    (found,) = judge([claim], {claim.table: factoids_longer})
    assert found.verdict is Verdict.NOT_TESTED
    assert "unequal numbers of updates" in found.test
    (found,) = judge([claim], {claim.table: factoids_longer.assign(updates_later=60)})
    assert (found.verdict, found.doubts) == (Verdict.SUPPORTED, claim.doubts)


def test_a_claim_about_longer_arms_says_how_long_they_were():
    claim = claim_named("random-mix-at-a-helps")
    frame = rows_for(claim, 1.0)
    mixed = frame["mix_first"] == "random"
    longer = frame.assign(updates_first=mixed.map({True: 1480, False: 740}), updates_later=60)
    (found,) = judge([claim], {claim.table: longer})
    assert found.verdict is Verdict.SUPPORTED
    (said,) = set(found.doubts) - set(claim.doubts)
    assert "updates of stage A: 1,480 (random mix at A, none later), 740 (no mix" in said
    (found,) = judge([claim], {claim.table: longer.assign(updates_first=740)})
    assert found.doubts == claim.doubts
    # What it does not name must still agree.
    (found,) = judge([claim], {claim.table: longer.assign(updates_later=longer["updates_first"])})
    assert found.verdict is Verdict.NOT_TESTED
