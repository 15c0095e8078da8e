"""Chains on a set that is smaller than a recipe's: what is taken instead, and said; refusals."""

import json
from dataclasses import replace

import pytest

from tests.training.remix.runs import remix_arguments
from training.remix import lab, main, smoke
from training.remix_items import fitted, left_over
from training.runs.records import read_items


def facts_of(path, count):
    rows = [{"question": f"where is tower {n}", "answers": [f"in field {n}"]} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_thirty_items_of_ones_own_are_learnt_with_the_defaults(texts, pretrained, tmp_path, capsys):
    """The relearning control of the recipe wants 64 items more, and its stages 128."""
    facts = facts_of(tmp_path / "facts.jsonl", 30)
    out = tmp_path / "run"
    argv = [
        *(
            "--recipe",
            "smoke",
            "--model",
            str(pretrained),
            "--out",
            str(out),
            "--data",
            facts,
            "kvr",
        ),
        *("--epochs", "1", "--mix-ratio", "1", "--row-length", "43", "--max-length", "500"),
        *("--evaluation-corpora", str(texts / "new.jsonl"), "--evaluation-tokens", "301"),
        *("--entropy-tokens", "199", "--relearning-steps", "1", "--gradient-every", "None"),
        "--no-generation",
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert f"{facts} has 30 items: stage A learns 30, where the recipe has 128" in printed
    assert "relearning asks no items that nothing has taught, where the recipe has 64" in printed
    stages = json.loads((out / "manifest.json").read_text())["configuration"]
    assert (stages["items"], stages["relearning_never_taught"]) == ([30, 128], 0)
    assert [len(read_items(out / "stage-B", name)) for name in "AB"] == [30, 128]
    groups = json.loads((out / "relearning.json").read_text())["groups"]
    assert {name: groups.count(name) for name in set(groups)} == {"again": 16, "other": 14}
    # The same command goes on with it, and so does --resume alone.
    assert main([*argv, "--resume"]) == 0
    assert main(["--out", str(out), "--resume"]) == 0


def test_what_a_set_has_left_is_asked_and_the_rest_said(tmp_path):
    facts = facts_of(tmp_path / "facts.jsonl", 41)
    config = replace(smoke(), data=(facts, "kvr"), items=(29, 31))
    found, lines = fitted(config, smoke())
    assert found == replace(config, relearning_never_taught=12)
    assert len(lines) == 1
    assert "relearning asks 12 items that nothing has taught, where the recipe has 64" in lines[0]
    assert left_over(config, 64) == 12


def test_stages_of_one_set_share_it(tmp_path):
    facts = facts_of(tmp_path / "facts.jsonl", 23)
    found, lines = fitted(replace(smoke(), data=(facts, facts, "kvr")), smoke())
    assert [stage.items for stage in found.stages] == [11, 11, 128]
    assert [stage.offset for stage in found.stages] == [0, 11, 0]
    # 23 - 22 items are left, and a batch is no larger than the smallest stage.
    assert (found.relearning_never_taught, found.batch_size) == (1, 11)
    assert (found.relearning_items, len(lines)) == (5, 5)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_sets(count, tmp_path):
    facts = facts_of(tmp_path / "facts.jsonl", count)
    found, lines = fitted(replace(smoke(), data=(facts, "kvr")), smoke())
    assert (found.stages[0].items, found.batch_size) == (count, count)
    assert found.relearning_steps == (None if count == 1 else 8)
    assert any("relearning is left out" in line for line in lines) == (count == 1)
    with pytest.raises(ValueError, match=f"has {count} items, and {count + 1} stages are to learn"):
        fitted(replace(smoke(), data=(facts,) * (count + 1)), smoke())


@pytest.mark.parametrize("recipe", [smoke, lab])
def test_a_recipe_fits_itself(recipe):
    assert fitted(recipe(), recipe()) == (recipe(), ())


def test_numbers_that_were_asked_for_are_refused_with_what_would_fit(
    texts, pretrained, tmp_path, capsys
):
    facts = facts_of(tmp_path / "facts.jsonl", 19)
    argv = remix_arguments(texts, pretrained, tmp_path / "run", "--data", facts, facts)
    for extra, line in (
        (["--relearning-items", "7"], "asks for 7 of the 7 items of stage A.*give 6 or fewer"),
        (["--items", "11", "9"], "stage B is to learn 9 items of .*, which has 8 after the first"),
        (["--relearning-never-taught", "9"], "which has 7; ask for 7 or fewer"),
    ):
        assert main([*argv, *extra]) == 2
        err = " ".join(capsys.readouterr().err.split())
        import re

        assert re.search(line, err), err
    assert not (tmp_path / "run").exists()
