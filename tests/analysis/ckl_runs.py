"""Run directories of continual knowledge learning with planted scores, so that A, F, K and curves
are known by hand.

Thirteen passages, three probes each (one a kind): three met in paraphrase and two in duplication in
updates 10 and 20, five met once in update 20, three held out. Base scores of the passages that are
met are -6 on average. Each encounter adds `gain`, at once; after the last, the gain fades as
1 - 0.25 log10(t) (0.5 for passages met once). Held-out passages gain 0.1 at the first step.

Of the tasks, sciq has 40 questions with four choices, of which `right[0]` are answered right at the
start and `right[1]` later; piqa has 20 with two choices, 10 right throughout.
"""

from dataclasses import replace

import numpy as np

from analysis.arms import ckl_arms
from analysis.runs import read_run
from training.ckl_config import smoke
from training.runs.directory import RunDirectory, run_manifest
from training.runs.records import (
    EntropyRecord,
    InjectionRecord,
    NeuronRecord,
    PerplexityRecord,
    ScoresRecord,
    StepRecord,
    TaskRecord,
    as_line,
)

STEPS, INJECTED = 60, 20
MET, HELD_OUT, PROBES = 10, 3, 3
EXPOSURES = (*["paraphrase"] * 3, *["duplication"] * 2, *["once"] * 5, *["held_out"] * 3)
KINDS = ("memorization", "semantic", "compositional")
BASE = np.array([-6.5, -6.25, -6.0, -5.75, -5.5, -6.9, -6.4, -6.0, -5.6, -5.1, -7, -8, -9.0])
ENCOUNTERS = {9: [0, 1, 2, 3, 4], 19: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}


def config_of(*, seed=0, revision="step-000200", edit=None, **given):
    fields = {
        **{"steps": STEPS, "lags": (0, 10), "probe_every": 1, "paraphrase": 3, "duplication": 2},
        **{"once": 5, "held_out": 3, "injection_interval": 10, "injection_rounds": 2},
    }
    return replace(smoke(), seed=seed, revision=revision, **{**fields, **(edit or {}), **given})


UP = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}


def items():
    """The lists of items."""
    probes = [
        {"passage": passage, "probe": probe, "kind": KINDS[probe], "prompt": "p", "target": "t"}
        | {"exposure": EXPOSURES[passage]}
        for passage in range(MET + HELD_OUT)
        for probe in range(PROBES)
    ]
    cloze = [
        {"prompt": f"{subject} {n}", "target": " x", "subject": subject, "relation": "r"}
        | {"wording": ("seen", "unseen")[n], "alternatives": [" y", " z", " w"]}
        for subject in "abcdefg"
        for n in range(2)
    ]
    return {
        "knowledge": probes,
        "cloze": cloze,
        "sciq": choices(40, 4, (10, 4)),
        "piqa": choices(20, 2, (10, 4)),
    }


def choices(questions, count, characters):
    """The first choice is right, and longer than the others."""
    return [
        {"question": f"q{question}", "choice": choice, "right": choice == 0}
        | {"characters": characters[min(choice, 1)]}
        for question in range(questions)
        for choice in range(count)
    ]


def probe_scores(step, gain):
    """The planted score of every probe after a number of updates."""
    later = max(step - INJECTED, 1)
    gained = np.zeros(MET + HELD_OUT)
    if step > 9:
        gained[:5] = gain
    if step >= INJECTED:
        gained[:5] = 2 * gain * (1 - 0.25 * np.log10(later))
        gained[5:MET] = gain * (1 - 0.5 * np.log10(later))
    if step > 0:
        gained[MET:] = 0.1
    # A passage's probes lie about its score, so that their mean is the score.
    return ((BASE + gained)[:, None] + np.array([0.25, 0.0, -0.25])).reshape(-1).tolist()


def task_scores(questions, count, right, *, by_length=False):
    """Log-probabilities of choices such that so many questions are answered right."""
    found = []
    for question in range(questions):
        # Per character the right one is -1 and the others -2, or -3 and -2; otherwise as they are.
        best = (
            (-10.0 if question < right else -30.0) if by_length else -1.0 - 2 * (question >= right)
        )
        found += [best, *[-8.0 if by_length else -2.0] * (count - 1)]
    return found


def observed(step, *, gain, entropy, right, shift=0.0):
    """All records of a look."""

    later = step > 0
    lists = {
        "cloze": [-3.0 if later else -2.0] * 14,
        "sciq": task_scores(40, 4, right[later]),
        "piqa": task_scores(20, 2, 10, by_length=True),
    }
    scores = [score + shift for score in probe_scores(step, gain)]
    return [
        ScoresRecord(step, "knowledge", scores),
        *(ScoresRecord(step, name, values) for name, values in lists.items()),
        TaskRecord(step, "cloze", "acc", 0.25 if later else 0.5, "cloze"),
        TaskRecord(step, "sciq", "acc", right[later] / 40, "sciq"),
        TaskRecord(step, "piqa", "len_norm", 0.5, "piqa"),
        PerplexityRecord(step, "general-heldout", 3.0, 2.25 if later else 2.0, 101),
        EntropyRecord(
            step, "knowledge", entropy - later, [entropy, 0.0], [entropy - 1, entropy + 1]
        ),
        EntropyRecord(step, "next_token", 3.5, [], None),
        NeuronRecord(step, [0.25, 0.75], 0.025),
    ]


def make_run(
    folder,
    *,
    gain=1.0,
    entropy=20.0,
    right=(30, 20),
    start="ab",
    shift=0.0,
    unedited=False,
    done=True,
    **given,
):
    """Write a run; returns its folder.

    `shift` is added to all scores of probes from the start on; an `unedited` one has a baseline
    without it.
    """

    config = config_of(**given)
    manifest = run_manifest("training.ckl", "smoke", config, inputs(start * 32))
    directory = RunDirectory.create(folder, manifest)
    for name, rows in items().items():
        directory.write_items(name, rows)
    seen = {"gain": gain, "entropy": entropy, "right": right}
    if unedited:
        lines = [as_line(record) for record in observed(0, **seen)]
        (folder / "baseline.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for step in range(STEPS + 1):
        if step > 0:
            directory.append(StepRecord(step, 4.0, 1e-3, 1.0, 64))
        records = observed(step, shift=shift, **seen)
        for record in records if step in (0, 20, 30, 60) else records[:1]:
            directory.append(record)
        if step in ENCOUNTERS:
            directory.append(InjectionRecord(step, ENCOUNTERS[step], 17))
        directory.append_timing(step=step, seconds=0.5)
    if done:
        directory.finish({"steps": STEPS, "stop_reason": None, "checkpoint": "step-000060"})
    return folder


def inputs(sha256):
    """What a manifest says about texts and models."""
    host = {"corpus": "/home/someone/new.jsonl", "documents": 38, "rows": 55, "row_length": 43}
    return {
        "start_sha256": sha256,
        "data": {"host": {**host, "content_hash": "cd" * 32}},
        "knowledge": {"name": "generated", "passages": 13, "probes": 39, "sha256": "ef" * 32},
        "held_out": {"general-heldout": {"tokens": 101, "sha256": "01" * 32}},
    }


def arms_from(*folders):
    return ckl_arms([read_run(folder) for folder in folders])
