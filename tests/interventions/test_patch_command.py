"""`python -m interventions.patch`, through `main(argv)`: the checkpoint, the table, refusals."""

import json
import re
from math import log

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import interventions.patch_run as patch_run
import probes
from interventions import AttentionTemperature, Resuscitation, applied
from interventions.choices import ResuscitationSite
from interventions.patch import main
from interventions.patch_run import damage
from probes import load_model
from probes.perplexity import measure_perplexity
from tests.models import tiny_hf_model, tiny_tokenizer, tokens

SMALL = ["--sequence-length", "13", "--batch-size", "3"]
USUAL = ["--resuscitation-ratio", "0.5", "--resuscitation-factor", "2"]
WARM = ["--attention-temperature", "1.5"]


def words(shift, count=23):
    return " ".join(f"w{(7 * i + shift * i * i + shift) % 97}" for i in range(count))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with tiny models and corpora."""
    folder = tmp_path_factory.mktemp("inputs")
    for family in ("llama", "gpt2", "gemma2"):
        tiny_hf_model(family).save_pretrained(folder / family)
        tiny_tokenizer().save_pretrained(folder / family)
    lines = [json.dumps({"text": words(shift)}) for shift in range(17)]
    (folder / "plants.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"text": words(shift)}) for shift in range(20, 23)]
    (folder / "stars.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "alone.txt").write_text(words(1), encoding="utf-8")
    return folder


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on a tiny model; exit code."""

    def call(*extra, model="llama", corpus="plants.jsonl", out=True):
        given = ["--model", str(inputs / model), *SMALL]
        given += [] if corpus is None else ["--corpus", str(inputs / corpus)]
        given += ["--out", str(tmp_path / "out")] if out else []
        return main([*given, *extra])

    return call


def record(tmp_path):
    return json.loads((tmp_path / "out" / "edits.json").read_text())


def plain(directory):
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def parts(inputs, model):
    """The batches that the command measures and tests on, read by hand."""
    texts = list(probes.load_corpus(str(inputs / "plants.jsonl")).documents())
    held_out = texts[1::5]
    rest = [text for text in texts if text not in held_out]
    sizes = {"sequence_length": 13, "batch_size": 3}
    return (
        list(probes.token_batches(rest, model.tokenizer, **sizes)),
        list(probes.token_batches(held_out, model.tokenizer, **sizes)),
    )


@pytest.mark.parametrize("site", ["up", "down", "preserving", "gate"])
def test_numbers_are_those_of_the_library_and_of_the_saved_checkpoint(site, run, inputs, tmp_path):
    assert run(*USUAL, "--site", site) == 0
    measured = record(tmp_path)["measured"]
    model, saved = (probes.load_model(str(p)) for p in (inputs / "llama", tmp_path / "out"))
    rest, held_out = parts(inputs, model)
    for name, found in (("before", model), ("after", saved)):
        entropies = probes.measure_entropy(found, rest)
        # The same code on the same weights and batches: the same bits.
        assert measured[name] == {
            "knowledge_entropy": entropies.knowledge.total,
            "contribution_entropy": entropies.contribution.total,
            "attention_entropy": entropies.attention.total,
            "next_token_entropy": entropies.next_token.mean,
            "loss": measure_perplexity(found, rest).mean_loss,
            "held_out_loss": measure_perplexity(found, held_out).mean_loss,
            "held_out_perplexity": measure_perplexity(found, held_out).perplexity,
        }
    edit = Resuscitation(probes.measure_entropy(model, rest), 0.5, 2.0, site)
    predicted = edit.predicted_entropy()
    expected = {} if predicted is None else {
        "knowledge_entropy": predicted.total, "contribution_entropy": predicted.contribution_total
    }  # fmt: skip
    assert measured["predicted"] == expected
    assert record(tmp_path)["model"]["weights_sha256_before"] == model.content_hash()
    described = record(tmp_path)["edits"]
    assert described == json.loads(json.dumps([edit.describe()]))
    assert measured["texts"]["held_out_documents"] == 4
    if site == "preserving":
        # float32 through 3 layers: what it computes stays; the plain entropy is as predicted.
        for name in ("contribution_entropy", "attention_entropy", "loss", "held_out_loss"):
            assert measured["after"][name] == pytest.approx(measured["before"][name], rel=1e-5)
        for name in ("knowledge_entropy", "contribution_entropy"):
            assert measured["after"][name] == pytest.approx(expected[name], rel=1e-5)
        moved = measured["after"]["knowledge_entropy"] - measured["before"]["knowledge_entropy"]
        assert abs(moved) > 0.01


def test_the_terminal_shows_both_entropies_perplexity_rows_and_warnings(run, tmp_path, capsys):
    assert run(*USUAL, *WARM, "--site", "preserving") == 0
    out, measured = capsys.readouterr().out, record(tmp_path)["measured"]
    rows = {re.split(r"  +", line.strip())[0]: line for line in out.splitlines()}
    for label, key in (
        ("knowledge entropy, |c|", "knowledge_entropy"),
        ("by contribution, |c| · ‖v‖", "contribution_entropy"),
    ):
        cells = [f"{measured[c][key]:,.4f}" for c in ("before", "predicted", "after")]
        assert re.findall(r"\d+\.\d{4}", rows[label]) == cells
    line = rows["perplexity on held-out text"]
    cells = [measured[column]["held_out_perplexity"] for column in ("before", "after")]
    assert re.findall(r"[\d,]+\.\d\d", line) == [f"{cell:,.2f}" for cell in cells]
    assert (
        "resuscitation at preserving, ratio 0.5, factor 2; attention temperature 1.5"
        in " ".join(out.split())
    )
    joined = " ".join(out.split())
    # 15 of 29 neurons are at or below the median, in 3 layers; 42 queries in each.
    assert "model.layers.*.mlp.up_proj.weight: 45 of 87 rows changed in 3 tensors" in joined
    assert "model.layers.*.self_attn.q_proj.weight: 126 of 126 rows changed" in joined
    assert "in 3 tensors; norm of the change 0.333 times the tensor's" in joined
    assert "Predicted is what the resuscitation does alone." in joined
    assert "without changing what the model computes" in joined
    assert "a learning rate of its own for each row" in joined
    assert out.rstrip().endswith(f"checkpoint: {tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("worse", "site", "warning"),
    [
        (log(30.0), "up", r"text is 30\.0 times what it was; --site preserving leaves"),
        (log(2.0), "down", r"text is 2\.0 times what it was\.$"),
        (812.0, "up", r"text is e\^812 times"),
        (0.69, "up", None),
    ],
)
def test_a_damaged_model_is_called_one(worse, site, warning):
    lines = list(damage(worse, ResuscitationSite(site)))
    assert [bool(re.search(warning, line)) for line in lines] == [True] * (warning is not None)


def test_temperature_alone(run, inputs, tmp_path, capsys):
    assert run(*WARM) == 0
    assert "before, tokens" in capsys.readouterr().err
    found = record(tmp_path)
    assert found["measured"]["predicted"] == {}
    assert (
        found["measured"]["after"]["attention_entropy"]
        > (found["measured"]["before"]["attention_entropy"])
    )
    model, ids = load_model(str(inputs / "llama")), tokens(2, 11)
    with torch.no_grad(), applied(model, AttentionTemperature(1.5)):
        hooked = model(ids)
    # Scores over T against queries over T, in float32.
    torch.testing.assert_close(plain(tmp_path / "out")(ids).logits, hooked, rtol=1e-4, atol=1e-4)


def test_a_dry_run_says_the_same_and_writes_nothing(run, tmp_path, capsys):
    assert run(*USUAL) == 0
    wet = capsys.readouterr().out
    assert run(*USUAL, "--dry-run", out=False) == 0
    dry = capsys.readouterr().out
    assert dry.splitlines()[:-1] == wet.splitlines()[:-1]
    assert dry.endswith("dry run: nothing was written\n")
    (tmp_path / "out" / "mine.txt").write_text("")
    assert run(*USUAL, "--dry-run") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_target_entropy_is_reached_as_predicted(run, tmp_path):
    assert run("--resuscitation-ratio", "0.5", "--resuscitation-factor", "1") == 0
    reachable = record(tmp_path)["measured"]["predicted"]["knowledge_entropy"]
    before = record(tmp_path)["measured"]["before"]["knowledge_entropy"]
    target = before + 0.8 * (reachable - before)
    extra = ("--target-entropy", str(target), "--site", "preserving", "--overwrite")
    assert run("--resuscitation-ratio", "0.5", *extra) == 0
    found = record(tmp_path)
    # Solved by halves to the last digits of a factor; then float32 in the measured one.
    assert found["measured"]["predicted"]["knowledge_entropy"] == pytest.approx(target, rel=1e-9)
    assert found["measured"]["after"]["knowledge_entropy"] == pytest.approx(target, rel=1e-5)
    assert found["edits"][0]["factor"] < 1


def test_sequential_ends_at_factor_times_the_mean_in_every_layer(run, inputs, tmp_path):
    assert run(*USUAL, "--sequential") == 0
    found = record(tmp_path)
    assert found["edits"][0]["sequential"] is True
    saved = probes.load_model(str(tmp_path / "out"))
    means = probes.measure_entropy(saved, parts(inputs, saved)[0]).mean_coefficients
    changed = {change["parameter"]: change["rows_changed"] for change in found["changes"]}
    for layer, row in enumerate(means):
        count = changed[f"model.layers.{layer}.mlp.up_proj.weight"]
        assert count >= 15
        # That so many neurons have one mean coefficient is no chance; they have it to float32
        # rounding, in every layer, which without `sequential` the first alone has.
        assert _narrowest(row, count) / float(row.mean()) < 1e-5
    assert run(*USUAL, "--overwrite") == 0
    saved = probes.load_model(str(tmp_path / "out"))
    means = probes.measure_entropy(saved, parts(inputs, saved)[0]).mean_coefficients
    assert _narrowest(means[0], 15) / float(means[0].mean()) < 1e-5
    assert _narrowest(means[2], 15) / float(means[2].mean()) > 0.01


def _narrowest(row, count):
    """The smallest span that so many of the values lie in."""
    ordered = row.sort().values
    return float((ordered[count - 1 :] - ordered[: len(ordered) - count + 1]).min())


def test_coefficients_from_a_saved_result(run, inputs, tmp_path, capsys):
    model = probes.load_model(str(inputs / "llama"))
    result = probes.measure_entropy(model, parts(inputs, model)[0])
    result.save(tmp_path / "entropy")
    extra = ("--coefficients", str(tmp_path / "entropy"))
    assert run(*USUAL, *extra, corpus=None) == 0
    without, table = record(tmp_path), capsys.readouterr().out
    assert without["measured"]["before"]["knowledge_entropy"] == result.knowledge.total
    assert without["measured"]["after"] == {}
    assert "held-out" not in table
    assert run(*USUAL, *extra, "--overwrite") == 0
    found = record(tmp_path)
    assert found["edits"] == without["edits"]
    assert found["measured"]["after"]["held_out_perplexity"] > 1
    assert run(*USUAL, *extra, "--overwrite", model="gpt2", corpus=None) == 2
    assert "'down'" in capsys.readouterr().err
    assert run(*USUAL, *extra, "--overwrite", "--site", "down", model="gpt2", corpus=None) == 2
    assert "coefficients of another model" in capsys.readouterr().err


def test_held_out_corpus_layers_and_other_settings(run, tmp_path, inputs):
    extra = ("--layers", "0", "2", "--selection", "exact", "--max-multiplier", "3")
    held_out = ("--held-out", str(inputs / "stars.jsonl"), "--held-out-tokens", "40")
    shards = ("--max-shard-size", "9KB", "--dtype", "float64", "--layout", "document")
    assert run(*USUAL, *extra, *held_out, *shards) == 0
    found = record(tmp_path)
    assert found["edits"][0]["layers"] == [0, 2]
    assert found["edits"][0]["selection"] == "exact"
    assert found["model"]["dtype"] == "float64"
    texts = found["measured"]["texts"]
    # Rows of a document each, cut after 13 tokens: 3 + 3 + 3 and 1 more of the fourth.
    assert (texts["documents"], texts["tokens"]) == (17, 17 * 13)
    assert (texts["held_out_documents"], texts["held_out_predicted_tokens"]) == (3, 39 - 3)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    assert [change["rows_changed"] for change in found["changes"]] == [14, 14]


def test_the_official_arithmetic(run, tmp_path):
    assert run(*USUAL, "--compat", "official") == 0
    assert record(tmp_path)["edits"][0]["compat"] == "official"


REFUSED = {
    "nothing to do": ([], "there is nothing to do; give --resuscitation-ratio and"),
    "no factor": (["--resuscitation-ratio", "0.5"], "--resuscitation-factor or --target-entropy"),
    "no ratio": (["--resuscitation-factor", "2"], "--resuscitation-ratio says which neurons"),
    "both": ([*USUAL, "--target-entropy", "9"], "leave one of the two out"),
    "ratio": (
        ["--resuscitation-ratio", "1.5", "--resuscitation-factor", "2"],
        "ratio is a share above 0, to 1, found 1.5",
    ),
    "factor": (
        ["--resuscitation-ratio", "0.5", "--resuscitation-factor", "0"],
        "factor must be a finite number above 0, found 0.0",
    ),
    "temperature": (["--attention-temperature", "-1"], "finite and above 0, found -1.0"),
    "site": ([*USUAL, "--site", "upp"], "up"),
    "not solvable": (
        ["--resuscitation-ratio", "0.5", "--target-entropy", "9", "--site", "down"],
        "target_entropy has no closed form at site 'down'",
    ),
    "too much": (
        ["--resuscitation-ratio", "0.5", "--target-entropy", "99"],
        "cannot be reached: the highest is",
    ),
    "layer": ([*USUAL, "--layers", "3"], "layer 3 does not exist"),
    "negative layer": ([*USUAL, "--layers", "-1"], "layer -1 does not exist"),
    "sequential": ([*WARM, "--sequential"], "--sequential is for resuscitation"),
    "sequential target": (
        ["--resuscitation-ratio", "0.5", "--target-entropy", "9", "--sequential"],
        "leave out --coefficients, --target-entropy and --compat",
    ),
    "coefficients": ([*WARM, "--coefficients", "x"], "--coefficients is for resuscitation"),
    "idle site": ([*WARM, "--site", "down"], "--site is for resuscitation; give"),
    "idle cap": ([*WARM, "--max-multiplier", "3"], "--max-multiplier is for resuscitation"),
    "idle compat": ([*WARM, "--compat", "official"], "--compat is for resuscitation"),
    "temperature of 1": (["--attention-temperature", "1"], "temperature of 1 changes nothing"),
    "no result": ([*USUAL, "--coefficients", "no-such"], "holds no readable entropy result"),
    "shards": ([*WARM, "--max-shard-size", "5 apples"], "max_shard_size must be a number"),
    "flag": ([*WARM, "--temprature", "2"], "did you mean --"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(case, run, tmp_path, capsys):
    extra, message = REFUSED[case]
    assert run(*extra) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_a_model_does_not_have_is_refused_before_it_is_measured(
    run, inputs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(patch_run, "measure_effects", None)
    assert run(*USUAL, model="gpt2") == 2
    assert "up_preactivation" in capsys.readouterr().err
    assert run(*USUAL, "--site", "preserving", model="gpt2") == 2
    assert "no gate" in capsys.readouterr().err
    assert run(*WARM, model="gemma2") == 2
    assert "gemma2" in capsys.readouterr().err
    assert run(*WARM, corpus="alone.txt") == 2
    assert "has one document only" in capsys.readouterr().err
    assert run(*USUAL, corpus=None) == 2
    assert "give --corpus or --coefficients" in capsys.readouterr().err
    assert run(*WARM, out=False) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_mixtures_of_experts_are_refused_in_one_line(run, inputs, tmp_path, capsys):
    sizes = {"hidden_size": 8, "intermediate_size": 5, "num_hidden_layers": 1, "vocab_size": 101}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    config = transformers.MixtralConfig(**sizes, **heads)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(inputs / "experts")
    tiny_tokenizer().save_pretrained(inputs / "experts")
    assert run(*USUAL, model="experts") == 2
    err = capsys.readouterr().err
    assert next(x for x in err.splitlines() if "error:" in x).endswith("not supported")
    assert "is a mixture of experts" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_anything_is_loaded(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("years of work")
    assert run(*WARM, model="no-such-model", corpus="no-such-corpus") == 2
    assert "is not empty; give another folder" in capsys.readouterr().err
    assert run(*WARM, "--overwrite", model="no-such-model") == 2
    assert "also holds mine.txt" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").read_text() == "years of work"
