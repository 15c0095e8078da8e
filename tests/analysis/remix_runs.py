"""Runs of continual memorization with planted records, so that what was kept is known by hand.

Stage A has 40 updates and 13 items, stage B 30 and 11; every tenth update is looked at. At the end
of stage A so many of its items are right as `learnt` says, after stage B the first `kept` of them
(and `extra` further ones); in between the number moves in a straight line. Log-probabilities are -8
where an item is wrong and -0.5 where it is right.

The loss of every batch is a mean over its sources in which the mix has the share 0.25. Gradients of
A and B, of norms 2 and 3, have the product -3, with a mix -2; those of A and M have +1, with
|M| = 1.
"""

import json
from dataclasses import replace

from analysis.arms import remix_arms
from analysis.runs import read_chain
from training.choices import NoMixControl, Replay
from training.remix import smoke
from training.runs.directory import RunDirectory, run_manifest
from training.runs.records import (
    EntropyRecord,
    GradientAlignmentRecord,
    NeuronRecord,
    PerplexityRecord,
    RecallRecord,
    StepRecord,
    WeightDriftRecord,
)

A_ITEMS, B_ITEMS, A_STEPS, B_STEPS, EVERY = 13, 11, 40, 30, 10
MIX_SHARE = 0.25
START_HASH = "ab" * 32


def config_of(**given):
    kinds = {"replay": Replay, "no_mix_control": NoMixControl}
    given |= {name: kind(given[name]) for name, kind in kinds.items() if name in given}
    fields = {"items": (A_ITEMS, B_ITEMS), "mix_ratio": (2.0,), "generation": False}
    return replace(smoke(), **{**fields, **given})


def rows(stage, count):
    """The items of a stage."""
    return [
        {"identifier": f"{stage}{n}", "prompt": f"key {stage}{n}?", "accepted": [f"v{n}"]}
        for n in range(count)
    ]


def right(count, number):
    """The first so many are right."""
    return [int(n < number) for n in range(count)]


def make_run(
    folder,
    *,
    learnt=12,
    kept=2,
    extra=0,
    b_right=9,
    familiar=None,
    status="rule fulfilled",
    spill=None,
    text=2.5,
    shared=None,
    start=START_HASH,
    done=True,
    written=False,
    gradients=True,
    **given,
):
    """Write a run; returns its folder. `shared`: the run whose stage A it goes on from."""
    config = config_of(from_stage_a=shared, **given)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(config, start)))
    middle = {"learnt": learnt, "kept": kept, "extra": extra, "b_right": b_right}
    looks = {"familiar": familiar, "text": text, "written": written, "gradients": gradients}
    if shared is None:
        write_stage(folder, config, "A", A_STEPS, start, **middle, **looks)
    write_stage(folder, config, "B", B_STEPS, start, **middle, **looks)
    if spill is not None:
        (folder / "relearning.json").write_text(json.dumps(relearned(spill)))
    if done:
        first = "stage-A" if shared is None else str((shared / "stage-A").resolve())
        outcomes = [outcome_of("A", A_STEPS, "rule fulfilled"), outcome_of("B", B_STEPS, status)]
        stages = [
            {**outcome, "folder": at}
            for outcome, at in zip(outcomes, (first, "stage-B"), strict=True)
        ]
        (folder / "done.json").write_text(json.dumps({"stages": stages}))
    return folder


def manifest_of(config, start, **inputs):
    told = {"licence": "none needed", "source": "/home/someone/x", "content_hash": "cd" * 32}
    data = {**told, "name": "kvr", "items": A_ITEMS}
    mixes = config.mix * (2 if len(config.mix) == 1 else 1)
    stages = {
        stage: {
            "data": data,
            **({"mix": {**told, "name": mix, "items": 26}} if mix != "none" else {}),
        }
        for stage, mix in zip("AB", mixes, strict=True)
    }
    inputs = {"start_sha256": start, "stages": stages, **inputs}
    return json.loads(json.dumps(run_manifest("training.remix", "smoke", config, inputs)))


def write_stage(folder, config, name, steps, start, *, text, gradients, **planted):
    stage = RunDirectory.create(folder / f"stage-{name}", manifest_of(config, start, stage=name))
    lists = {"A": A_ITEMS, "B": B_ITEMS} | ({"familiar": 7} if planted["familiar"] else {})
    for items, count in lists.items():
        stage.write_items(items, rows(items, count))
    mixes = config.mix * (2 if len(config.mix) == 1 else 1)
    mix = mixes["AB".index(name)]
    for step in range(steps + 1):
        if step:
            own, other = 4.0 / step, 3.0
            losses = {name: own} if mix == "none" else {name: own, mix: other}
            share = 0.0 if mix == "none" else MIX_SHARE
            loss = (1 - share) * own + share * other
            tokens = 64 if mix == "none" else 192
            stage.append(StepRecord(step, loss, 1e-3, 1.0, tokens, losses))
        if step % EVERY == 0:
            for record in recalls(name, step, steps, **planted):
                stage.append(record)
            if gradients:
                stage.append(gradient_record(step, mix != "none"))
        if step in (0, steps):
            moved = ("AB".index(name) + (step > 0)) / 2
            stage.append(PerplexityRecord(step, "general-heldout", 3.0, 2 + moved * (text - 2), 7))
            stage.append(EntropyRecord(step, "knowledge", 20 - moved, [10.0, 10 - moved], None))
            stage.append(NeuronRecord(step, [0.25, 0.75], 0.025))
            stage.append(drift_record(step))
        stage.append_timing(step=step, seconds=0.5)
    stage.finish({"steps": steps})


def outcome_of(name, steps, status):
    reason = "exact match of B of 1 (0.818 at last)" if status == "cap reached" else "as wanted"
    checkpoint = f"step-{steps:06d}"
    told = {"status": status, "steps": steps, "reason": reason, "checkpoint": checkpoint}
    return {"name": name, **told}


def recalls(name, step, steps, *, learnt, kept, extra, b_right, familiar, written):
    if name == "A":
        of_a, of_b = right(A_ITEMS, round(learnt * step / steps)), right(B_ITEMS, 0)
    else:
        now = round(learnt + (kept - learnt) * step / steps)
        of_a = right(A_ITEMS, now)
        if step == steps:
            of_a[A_ITEMS - extra :] = [1] * extra
        of_b = right(B_ITEMS, round(b_right * step / steps))
    found = {"A": of_a, "B": of_b}
    if familiar is not None:
        found["familiar"] = right(7, familiar if (name, step) == ("B", steps) else 6)
    records = [
        RecallRecord(step, items, correct, [-0.5 if c else -8.0 for c in correct])
        for items, correct in found.items()
    ]
    if written and step in (0, steps):
        records.append(RecallRecord(step, "A", right(A_ITEMS, sum(of_a)), None, "strict"))
    return records


def gradient_record(step, mixed):
    """Products of one part; norms 2 (A), 3 (B), 1 (M)."""

    samples = ["A", "B", *(["M"] if mixed else [])]
    products = {
        ("A", "A"): 4.0, ("A", "B"): -2.0 if mixed else -3.0, ("B", "B"): 9.0,
        ("A", "M"): 1.0, ("B", "M"): 0.5, ("M", "M"): 1.0,
    }  # fmt: skip
    pairs = [pair for pair in products if set(pair) <= set(samples)]
    starts = [(f"{name}@start",) * 2 for name in samples]
    return GradientAlignmentRecord(
        step,
        samples=samples,
        losses=[1.0 - 0.25 * mixed, 2.0, 3.0][: len(samples)],
        start_losses=[1.0, 2.0, 3.0][: len(samples)],
        tokens=[11] * len(samples),
        blocks=[5] * len(samples),
        parts=["0.mlp_out"],
        pairs=[list(pair) for pair in [*pairs, *starts]],
        products=[
            *([products[pair]] for pair in pairs),
            *([products[(name, name)]] for name in samples),
        ],
        errors=[0.1] * len(pairs) + [None] * len(starts),
    )


def drift_record(step):
    parts = ["embedding", "0.mlp_in", "0.mlp_out", "1.mlp_in", "1.mlp_out"]
    distance = [0.0, 3.0, 4.0, 5.0, 12.0] if step else [0.0] * 5
    starts = [7.0, 6.0, 8.0, 5.0, 12.0]
    relative = [d / s for d, s in zip(distance, starts, strict=True)]
    return WeightDriftRecord(step, parts, distance, relative, [0.1] * 5, starts, starts)


def relearned(spill):
    """Three items taught again, of the others `spill` come back, of seven never taught one."""
    again, never = [0.0, 1 / 3, 1.0], [0.0, 0.0, 1 / 7]
    other = [0.1, 0.1, 0.1 + spill]
    groups = {"again": again, "other": other, "never taught": never}
    return {
        "exact_match": groups,
        "log_prob": {name: [-8 + 7.5 * share for share in looks] for name, looks in groups.items()},
        "spill_over": spill - 1 / 7,
    }


def arms_from(*folders):
    return remix_arms([read_chain(folder) for folder in folders])


def study(out):
    """Two seeds each of: plain, random at A, both, replay; B shares stage A where it can."""
    folders = []
    for seed in range(2):
        plain = make_run(out / f"plain-{seed}", seed=seed, kept=1 + seed, spill=0.3)
        folders += [
            plain,
            make_run(out / f"replay-{seed}", seed=seed, kept=6, replay="items", shared=plain),
            make_run(
                *(out / f"both-{seed}",),
                **{"seed": seed, "kept": 10, "extra": 1, "mix": ("random", "generic")},
                **{"text": 3.5, "spill": 0.1},
            ),
        ]
    return folders
