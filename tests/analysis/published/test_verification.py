"""The verification of folders: what is printed and written, and what is known of results."""

import json

import pandas as pd
import pytest

from tests.analysis.published import planted
from tests.analysis.published.planted import curve, frame, run_row

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def sweep(tmp_path):
    """A sweep over four checkpoints, whose knowledge entropy falls and attention entropy rises."""
    rows = [
        {"step": step, "corpus": "general", "layer": None, "measure": measure, "entropy": number}
        for measure, numbers in (("|c|", (9.0, 8.5, 8.2, 8.0)), ("attention", (3, 4, 5, 6)))
        for step, number in zip((1, 40, 200, 400), numbers, strict=True)
    ]
    folder = tmp_path / "results" / "sweep"
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "trajectory.csv", index=False)
    (folder / "sweep.json").write_text(json.dumps({"model": "elsewhere/checkpoints/step-*"}))
    return folder


def test_a_folder_is_verified_printed_and_written(sweep, tmp_path, capsys):
    from analysis.published import verify_command

    out = tmp_path / "out"
    verify_command([sweep.parent], out)
    printed = capsys.readouterr().out
    line = "Of 617 published numbers 0 match, 3 hold in direction only, 1 disagree, "
    assert line in " ".join(printed.split())
    document = (out / "verification.md").read_text().replace(MINUS, "-")
    assert document.splitlines()[2].startswith(line)
    assert (
        "| Figure 2 | knowledge entropy: OLMo-1B, Dolma, first batch | 143.6 to 144 nats; falls"
        in document
    )
    assert (
        "8 nats; change -0.5 | direction only | both fall from the first checkpoint; of one run"
        in document
    )
    assert str(tmp_path) not in document
    table = pd.read_csv(out / "verification.csv").set_index("number")
    one = table.loc["kim-figure-3-attention"]
    assert (one["ours"], one["change"], one["verdict"]) == (4.0, 2.0, "disagrees")
    assert (one["published_low"], one["published_high"]) == (40, 70)
    assert one["differs_in"] == "model, corpus"
    stored = json.loads((out / "verification.json").read_text())
    assert (
        stored["counts"]
        == table["verdict"]
        .value_counts()
        .reindex(
            ["match", "direction only", "disagrees", "within chance", "not comparable"],
            fill_value=0,
        )
        .to_dict()
    )
    assert [row["number"] for row in stored["numbers"]] == list(table.index)
    assert stored["headline"] in document
    verify_command([sweep], out)
    verify_command([sweep], None)


def test_bad_folders_are_refused_in_a_line(sweep, tmp_path):
    from analysis.published import verify_command

    with pytest.raises(ValueError, match=r"nowhere is no folder; give a run") as error:
        verify_command([tmp_path / "nowhere"], None)
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no result"):
        verify_command([tmp_path / "empty"], None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        verify_command([sweep], tmp_path / "file")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "verification.md").write_text("mine")
    with pytest.raises(ValueError, match="of another origin"):
        verify_command([sweep], tmp_path / "taken")
    assert (tmp_path / "taken" / "verification.md").read_text() == "mine"


def test_a_number_is_shown_with_its_interval_its_change_and_its_doubts(capsys):
    from analysis.published.verification_texts import text_tables, verification_markdown

    rows = [
        run_row("A", number + 0.01 * seed, step, seed=seed)
        for step, number in ((118, 0.3), (738, 0.2))
        for seed in range(3)
    ]
    found = planted.verified(
        {"acquisition": frame("acquisition", rows), "pretraining": curve({20: 3.0, 738: 2.0})}
    )
    counts, kim = text_tables(found)
    assert (kim.title, counts.rows[0][0]) == ("Kim et al. 2025", "Kim et al. 2025, Table 1")
    # Student's t of 20, 21 and 22: 4.303 over the root of 3.
    assert tuple(cell.replace(MINUS, "-") for cell in kim.rows[0][:5]) == (
        "Table 1",
        "A: baseline, 738k",
        "18.8%; change -6.4",
        "21% [18.52, 23.48]; change -10 [-10, -10]",
        "direction only",
    )
    assert kim.rows[0][5].endswith("(step 738 for 738k, batch 128, rate 0.0004)")
    document = verification_markdown(found)
    assert "- sign-of-acquisition: equation 4 divides by K" in document
    assert "table-6-repeats" not in document
    # A row for each source; columns of counts add up.
    named = dict(zip(counts.header, zip(*counts.rows, strict=True), strict=True))
    total = sum(
        int(cell or 0)
        for name, cells in named.items()
        if name not in ("source", "mostly since")
        for cell in cells
    )
    assert total == 617


@pytest.fixture
def results(tmp_path):
    """Manifests of the papers' own settings."""
    from analysis.claim_tables.folders import Results
    from training.ckl.recipes import CKL_RECIPES
    from training.commands.recipes import as_json
    from training.remix.recipes import REMIX_RECIPES

    given = {"corpus": "texts/pubmed.jsonl", "knowledge": ["fictional.json"]}

    def manifest(name, config, changes):
        folder = tmp_path / name
        folder.mkdir()
        written = {"command": name, "configuration": as_json(config) | changes, "inputs": {}}
        (folder / "manifest.json").write_text(json.dumps(written))
        return folder

    def of(ckl="paper-1b", remix="paper-llama3-8b", names=("ckl", "remix"), **changes):
        ours = given | {"probe_reduction": "padded_mean"} | changes
        return Results(
            ckl_runs=(manifest(names[0], CKL_RECIPES[ckl](), ours),),
            remix_runs=(manifest(names[1], REMIX_RECIPES[remix](), {}),),
        )

    return of


def test_manifests_of_the_papers_meet_the_published_conditions(results):
    from analysis.claims.measurements import Table
    from analysis.published.result_settings import settings_of_results

    found = settings_of_results(results())
    expected = planted.PAPER_SETTINGS["acquisition"].copy()
    del expected["familiar corpus"]
    assert found[Table.ACQUISITION] == expected
    assert found[Table.MEMORIZATION] == planted.PAPER_SETTINGS["memorization"]
    three = settings_of_results(results("three-epochs", names=("3", "r")))[Table.ACQUISITION]
    assert (three["epochs"], three["corpus rows"]) == ("3", "204800 of 1024")
    mistral = settings_of_results(results(remix="paper-mistral-7b", names=("c", "m")))
    assert mistral[Table.MEMORIZATION]["model"] == "Mistral-7B-v0.3"


def test_what_results_do_not_agree_in_is_said_of_none(results):
    from dataclasses import replace

    from analysis.claims.measurements import Table
    from analysis.published.result_settings import settings_of_results

    one = results(names=("one", "r1"))
    other = {"corpus": "general-train", "knowledge": ["generated"], "task_limit": 16}
    two = results(names=("two", "r2"), probe_reduction="token_mean", **other)
    said = settings_of_results(two)[Table.ACQUISITION]
    assert said["familiar corpus"] == "general-train"
    assert said["knowledge"] == "generated knowledge, 70 paraphrased and 60 once"
    assert said["metric of tasks"] == "6 tasks, 16 questions each"
    assert said["metric of knowledge"] == "token_mean"
    both = replace(one, ckl_runs=(*one.ckl_runs, *two.ckl_runs))
    assert settings_of_results(both)[Table.ACQUISITION] == {
        "new corpus": "PubMed",
        "familiar corpus": "general-train",
        "corpus rows": "204800 of 1024",
        "epochs": "1",
    }


def test_names_of_results_are_those_of_the_papers():
    from analysis.published.result_names import novelty_of, published_corpus, published_model

    assert published_model("meta-llama/Meta-Llama-3-8B") == "Llama-3-8B"
    assert published_model("allenai/OLMo-7B-hf") == "OLMo-7B"
    assert published_model("/home/me/runs/tiny") == "tiny"
    assert published_corpus("data/C4.jsonl") == "C4"
    assert published_corpus("data/c4-like.jsonl") == "c4-like.jsonl"
    assert [novelty_of(name) for name in ("PubMed", "biomedical-train", "Dolma", "general")] == [
        *("new", "new", "familiar", "familiar")
    ]
