"""Results beside published numbers: each verdict where it has to come out, and what is written."""

import json
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from analysis.measurements import COLUMNS, Table
from analysis.published.results import (
    PUBLISHED,
    novelty_of,
    published_name,
    settings_of_results,
)
from analysis.published.verification import verify, verify_command
from analysis.result_folders import Results
from training.ckl_config import CKL_RECIPES
from training.recipes import as_json
from training.remix import REMIX_RECIPES

MINUS = "\N{MINUS SIGN}"
A = "kim-table-1-baseline-738k-A"
LAMA = "chen-table-2-KVR-both-LAMA-accuracy"
MEAN = "chen-table-2-KVR-both-factoid-mean-accuracy"
CHECKPOINTS = {"118k": 118_000, "369k": 369_000, "554k": 554_000, "738k": 738_000}
MIXES = {"none": (None, None), "generic-later": (None, "generic"), "both": ("random", "generic")}
PAPER_SETTINGS = {
    "acquisition": {
        "new corpus": "PubMed",
        "familiar corpus": "C4",
        "corpus rows": "204800 of 1024",
        "knowledge": "fictional knowledge, 70 paraphrased and 60 once",
        "metric of knowledge": "padded mean, batches of 16 over 4 processes",
        "metric of tasks": "sciq, winogrande, piqa, openbookqa, hellaswag, arc-easy, zero-shot",
    },
    "memorization": {
        "model": "Llama-3-8B",
        "items": "2000",
        "metric": "exact match",
        "mix corpus": "knowledge pile",
    },
    "pretraining": {"model": "OLMo-1B"},
}
MET = {"exposure": "met", "kind": "all"}
MOMENTS = {
    "A": {"moment": "last injection", "against": "start", **MET},
    "K": {"moment": "last injection", **MET},
    "F": {"moment": "end", "against": "start"},
    "knowledge entropy": {"moment": "unedited start"},
    **dict.fromkeys(("rise", "effectivity", "net gain", "slope"), MET),
}


def frame(table, rows):
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS[Table(table)])).astype(object)


def found_in(settings=None, **tables):
    """Comparisons by number, of rows by their table."""
    frames = {Table(name): frame(name, rows) for name, rows in tables.items()}
    known = {Table(name): said for name, said in (settings or {}).items()}
    return {one.published.identifier: one for one in verify(frames, known)}


def run(measure, number, step, seed=0, **changes):
    """A value of a run of continual knowledge learning."""
    settings = {
        **{"trajectory": "allenai/OLMo-1B-hf", "parameters": 1_176_764_416, "novelty": "new"},
        **{"batch_size": 128, "learning_rate": 4e-4, "interval": 160, "epochs": 1},
    }
    row = {"measure": measure, "value": number, "step": step, "seed": seed}
    found = {**settings, **MOMENTS[measure], **row, **changes}
    return found | {"interval_rows": found["interval"] * found["batch_size"]}


def runs(values, seeds=3, **changes):
    """Acquisition by step, in several seeds."""
    return [
        run("A", v, step, seed, **changes) for step, v in values.items() for seed in range(seeds)
    ]


def facts(levels, **changes):
    """Three seeds of two facts for each mix."""
    return [
        {
            **{"measure": "share right", "moment": "after B", "stages": 2, "familiar": False},
            **{"first": "kvr", "later": "made-up", "later_kind": "factoid"},
            **dict(zip(("mix_first", "mix_later"), MIXES[mix], strict=True)),
            **({} if mix == "none" else {"mix_ratio": 2.0, "mix_words": 50}),
            **{"value": level, "seed": seed, "cluster": fact, **changes},
        }
        for mix, level in levels.items()
        for seed in range(3)
        for fact in ("Oslo", "Lima")
    ]


def curve(numbers, **changes):
    """Entropies over checkpoints."""
    row = {"measure": "|c|", "corpus": "general", **changes}
    return [
        {**row, "value": number + 0.001 * seed, "seed": seed, "step": step}
        for step, number in numbers.items()
        for seed in range(3)
    ]


def outcome(one):
    return str(one.agreement), one.measured and one.measured.change


def test_what_is_printed_matches_itself_where_all_conditions_are_met():
    names = {
        f"kim-table-{table}-baseline-{name}-{measure}": run(
            measure, PUBLISHED[f"kim-table-{table}-baseline-{name}-{measure}"].value, step
        )
        for measure, table in (("A", 1), ("F", 1), ("K", 2))
        for name, step in CHECKPOINTS.items()
    }
    rows = [
        row | {"value": row["value"] / (1 if row["measure"] == "K" else 100)}
        for row in names.values()
    ]
    kept = facts({"none": 0.021, "both": 0.624}, later="lama")
    found = found_in(PAPER_SETTINGS, acquisition=rows, memorization=kept)
    assert {name: str(found[name].agreement) for name in (*names, LAMA)} == dict.fromkeys(
        (*names, LAMA), "match"
    )
    assert "padded-score" in found[A].why
    assert found["chen-table-3-KVR-both-LAMA-accuracy"].unmet == ("model",)
    without = found_in(acquisition=rows, memorization=kept)
    assert outcome(without[A]) == ("direction only", pytest.approx(-6.4))
    assert outcome(without[LAMA]) == ("direction only", pytest.approx(60.3))
    assert without[LAMA].unmet == ("model", "items", "metric", "mix")
    turned = [[row | {"value": -row["value"]} for row in each] for each in (rows, kept)]
    flipped = found_in(acquisition=turned[0], memorization=turned[1])
    assert flipped[A].agreement == flipped[LAMA].agreement == "disagrees"
    for one in flipped.values():
        assert one.agreement in ("disagrees", "not comparable")
    last = [row for row in rows if row["step"] == 738_000]
    alone = found_in(PAPER_SETTINGS, acquisition=last)
    assert alone[A].agreement == "match", "without anything to compare it with"
    why = found_in(acquisition=last)[A].way
    assert why.startswith("the change from checkpoint 118k is not measured (no checkpoint at 16%")


def test_what_stands_for_checkpoints_epochs_and_moments():
    rows = runs({60: 0.3, 130: 0.25, 190: 0.2, 400: 0.1})
    edited = [row | {"site": "up", "ratio": 0.5, "factor": 2.0, "value": 0.9} for row in rows]
    late = [row | {"moment": "end", "value": 0.8} for row in rows]
    held = [row | {"exposure": "held_out", "value": 0.7} for row in rows]
    found = found_in(acquisition=[*edited, *rows, *late, *held])
    a = {name: found[f"kim-table-1-baseline-{name}-A"] for name in CHECKPOINTS}
    assert [a[name].measured.value for name in ("118k", "369k", "738k")] == pytest.approx(
        [30, 20, 10]
    )
    assert outcome(a["738k"]) == ("direction only", pytest.approx(-20))
    assert a["554k"].why == "no checkpoint at 75% of the last step, where 554k is"
    assert found["kim-table-1-3-epochs-738k-A"].why == "no runs of more than one epoch"
    assert found["kim-table-1-baseline-738k-F"].why.endswith("or its tasks are at chance)")
    again = found_in(acquisition=[row | {"epochs": 3} for row in rows])
    assert again["kim-table-1-3-epochs-738k-A"].agreement == "direction only"
    assert again[A].why == "no runs of one epoch"


def test_recipes_stand_for_those_that_differ_from_the_usual_one_alike():
    def rows(at, seeds=3, **changes):
        given = {"batch_size": 12, "learning_rate": 1e-3, **changes}
        return runs({118: 0.0, 738: -at}, seeds, **given)

    def cells(checkpoint, *parts):
        found = found_in(acquisition=[*chain(*parts)])
        names = ("baseline", "batch-size-2048", "learning-rate-1e-3", "learning-rate-1e-4")
        return [found[f"kim-table-1-{name}-{checkpoint}-A"] for name in names]

    # The usual recipe has more runs than others.
    usual = [*rows(0.01, seeds=4), *rows(0.05, kind="semantic")]
    large, slow = rows(0.02, batch_size=48, interval=40), rows(0.03, learning_rate=1e-4)
    baseline, larger, faster, slower = cells(
        "738k", usual, large, slow, rows(0.4, novelty="familiar")
    )
    assert baseline.measured.change == pytest.approx(-1)
    assert larger.measured is None, "the collapsed run is no target"
    assert faster.why == "no runs at a larger learning rate than the usual one"
    assert slower.measured.change == pytest.approx(-3)
    _, larger, _, slower = cells("118k", usual, large)
    assert larger.measured.rows.endswith("batch 48, rate 0.001")
    assert slower.why == "no runs at a smaller learning rate than the usual one"
    assert cells("118k", usual)[1].why == "no runs with a larger batch than the usual one"


def test_intervals_reach_over_seeds_and_over_items():
    wide, narrow = (-0.5, 0.0, 0.5), (-0.01, 0.0, 0.01)
    for seeds, items in ((wide, narrow), (narrow, wide)):
        rows = [
            run("K", -3.0 + of_seed + of_item, step, seed, cluster=f"item {item}")
            for seed, of_seed in enumerate(seeds)
            for item, of_item in enumerate(items)
            for step in (738, 118)
        ]
        found = found_in(acquisition=rows)["kim-table-2-baseline-738k-K"].measured.interval
        # Student's t of three.
        half = 4.302653 * 0.5 / np.sqrt(3)
        assert found[:2] == pytest.approx((-3 - half, -3 + half), rel=1e-5)
    numbers = {118: (0.25, 0.10, 0.40), 738: (0.19, 0.30, 0.11)}
    rows = [run("A", v, step, seed) for step in numbers for seed, v in enumerate(numbers[step])]
    assert found_in(acquisition=rows)[A].agreement == "within chance"
    alone = found_in(acquisition=[row for row in rows if row["seed"] == 0])[A]
    assert (alone.agreement, alone.measured.interval) == ("direction only", None)


def test_gaps_are_less_those_of_runs_that_are_otherwise_alike():
    gaps = {("new", 2e-4): -0.08, ("familiar", 2e-4): -0.02, ("familiar", 1e-3): -0.5}
    parts = [
        runs({118: 0.2, 738: 0.2 + gap}, 5 if rate == 1e-3 else 3, novelty=text, learning_rate=rate)
        for (text, rate), gap in gaps.items()
    ]
    found = found_in(acquisition=[*chain(*parts)])
    assert outcome(found["kim-gap-pubmed"]) == ("direction only", pytest.approx(-6))
    assert found["kim-gap-pubmed"].measured.value == pytest.approx(-8)
    only = found_in(acquisition=parts[0])["kim-gap-pubmed"]
    assert "no results of A, unedited, on familiar text" in only.why


def test_correlations_are_of_means_over_seeds():
    generator = np.random.default_rng(7)
    entropy, noise = np.cumsum(generator.normal(size=11)), generator.normal(size=(3, 11))
    a = 0.2 + 0.01 * entropy + 0.002 * noise
    rows = [
        run(measure, number, 50 * (place + 1), seed)
        for seed in range(3)
        for place in range(11)
        for measure, number in (
            ("A", a[seed, place]),
            ("F", 0.3 - a[seed, place]),
            ("knowledge entropy", entropy[place]),
        )
    ]
    found = found_in(acquisition=rows)
    expected = np.corrcoef(a.mean(axis=0), entropy)[0, 1]
    for name, sign in (("acquisition", 1), ("forgetting", -1)):
        one = found[f"kim-footnote-11-{name}"]
        assert outcome(one) == ("direction only", pytest.approx(sign * expected))
    few = found_in(acquisition=[row for row in rows if row["step"] < 400])
    assert "8 are needed" in few["kim-footnote-11-acquisition"].why


def test_encounters_are_compared_with_what_was_told():
    def met(measure, number, **changes):
        return [run(measure, number + 0.01 * i, 100, i, cluster="one", **changes) for i in range(3)]

    rows = [
        *met("rise", 0.5),
        *met("effectivity", 0.4),
        *met("effectivity", 0.9, parameters=9_000_000_000, trajectory="larger"),
        *met("slope", -0.2),
        *met("slope", -0.1, batch_size=512),
        *met("slope", -0.3, exposure="duplication"),
        *met("slope", -0.1, exposure="paraphrase"),
        *met("net gain", 0.6, spacing="within", interval=5),
        *met("net gain", 0.1, spacing="beyond", interval=50),
    ]
    found = found_in(acquisition=rows)
    names = ("effectivity", "size", "retainability", "duplication", "batch-size", "threshold")
    expected = (0.51, 0.5, -0.14, -0.2, 0.1, -0.5)
    for name, change in zip(names, expected, strict=True):
        assert outcome(found[f"chang-{name}"]) == ("direction only", pytest.approx(change))


def test_an_entropy_matches_where_the_whole_curve_is_in_the_range():
    name, steps = "kim-figure-2-1b", {1: 150.0, 20: 143.95, 300: 143.8, 738: 143.7}

    def found(numbers, **changes):
        return found_in(PAPER_SETTINGS, pretraining=curve(numbers, **changes))

    # Step 1 of 738 is younger than any checkpoint that the paper shows.
    inside = found(steps, corpus="Dolma, first batch")
    assert outcome(inside[name]) == ("match", pytest.approx(-0.25))
    assert inside[name].measured.rows == "Dolma, first batch, steps 20 to 738"
    assert inside["kim-figure-2-7b"].agreement == "direction only"
    assert inside["kim-figure-6"].why.startswith("the published number is no target")
    outside = found(steps | {300: 143.2}, corpus="Dolma, first batch")[name]
    assert (outside.agreement, outside.measured.value) == ("direction only", pytest.approx(143.201))
    assert found({20: 143.7, 738: 143.9})[name].agreement == "disagrees"
    assert found({738: 143.7})[name].why.endswith("a change needs two")
    assert found({20: 3.0, 738: 2.0})["kim-figure-7-pubmed"].why.endswith("over new text")


def test_of_several_curves_and_corpora_one_is_chosen():
    falls = {20: 3.0, 738: 2.5}
    found = found_in(
        pretraining=[
            *curve({20: 3.0, 738: 2.0}, corpus="general-train"),
            *curve(falls),
            *curve({20: 3.0, 300: 2.9, 738: 3.5}, corpus="biomedical-heldout"),
            *curve({20: 8.95, 738: 8.9}, layer=0),
            *curve({20: 8.95, 738: 8.96}, layer=1),
            *curve({20: 8.9, 738: 8.5}, measure="max(c, 0)"),
            *curve({20: 8.9, 738: 8.8}, measure="|max(gate, 0) · up|"),
        ]
    )
    # The first by name; the text's own kind; the layer and the variant that falls least.
    assert outcome(found["kim-figure-7-c4"]) == ("direction only", pytest.approx(-0.5))
    assert outcome(found["kim-figure-7-pubmed"]) == ("disagrees", pytest.approx(0.5))
    assert outcome(found["kim-figure-8a"]) == ("disagrees", pytest.approx(0.01))
    assert outcome(found["kim-figure-9"]) == ("direction only", pytest.approx(-0.1))
    assert found["kim-figure-3-attention"].measured is None


def test_means_stand_for_any_sets_of_their_kind_and_cells_for_their_own():
    rows = facts({"none": 0.2, "both": 0.7})
    rows += facts({"none": 0.6}, later="gsm8k", later_kind="non-factoid")
    found = found_in(memorization=rows)
    assert outcome(found[MEAN]) == ("direction only", pytest.approx(50))
    assert "later" in found[MEAN].unmet
    assert found[LAMA].why == "no results of KVR at stage A, two stages with LAMA later"
    popqa = found["chen-table-2-PopQA-both-LAMA-accuracy"]
    assert popqa.why == "no results of PopQA at stage A, two stages"
    other = "chen-table-2-KVR-{}-other-mean-accuracy".format
    assert found[other("both")].why.startswith("no rows of: random")
    assert found[other("none")].why.endswith("the published change has no direction")
    plain = found["chen-table-2-KVR-none-factoid-mean-accuracy"]
    assert outcome(plain) == ("direction only", pytest.approx(-40))


def test_replay_is_compared_with_none_and_mixes_with_replay():
    again = {"replay": "items", "replay_ratio": 0.1}
    rows = [*facts({"none": 0.2, "both": 0.9}), *facts({"none": 0.5}, **again)]
    rows += facts({"none": 0.99}, replay="self", replay_ratio=0.1)
    rows += facts({"none": 0.98}, equal="steps")
    rows += [row | {"later": "lama"} for row in rows]
    found = found_in(memorization=rows)
    cell = "chen-table-4-KVR-{}-LAMA-accuracy".format
    assert outcome(found[cell("0.1")]) == ("direction only", pytest.approx(30))
    assert found[cell("0")].measured.value == pytest.approx(20), "no equal steps, no own replay"
    assert found[cell("0.05")].why == "no rows of: 5 % replay"
    assert outcome(found["chen-headline-replay"]) == ("direction only", pytest.approx(30))
    assert outcome(found["chen-headline-mixes"]) == ("direction only", pytest.approx(40))


def test_amounts_familiar_facts_and_three_stages():
    rows = facts({"none": 0.2, "both": 0.6})
    other = [row | {"mix_ratio": 8.0, "value": 0.9} for row in rows if row["mix_first"]]
    one = found_in(memorization=[*rows, *other])[MEAN]
    assert one.measured.value == pytest.approx(60), "of equally frequent ones the smaller"
    more = [row | {"seed": row["seed"] + 3} for row in other]
    one = found_in(memorization=[*rows, *other, *more])[MEAN]
    assert one.measured.value == pytest.approx(90)
    assert "mixing 8 items of 50 words, published 2 items of 50 words" in one.why
    rows = facts({"none": 0.2, "generic-later": 0.6}, familiar=True, first="popqa", later="lama")
    rows += facts({"none": 0.4}, stages=3, moment="after C", later="lama+webquestions")
    found = found_in(PAPER_SETTINGS, memorization=rows)
    same = found["chen-table-5-PopQA-knowledge-pile-LAMA-accuracy"]
    assert (outcome(same), same.unmet) == (("direction only", pytest.approx(40)), ())
    assert found["chen-table-5-PopQA-arxiv-LAMA-accuracy"].unmet == ("mix later",)
    assert found["chen-three-stages-none"].measured.value == pytest.approx(40)
    assert found["chen-table-2-PopQA-none-LAMA-accuracy"].measured is None


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
    out = tmp_path / "out"
    verify_command([sweep.parent], out)
    line = "Of 617 published numbers 0 match, 3 hold in direction only, 1 disagree, "
    assert line in " ".join(capsys.readouterr().out.split())
    document = (out / "verification.md").read_text().replace(MINUS, "-")
    assert document.splitlines()[2].startswith(line)
    cells = "| Figure 2 | knowledge entropy: OLMo-1B, Dolma, first batch | 143.6 to 144 nats; falls"
    assert cells in document
    assert "8 nats; change -0.5 | direction only | both fall from the first checkpoint" in document
    assert "relu-variant" not in document
    assert str(tmp_path) not in document
    table = pd.read_csv(out / "verification.csv").set_index("number")
    one = table.loc["kim-figure-3-attention"]
    assert (one["ours"], one["change"], one["verdict"]) == (4.0, 2.0, "disagrees")
    assert (one["published_low"], one["published_high"]) == (40, 70)
    assert one["differs_in"] == "model, corpus"
    stored = json.loads((out / "verification.json").read_text())
    assert sum(stored["counts"].values()) == len(stored["numbers"]) == 617
    assert stored["counts"]["disagrees"] == (table["verdict"] == "disagrees").sum()
    assert stored["headline"] in document
    verify_command([sweep], out)


def test_bad_folders_and_tables_are_refused_in_a_line(sweep, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder; give a run"):
        verify_command([tmp_path / "nowhere"], None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        verify_command([sweep], tmp_path / "file")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "verification.md").write_text("mine")
    with pytest.raises(ValueError, match="of another origin"):
        verify_command([sweep], tmp_path / "taken")
    assert (tmp_path / "taken" / "verification.md").read_text() == "mine"
    with pytest.raises(ValueError, match="differ in their value only; give each once"):
        found_in(acquisition=2 * runs({118: 0.1, 738: 0.1}))


@pytest.fixture
def results(tmp_path):
    """Manifests of the papers' own settings, of one run after another."""

    def manifest(name, config, changes):
        folder = tmp_path / name
        folder.mkdir()
        written = {"command": name, "configuration": as_json(config) | changes, "inputs": {}}
        (folder / "manifest.json").write_text(json.dumps(written))
        return folder

    def of(*changes, ckl="paper-1b", remix="paper-llama3-8b"):
        given = {"corpus": "texts/pubmed.jsonl", "knowledge": ["fictional.json"]}
        given |= {"probe_reduction": "padded_mean"}
        start = len(list(tmp_path.iterdir()))
        ckl_runs = tuple(
            manifest(f"ckl-{start + i}", CKL_RECIPES[ckl](), given | change)
            for i, change in enumerate(changes or ({},))
        )
        return Results(
            ckl_runs=ckl_runs,
            remix_runs=(manifest(f"remix-{start}", REMIX_RECIPES[remix](), {}),),
        )

    return of


def test_manifests_of_the_papers_meet_the_published_conditions(results):
    found = settings_of_results(results())
    expected = {**PAPER_SETTINGS["acquisition"]}
    del expected["familiar corpus"]
    assert found[Table.ACQUISITION] == expected
    assert found[Table.MEMORIZATION] == PAPER_SETTINGS["memorization"]
    three = settings_of_results(results(ckl="three-epochs", remix="paper-mistral-7b"))
    assert three[Table.ACQUISITION]["corpus rows"] == "204800 of 1024"
    assert three[Table.MEMORIZATION]["model"] == "Mistral-7B-v0.3"
    other = {"corpus": "general-train", "knowledge": ["generated"], "task_limit": 16}
    other |= {"probe_reduction": "token_mean"}
    assert settings_of_results(results(other))[Table.ACQUISITION] == {
        "familiar corpus": "general-train",
        "corpus rows": "204800 of 1024",
        "knowledge": "generated knowledge, 70 paraphrased and 60 once",
        "metric of tasks": "6 tasks, 16 questions each",
        "metric of knowledge": "token_mean",
    }
    # What results do not agree in is said of none.
    assert settings_of_results(results({}, other))[Table.ACQUISITION] == {
        "new corpus": "PubMed",
        "familiar corpus": "general-train",
        "corpus rows": "204800 of 1024",
    }


def test_names_of_results_are_those_of_the_papers():
    names = ("meta-llama/Meta-Llama-3-8B", "allenai/OLMo-7B-hf", "/home/me/runs/tiny")
    assert [published_name("model", name) for name in names] == ["Llama-3-8B", "OLMo-7B", "tiny"]
    names = ("data/C4.jsonl", "data/c4-like.jsonl")
    assert [published_name("corpus", name) for name in names] == ["C4", "c4-like.jsonl"]
    names = ("PubMed", "biomedical-train", "Dolma", "general")
    assert [novelty_of(name) for name in names] == ["new", "new", "familiar", "familiar"]
