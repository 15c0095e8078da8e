"""Chains of `training.remix` that take a second or two, on a model and texts made up here."""


def remix_arguments(texts, model, out, *extra):
    """Two stages of 7 and 5 key-value pairs, 3 and 2 epochs in batches of 3."""
    return [
        *("--recipe", "smoke", "--out", str(out), "--model", str(model), "--items", "7", "5"),
        *("--epochs", "3", "2", "--batch-size", "3", "--stop", "epochs", "--recall-every", "1"),
        *("--gradient-every", "2", "--gradient-items", "3", "--row-length", "43"),
        *("--mix-corpus", str(texts / "familiar.jsonl"), "--mix-ratio", "1.5"),
        *("--mix-words", "5", "--relearning-steps", "2", "--relearning-items", "3"),
        *("--relearning-never-taught", "2"),
        *("--evaluation-corpora", str(texts / "new.jsonl"), "--evaluation-tokens", "301"),
        *("--entropy-tokens", "199", "--coefficient-tokens", "199"),
        *("--coefficient-corpus", str(texts / "familiar.jsonl"), *extra),
    ]
