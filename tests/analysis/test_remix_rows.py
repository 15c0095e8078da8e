"""The table of memorization, from runs whose records are planted, and from a run that is real."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.measurements import Table, checked
from analysis.run_rows import fact_depths, memorization_table
from analysis.runs import read_chain
from tests.analysis.remix_runs import A_ITEMS, A_STEPS, B_STEPS, make_run
from tests.reference.first_layers import first_layers
from tests.training.remix.runs import remix_arguments
from tests.training.small_runs import pretrain_arguments, write_texts
from training.options import Control, EditForm
from training.pretrain import main as pretrain
from training.remix import main as remix

FOUND = 35
"""A model that has learnt next to nothing has the answers far from the top."""
KINDS = {"A": "factoids", "B": "factoids"}


def run_of(folder, kinds=KINDS, about=None, **given):
    """A planted run whose manifest says what its sets are, as those of `training.remix` do."""
    if "control" in given:
        given["control"] = Control(given["control"])
    make_run(folder, **given)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for stage, kind in kinds.items():
        manifest["inputs"]["stages"][stage]["data"] |= {"kind": kind, **(about or {})}
    file.write_text(json.dumps(manifest))
    return folder


def table_of(*folders, **given):
    table = memorization_table([read_chain(folder) for folder in folders], **given)
    return checked(Table.MEMORIZATION, table)


def settings_of(folder):
    """The one value that each setting of a run has."""
    table = table_of(folder)
    names = ("site", "ratio", "factor", "control", "temperature", "edit_form", "first", "later")
    names += ("later_kind",)
    names += ("stages", "familiar", "mix_first", "mix_later", "mix_ratio", "mix_words", "replay")
    names += ("mix_corpus",)
    found = {}
    for name in (*names, "replay_ratio", "equal", "seed"):
        (found[name],) = table[name].unique()
    return {name: value for name, value in found.items() if value != "(none)"}


PLAIN = {"seed": 5, "first": "kvr", "later": "kvr", "later_kind": "factoid", "stages": 2}
PLAIN |= {"familiar": False}


def test_facts_are_right_as_they_were_found_at_each_moment(tmp_path):
    folder = run_of(tmp_path / "run", seed=5, learnt=11, kept=2, extra=1, familiar=4)
    table = table_of(folder)
    assert set(table["measure"]) == {"share right"}
    assert set(table["seed"]) == {5}
    found = {
        key: {json.loads(c)["identifier"]: v for c, v in zip(g["cluster"], g["value"], strict=True)}
        for key, g in table.groupby(["familiar", "moment"])
    }
    assert set(found) == {(f, m) for f in (False, True) for m in ("after A", "after B")}
    assert found[False, "after A"] == {f"A{n}": float(n < 11) for n in range(A_ITEMS)}
    assert found[False, "after B"] == {f"A{n}": float(n < 2 or n == 12) for n in range(A_ITEMS)}
    assert found[True, "after A"] == {f"familiar{n}": float(n < 6) for n in range(7)}
    assert found[True, "after B"] == {f"familiar{n}": float(n < 4) for n in range(7)}


def test_updates_and_tokens_are_those_of_each_stage(tmp_path):
    first = run_of(tmp_path / "first")
    table = memorization_table([read_chain(run_of(tmp_path / "run", seed=5, shared=first))])
    amounts = table.filter(regex="updates|tokens").drop_duplicates()
    assert len(amounts) == 1
    chain = read_chain(tmp_path / "run")
    tokens = [int(stage.run.steps["trained_tokens"].sum()) for stage in chain.stages.values()]
    assert amounts.iloc[0].to_dict() == {
        **{"updates_first": A_STEPS, "updates_later": B_STEPS},
        **{"tokens_first": tokens[0], "tokens_later": tokens[1]},
    }
    assert tokens[0] > tokens[1] > 0


def test_written_answers_are_not_what_is_right(tmp_path):
    folder = run_of(tmp_path / "run", written=True)
    assert len(table_of(folder)) == 2 * A_ITEMS


UP = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
WEIGHTS = {"edit_form": "weights"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {}),
        (
            {"mix": ("random", "generic"), "mix_words": 7},
            {
                **{"mix_first": "random", "mix_later": "generic", "mix_ratio": 2.0},
                **{"mix_words": 7, "mix_corpus": "general-train"},
            },
        ),
        (
            {"mix": ("none", "fineweb"), "mix_ratio": (1.0, 3.0), "mix_words": 11},
            {
                **{"mix_later": "generic", "mix_ratio": 3.0, "mix_words": 11},
                "mix_corpus": "fineweb",
            },
        ),
        (
            {"mix": ("arxiv-pile", "random"), "mix_ratio": (1.0, 3.0), "mix_words": 11},
            {
                **{"mix_first": "generic", "mix_later": "random", "mix_words": 11},
                "mix_corpus": "arxiv-pile",
            },
        ),
        ({"mix": ("random", "generic"), "no_mix_control": "steps"}, {"equal": "steps"}),
        ({"mix": ("none", "generic"), "no_mix_control": "tokens"}, {"equal": "tokens"}),
        ({"replay": "items", "replay_ratio": 0.3}, {"replay": "items", "replay_ratio": 0.3}),
        ({"replay": "self"}, {"replay": "self", "replay_ratio": 0.1}),
        (UP, {"site": "up", "ratio": 0.5, "factor": 2.0, **WEIGHTS}),
        (
            {**UP, "control": "random_rows"},
            {"control": "random_rows", "ratio": 0.5, "factor": 2.0, **WEIGHTS},
        ),
        ({"attention_temperature": 1.5}, {"temperature": 1.5, **WEIGHTS}),
        (
            {"attention_temperature": 1.5, "edit_form": EditForm.HOOKS},
            {"temperature": 1.5, "edit_form": "hooks"},
        ),
    ],
)
def test_settings_are_those_of_the_manifest(tmp_path, given, told):
    assert settings_of(run_of(tmp_path / "run", seed=5, **given)) == PLAIN | told


def test_later_sets_and_what_is_known_of_familiarity(tmp_path):
    data = ("lama", "somewhere/gsm8k.jsonl")
    kinds = {"A": "factoids", "B": "instructions"}
    told = {"first": "lama", "later": "gsm8k.jsonl", "later_kind": "non-factoid"}
    asked = run_of(
        *(tmp_path / "asked", kinds, {"name": "lama", "familiarity": {"asked": 29}}),
        **{"seed": 5, "data": data, "familiarity_items": 29},
    )
    assert settings_of(asked) == PLAIN | told
    not_asked = run_of(tmp_path / "not", kinds, {"name": "lama"}, seed=5, data=data)
    assert settings_of(not_asked) == {k: v for k, v in (PLAIN | told).items() if k != "familiar"}


def test_an_edit_before_a_later_stage_has_no_rows(tmp_path):
    later = run_of(tmp_path / "later", **UP, edit_before="B")
    first = run_of(tmp_path / "first", **UP, edit_before="A")
    assert len(table_of(later, first)) == len(table_of(first)) > 0
    assert table_of(later).empty
    # Of a run without an edit the setting says nothing.
    assert len(table_of(run_of(tmp_path / "none", edit_before="B"))) == 2 * A_ITEMS


def test_runs_that_only_the_table_cannot_tell_apart_are_refused(tmp_path):
    one, other = (run_of(tmp_path / n, key_length=k) for n, k in (("one", 3), ("other", 5)))
    with pytest.raises(ValueError, match=r"one and .*other both have 'share right' of seed 0"):
        table_of(one, other)
    assert len(table_of(one, run_of(tmp_path / "seed", seed=1))) == 4 * A_ITEMS


def test_claims_find_their_rows(tmp_path):
    from analysis.claims import CLAIMS, Table, judge

    folders = [
        run_of(tmp_path / f"{name}-{seed}", seed=seed, kept=kept + seed % 2, **given)
        for seed in range(3)
        for name, kept, given in (
            ("plain", 1, {}),
            ("both", 9, {"mix": ("random", "generic")}),
            ("replay", 4, {"replay": "items"}),
        )
    ]
    claims = [CLAIMS[name] for name in ("both-mixes-help", "mixing-beats-replay")]
    helped, beaten = judge(claims, {Table.MEMORIZATION: table_of(*folders)})
    # Eight facts more, and five more, of thirteen.
    assert helped.effect == pytest.approx(8 / 13, rel=1e-12)
    assert beaten.effect == pytest.approx(5 / 13, rel=1e-12)
    assert (helped.n, helped.seeds) == (13, 3)


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A run of two stages of a tiny model."""
    folder = tmp_path_factory.mktemp("real")
    texts, start = write_texts(folder), folder / "tiny"
    assert pretrain(pretrain_arguments(texts, start)) == 0
    assert remix(remix_arguments(texts, start, folder / "run", "--data", "kvr", "kvr")) == 0
    return folder / "run"


def test_depths_are_those_of_hidden_states(real_run):
    depths = fact_depths([read_chain(real_run)], 7, k=FOUND)
    assert set(depths["moment"]) == {"after A", "after B"}
    table = table_of(real_run, depths=depths)
    several, never = False, False
    for stage in "AB":
        by_hand, _ = first_layers(real_run, stage, FOUND)
        rows = table[table["moment"] == f"after {stage}"]
        facts = rows[rows["measure"] == "first layer"]
        names = [json.loads(fact)["identifier"] for fact in facts["cluster"]]
        asked = [json.loads(c)["identifier"] for c in rows["cluster"][:7]]
        wanted = {name: by_hand[name] for name in asked if name in by_hand}
        assert dict(zip(names, facts["value"], strict=True)) == wanted
        shares = np.unique(list(wanted.values()), return_counts=True)[1] / len(wanted)
        (effective,) = rows.loc[rows["measure"] == "effective layers", "value"]
        assert effective == pytest.approx(np.prod(shares**-shares), rel=1e-12)
        several, never = several or len(shares) > 1, never or len(wanted) < len(asked)
    assert several, "all facts lie in one layer, so that nothing was compared"
    assert never, "all facts are readable, so that none was left out"
    assert set(table["familiar"]) == {False}


def test_depths_of_other_runs_are_left_alone(real_run, tmp_path):
    told = (str(tmp_path / "run"), "after B", "effective layers", None, 2.5)
    depths = pd.DataFrame([told], columns=["run", "moment", "measure", "cluster", "value"])
    run = run_of(tmp_path / "run")
    table = table_of(run, real_run, depths=depths)
    (row,) = table[table["measure"] == "effective layers"].to_dict("records")
    assert (row["value"], row["moment"], row["cluster"]) == (2.5, "after B", "(none)")
