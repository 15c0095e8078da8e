"""Record what ai2-olmo-eval's own code makes of the six tasks, for a test to compare with.

It runs in an environment of its own, since that package pins older libraries than ours:

    python -m venv own && own/bin/pip install ai2-olmo-eval==0.9.0 torch transformers
    own/bin/python tests/reference/record_downstream.py MODEL_FOLDER tests/training/olmo_eval_scores.json

MODEL_FOLDER is what `probes.assets.fetch("smollm2-135m-instruct-q4")` returns. Of every task it
records a hash of the samples of every question, or of every n-th where there are many (token ids of
context and continuation, length in characters, label), and, for five questions spread over it, the
score of each choice as `ICLMetric` keeps it with the leading space left out of the length: the sum
of log-probabilities, per character where the metric is `len_norm`.

Release 0.9.0 fills `len_norm_v1` of `compute()` from the scores with that space (a slip: its v1 and
v2 are equal), so the scores themselves are recorded and not that share.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from olmo_eval import HFTokenizer, ICLMetric, build_task
from transformers import AutoModelForCausalLM

TASKS = ("piqa", "hellaswag", "winogrande", "openbook_qa", "sciq", "arc_easy")
QUESTIONS = 5
HASHED = 500


def samples_hash(samples):
    """SHA-256 of everything that decides a score."""
    digest = hashlib.sha256()
    for sample in samples:
        line = [
            *(sample[name] for name in ("doc_id", "cont_id", "label_id")),
            sample["cont_str_len_no_leading_space"],
            *(list(sample[name]) for name in ("ctx", "continuation")),
        ]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def scored(task, metric_type, model, documents):
    """The scores of the choices of some questions, from the package's batches and metric."""
    metric = ICLMetric(metric_type=metric_type)
    metric.reset()
    for document in documents:
        rows = [sample for sample in task if sample["doc_id"] == document]
        batch = task.collate_fn(rows)
        with torch.no_grad():
            metric.update(batch, model(batch["input_ids"]).logits)
    found = {document: [] for document in documents}
    for document, _, score in metric.loglikelihoods_no_leading_space:
        found[document].append(score)
    return found


def main(folder, out):
    torch.set_num_threads(1)
    tokenizer = HFTokenizer(str(Path(folder) / "tokenizer.json"), pad_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    recorded = {}
    for name in TASKS:
        task = build_task(name, tokenizer, model_ctx_len=2048)
        count = task[len(task) - 1]["doc_id"] + 1
        documents = [round((i + 0.5) * count / QUESTIONS) for i in range(QUESTIONS)]
        recorded[name] = {
            "metric": task.metric_type,
            "questions": count,
            "hashed_every": (every := -(-count // HASHED)),
            "samples_sha256": samples_hash(s for s in task if s["doc_id"] % every == 0),
            "labels": {d: next(s["label_id"] for s in task if s["doc_id"] == d) for d in documents},
            "scores": scored(task, task.metric_type, model, documents),
        }
        print(name, count, recorded[name]["scores"])
    Path(out).write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
