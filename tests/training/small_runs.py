"""Runs of the training commands that take a second or two, on texts made up here."""

import json
import random

from safetensors.torch import load_file, save_file

_WORDS = (
    *("the", "a", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "river", "stone"),
    *("house", "wind", "rain", "light", "night", "small", "tall", "green", "field", "morning"),
    *("walks", "quiet", "old", "bridge", "under"),
)


def write_texts(folder):
    """Two corpora and a file of passages; returns the folder."""
    draw = random.Random(7)
    for name, count in (("familiar", 211), ("new", 197)):
        lines = [
            json.dumps({"text": " ".join(draw.choices(_WORDS, k=23)), "body": f"{name} {i}"})
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "passages.json").write_text(json.dumps([_passage(i) for i in range(7)]))
    return folder


def _passage(index):
    name, colour = f"tower {index}", _WORDS[index]
    texts = [f"the {name} is {colour} {way}" for way in ("today", "now", "always", "again")]
    return {
        "train_context": texts[0],
        "paraphrases": texts[1:],
        "mem_input": [f"the {name} is"],
        "mem_target": [colour],
        "gen_input": [f"what is the {name} ? it is"],
        "gen_target": [colour],
        "hard_gen_input": [f"unlike the bridge the {name} is"],
        "hard_gen_target": [colour],
    }


def change_weights(checkpoint):
    """Write other weights into the folder of a model."""
    path = checkpoint / "model.safetensors"
    weights = {name: tensor * 1.25 for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def change_text(path):
    """Write another word into the first document of a corpus."""
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    row = json.loads(first)
    row["text"] = "elsewhere " + row["text"]
    path.write_text(f"{json.dumps(row)}\n{rest}", encoding="utf-8")


def pretrain_arguments(texts, out, *extra):
    """A model of 20,000 parameters, in 7 steps."""
    text = str(texts / "familiar.jsonl")
    return [
        *("--recipe", "tiny", "--out", str(out), "--corpus", text, "--held-out", text),
        *("--d-vocab", "307", "--d-model", "22", "--n-heads", "1", "--d-mlp", "37"),
        *("--n-layers", "3", "--positions", "1009", "--row-length", "43", "--batch-size", "5"),
        *("--steps", "7", "--checkpoint-every", "3", "--held-out-tokens", "301"),
        *("--entropy-tokens", "199", "--fact-documents", "53", "--fact-people", "5"),
        *("--fact-places", "3", *extra),
    ]


def ckl_arguments(texts, model, out, *extra):
    """Continual learning in 11 steps: three rounds of injections, the last in update 8."""
    return [
        *("--recipe", "smoke", "--out", str(out), "--model", str(model)),
        *("--corpus", str(texts / "new.jsonl"), "--row-length", "43", "--batch-size", "5"),
        *("--steps", "11", "--knowledge", str(texts / "passages.json")),
        *("--paraphrase", "2", "--duplication", "1", "--once", "3", "--held-out", "1"),
        *("--injection-interval", "3", "--injection-rounds", "3", "--injection-first", "1"),
        *("--probe-every", "2", "--evaluate-every", "5", "--lags", "0", "1", "--tasks"),
        *("--evaluation-corpora", str(texts / "familiar.jsonl"), "--evaluation-tokens", "301"),
        *("--entropy-tokens", "199", "--coefficient-tokens", "199"),
        *("--coefficient-corpus", str(texts / "familiar.jsonl"), *extra),
    ]
