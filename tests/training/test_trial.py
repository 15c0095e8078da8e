"""What a run needs at its end is tried before its first step; all that does not fit is named."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

import training
import training.loop as loop
import training.runs.checkpoints as states
from tests.refusals import refused
from tests.training.ckl.test_command import ckl_arguments
from tests.training.loop_runs import (
    directory_of,
    model_of,
    rows_of,
    run,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from tests.training.remix.runs import remix_arguments
from tests.training.small_runs import pretrain_arguments
from training.settings import Misfits


def untouched(path):
    """Nothing was trained, and nothing is left of the trial."""
    assert not step_records(path)
    assert not list((path / "checkpoints").iterdir())


def test_a_generation_configuration_that_cannot_be_saved(tmp_path):
    """A set is nothing that JSON holds."""
    model = model_of()
    model.hf_model.generation_config.odd = {1, 2}
    before = weights_of(model)
    with refused(r"cannot be saved: .*JSON"):
        run(tmp_path / "run", model)
    untouched(tmp_path / "run")
    assert same_bits(weights_of(model), before)


def test_one_that_transformers_would_not_save_is_written(tmp_path):
    """A temperature without sampling, which many published folders have."""
    model = model_of()
    model.hf_model.generation_config.temperature = 0.7
    _, result = run(tmp_path / "run", model)
    stored = json.loads((result.checkpoint / "generation_config.json").read_text())
    assert stored["temperature"] == 0.7


def test_a_tokenizer_that_cannot_be_saved(tmp_path, monkeypatch):
    model = model_of()

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", refuse)
    with pytest.raises(ValueError, match=r"trying a checkpoint in .* failed: Permission denied"):
        run(tmp_path / "run", model)
    untouched(tmp_path / "run")


def test_a_model_that_is_read_as_another(tmp_path, monkeypatch):
    """A buffer that the file holds, and that loading computes anew."""
    true = states.read_weights

    def other(kind, folder):
        return {
            name: tensor + (name == "model.norm.weight")
            for name, tensor in true(kind, folder).items()
        }

    monkeypatch.setattr(states, "read_weights", other)
    with pytest.raises(ValueError, match=r"read as another model: model.norm.weight and 0 more"):
        run(tmp_path / "run")
    untouched(tmp_path / "run")


def test_a_disk_without_room(tmp_path, monkeypatch):
    """Weights and two moments of each, in float32."""
    model = model_of()
    parameters = sum(p.numel() for p in model.hf_model.parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 12345))
    with pytest.raises(
        ValueError, match=rf"takes {12 * parameters:,} bytes, and .* has 12,345 left"
    ):
        run(tmp_path / "run", model)
    untouched(tmp_path / "run")


def test_a_trial_leaves_the_run_as_it_would_be(tmp_path, monkeypatch):
    """The same bits with dropout, which draws, as without the trial."""
    settings = settings_of(seed=3)
    tried, _ = run(tmp_path / "tried", model_of(dropout=0.3), settings=settings)
    monkeypatch.setattr(loop, "try_end", lambda *_: None)
    plain, _ = run(tmp_path / "plain", model_of(dropout=0.3), settings=settings)
    assert same_bits(weights_of(tried), weights_of(plain))
    records = [(tmp_path / name / "records.jsonl").read_text() for name in ("tried", "plain")]
    assert records[0] == records[1]


class Looker:
    """Looks at a list of items at some steps."""

    def __init__(self, *steps):
        self.steps = steps

    def due(self, step):
        return step in self.steps

    def observe(self, model, step):
        return []

    def items(self):
        return {"A": [{"identifier": "one"}]}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (training.ExactMatchReached("B"), "exact matches of 'B', and observers evaluate A; add"),
        (
            training.ExactMatchReached("A", patience=3),
            "3 evaluations of A in a row, and the run has 2; ",
        ),
        (training.LossBelow(1.0, source="A"), "loss of 'A', and the batches have no named sources"),
        (training.LossBelow(1.0, patience=12), "12 updates with a low loss, and the run has 11; "),
        (
            training.AllOf(training.LossBelow(1.0), training.ExactMatchReached("C")),
            "exact matches of 'C'",
        ),
    ],
)
def test_a_rule_that_waits_in_vain(rule, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        run(tmp_path / "run", observers=[Looker(0, 11)], stop=rule)
    untouched(tmp_path / "run")


def test_everything_is_named_at_once(tmp_path):
    model, settings = model_of(), settings_of()
    model.hf_model.generation_config.odd = {1, 2}
    source = rows_of(settings.batch_size, length=13)
    directory = directory_of(tmp_path / "run", settings, source)
    with pytest.raises(ValueError, match="2 things do not fit: ") as error:
        training.train(
            model, source, settings, directory, stop=training.ExactMatchReached("B"), progress=False
        )
    assert "(1) a rule waits for exact matches of 'B'" in str(error.value)
    assert "(2) " in str(error.value)
    assert "cannot be saved: " in str(error.value)


def test_refusals_within_refusals_are_told_once():
    inner, outer = Misfits(), Misfits()
    for line in ("one", "two"):
        with inner.noted():
            raise ValueError(line)
    with outer.noted():
        inner.refuse()
    with outer.noted():
        raise ValueError("two")
    with outer.noted():
        raise ValueError("three")
    with pytest.raises(
        ValueError, match=r"^3 things do not fit: \(1\) one; \(2\) two; \(3\) three$"
    ):
        outer.refuse()


def dry(main, argv, capsys):
    code = main([*argv, "--dry-run"])
    found = capsys.readouterr()
    return code, found.out, " ".join(found.err.split())


def test_a_dry_run_of_ckl_tries_the_real_start(texts, pretrained, tmp_path, capsys):
    from training.ckl import main

    out = tmp_path / "deep" / "run"
    code, printed, _ = dry(main, ckl_arguments(texts, pretrained, out), capsys)
    assert code == 0
    assert "tried, with a checkpoint read back: all fits" in printed
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_ckl_names_everything_and_the_least_that_fits(
    texts, pretrained, tmp_path, capsys
):
    from training.ckl import main

    wrong = [
        *("--row-length", "3", "--batch-size", "4", "--steps", "9", "--lags", "0", "2"),
        *("--tasks", "piqqa", "--evaluation-corpora", str(tmp_path / "none.jsonl")),
    ]
    code, printed, err = dry(
        main, ckl_arguments(texts, pretrained, tmp_path / "run", *wrong), capsys
    )
    assert code == 2
    assert "3 rounds, 3 steps apart" in printed, "the plan is there all the same"
    # Two passages in three wordings, and the first wording of four others, with their end tokens.
    tokenizer = AutoTokenizer.from_pretrained(pretrained / "checkpoints" / "step-000001")
    passages = json.loads((texts / "passages.json").read_text())
    met = [text for one in passages[:2] for text in (one["train_context"], *one["paraphrases"][:2])]
    met += [one["train_context"] for one in passages[2:6]]
    longest = max(len(tokenizer(text)["input_ids"]) for text in met) + 1
    # Rounds are in batches 1, 4 and 7, so a lag of 2 is after 10 updates.
    for line in (
        f"give rows of {longest} or more",
        "give lags of at most 1, or 10 steps or more",
        "piqqa",
        "none.jsonl",
    ):
        assert line in err, (line, err)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_pretraining(texts, tmp_path, capsys):
    from training.pretrain import main

    code, printed, _ = dry(main, pretrain_arguments(texts, tmp_path / "run"), capsys)
    assert (code, "all fits" in printed) == (0, True)
    wrong = ["--batch-size", "5000", "--tasks", "piqqa", "sciqq", "--row-length", "43"]
    code, _, err = dry(main, pretrain_arguments(texts, tmp_path / "run", *wrong), capsys)
    assert code == 2
    assert all(line in err for line in ("do not fill one batch of 5000", "'piqqa'", "'sciqq'"))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_remix_looks_at_later_stages_too(texts, pretrained, tmp_path, capsys):
    from training.remix import main

    code, printed, _ = dry(main, remix_arguments(texts, pretrained, tmp_path / "run"), capsys)
    assert (code, "all fits" in printed) == (0, True)
    wrong = ["--items", "7", "2", "--tasks", "piqqa", "--evaluation-corpora", "none.jsonl"]
    code, _, err = dry(main, remix_arguments(texts, pretrained, tmp_path / "run", *wrong), capsys)
    assert code == 2
    # Stage B has two items for batches of three.
    assert all(line in err for line in ("do not make a batch of 3", "piqqa", "none.jsonl"))
    assert not list(tmp_path.iterdir())


def test_settings_that_do_not_go_together_are_all_named(texts, pretrained, tmp_path, capsys):
    from training.ckl import main

    wrong = ["--steps", "5", "--passage-words", "0", "--control", "redo", "--learning-rate", "0"]
    code, _, err = dry(main, ckl_arguments(texts, pretrained, tmp_path / "run", *wrong), capsys)
    assert code == 2
    for line in (
        "--passage-words must be 1 or more, found 0",
        "more --steps, 8 at least",
        "a --control is one of a resuscitation",
        "learning_rate must be above 0",
    ):
        assert line in err, (line, err)


def lens_arguments(texts, pretrained, out, *extra):
    model = str(pretrained / "checkpoints" / "step-000001")
    return [
        *("--model", model, "--corpus", str(texts / "new.jsonl"), "--out", str(out)),
        *("--sequence-length", "29", "--steps", "3", "--held-out-tokens", "61", *extra),
    ]


def test_a_dry_run_of_a_tuned_lens(texts, pretrained, tmp_path, capsys):
    from training.tuned_lens import main

    code, printed, _ = dry(main, lens_arguments(texts, pretrained, tmp_path / "lens"), capsys)
    assert (code, "all fits" in printed) == (0, True)
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"text": "the"}))
    wrong = ["--held-out", str(short), "--validate-every", "5"]
    code, _, err = dry(main, lens_arguments(texts, pretrained, tmp_path / "lens", *wrong), capsys)
    assert code == 2
    assert "--validate-every 5 is never reached in 3 steps; give 3 at most" in err
    code, printed, _ = dry(main, ["--model", "some/model", "--corpus", "c", "--out", "o"], capsys)
    assert (code, "not tried: the model some/model" in printed) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["short.jsonl"]
