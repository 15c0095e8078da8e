"""Results of every kind with planted numbers, so that what a page says is known by hand.

- Knowledge entropy at steps 0, 100, 300, 700, 1100 is 20, 14, 15, 16, 17 nats, plus 0.5 for seed 1.
- A of unedited runs is 0.5, 0.4, 0.3, 0.2, 0.1 at these ages, plus 0.02 for each seed after the
  first; F the same from 0.1 up.
- At step 1100 an edit at site up, ratio r and factor f adds 0.1 f r to A and to K, a control
  nothing; seed s adds 0.01 s to an edit alone, so that its differences have a spread.
- Of stage A 0.25 is right after B without a mix, 0.75 with both, 0.5 otherwise.
"""

import json

import pandas as pd

from analysis.claims.ledger import read_ledger
from analysis.edit_measures import MEASURES
from analysis.lens_tables import save_numbers
from analysis.measurements import COLUMNS, Table
from analysis.report.parts import Material
from analysis.result_folders import find_results
from tests.analysis import ckl_runs, remix_runs
from tests.analysis.lens_results import make_lens

STEPS = (0, 100, 300, 700, 1100)
ENTROPIES = (20.0, 14.0, 15.0, 16.0, 17.0)
SEEDS = (0, 1, 2)
PASSAGES, FACTS, LAYERS = 5, 4, 3
NASTY = "<script>document.title='gone'</script>"
KINDS = {"memorization": 0.75, "semantic": 0.5, "compositional": 0.25}


def tables():
    """The four tables, as measured."""
    makers = {
        Table.PRETRAINING: pretraining,
        Table.ACQUISITION: acquisition,
        Table.MEMORIZATION: memorization,
        Table.UPDATES: updates,
    }
    return {table: filled(table, make()) for table, make in makers.items()}


def filled(table, rows):
    columns = COLUMNS[table]
    return pd.DataFrame([{**dict.fromkeys(columns), **row} for row in rows], columns=list(columns))


def pretraining():
    for seed in (0, 1):
        for step, total in zip(STEPS, ENTROPIES, strict=True):
            for corpus, shift in (("plants", 0.0), (NASTY, 2.0)):
                where = {"seed": seed, "step": step, "corpus": corpus}
                value = total + 0.5 * seed + shift
                yield {**where, "measure": "|c|", "value": value}
                yield {**where, "measure": "next-token", "value": value / 4}
                for layer in range(LAYERS):
                    yield {**where, "measure": "|c|", "layer": layer, "value": value / 3 + layer}


EDITS = [
    *({"site": "up", "ratio": 0.5, "factor": f} for f in (0.5, 1.0, 2.0)),
    *({"site": "up", "ratio": r, "factor": 2.0} for r in (0.3, 0.7)),
    {"control": "random_rows", "ratio": 0.5, "factor": 2.0},
    *({"temperature": t} for t in (1.5, 3.0)),
]
RUN = {
    **{"trajectory": "tiny", "parameters": 3001, "novelty": "new", "batch_size": 12},
    **{"learning_rate": 1e-3, "interval": 5},
}
MET = {"exposure": "met", "kind": "all"}


def acquisition():
    for place, step in enumerate(STEPS):
        for seed in SEEDS:
            share = 0.5 - 0.1 * place + 0.02 * seed
            yield from scores({**RUN, "step": step, "seed": seed}, share, -4.0 + place, 0.6 - share)
    for edit in EDITS:
        for seed in SEEDS:
            added = 0.1 * edit["factor"] * edit["ratio"] if "site" in edit else 0.0
            added += 0.01 * seed
            run = {**RUN, **edit, "step": STEPS[-1], "seed": seed}
            yield from scores(run, 0.1 + 0.02 * seed + added, added, 0.5, edited=True)


def scores(run, share, known, lost, *, edited=False):
    injected = {**run, **MET, "moment": "last injection"}
    yield {**injected, "measure": "A", "against": "start", "value": share}
    if edited:
        yield {**injected, "measure": "A", "against": "unedited start", "value": share / 2}
    for passage in range(PASSAGES):
        cluster = f"passage {passage}"
        yield {**injected, "measure": "K", "cluster": cluster, "value": known + passage - 2}
        if not edited:
            for kind, gain in KINDS.items():
                told = {**run, "exposure": "met", "kind": kind, "measure": "effectivity"}
                value = gain + 0.01 * (passage - 2) + 0.1 * run["seed"] - 0.1
                yield {**told, "cluster": cluster, "value": value}
    yield {**run, "measure": "F", "moment": "end", "against": "start", "value": lost}


ARMS = [
    ({}, 0.25),
    ({"mix_first": "random"}, 0.5),
    ({"mix_first": "random", "mix_later": "generic"}, 0.75),
    ({"replay": "items", "replay_ratio": 0.1}, 0.5),
]


def memorization():
    data = {"first": "kvr", "later": "lama", "later_kind": "factoid", "stages": 2}
    for arm, kept in ARMS:
        amounts = (
            [(r, w) for r, w in ((1.0, 8), (2.0, 8), (2.0, 16))] if "mix_first" in arm else [()]
        )
        for amount in amounts:
            mix = dict(zip(("mix_ratio", "mix_words"), amount, strict=False))
            for seed in SEEDS:
                run = {**data, **arm, **mix, "familiar": False, "seed": seed}
                for fact in range(FACTS):
                    cluster = f"fact {fact}"
                    right = {**run, "measure": "share right", "cluster": cluster}
                    yield {**right, "moment": "after A", "value": 1.0}
                    yield {**right, "moment": "after B", "value": float(fact < FACTS * kept)}
                    yield {
                        **{**run, "measure": "first layer", "cluster": cluster},
                        **{"moment": "after B", "value": fact + 2 * kept + 0.1 * seed},
                    }


def updates():
    for seed in SEEDS:
        for step in STEPS:
            for layer in range(LAYERS):
                for measure, sign in (("gradients", 1), ("updates", -1)):
                    where = {"seed": seed, "step": step, "layer": layer}
                    yield {**where, "measure": measure, "value": sign * (0.5 + 0.1 * layer)}


def ledger():
    """The content of a ledger: four claims, one with each of four verdicts, and a question."""
    entry = {
        **{"paper": "Kim et al. 2025", "place": "Figure 2", "quantity": "change along the line"},
        **{"unit": "nats", "published": "from 144.0 to 143.6", "doubts": [f"doubt {NASTY}"]},
        **{"question": False, "p_value": 0.001, "p_against": 1.0, "n": 5, "seeds": 3},
        **{"test": "t-test over 3 seeds", "family": "entropy over pretraining"},
        **{"effect": -2.5, "low": -3.0, "high": -2.0, "command": "python -m analysis.entropy"},
    }
    none = dict.fromkeys(("effect", "low", "high", "p_value", "p_against", "n", "seeds"))
    claims = [
        {"claim": "entropy-falls", "verdict": "supported"},
        {
            **{"claim": "resuscitation-helps-acquisition", "verdict": "contradicted"},
            **{"unit": "share", "effect": 0.125, "low": 0.1, "high": 0.15},
            **{"p_value": 1.0, "p_against": 0.0004, "family": "resuscitation"},
        },
        {
            **{"claim": "both-mixes-help", "verdict": "inconclusive", "unit": "share"},
            **{"paper": "Chen et al. 2024", "family": "mixes and stages", "p_value": 0.4},
        },
        {"claim": "mix-ratio-matters-less-at-a", "verdict": "not tested at this scale"}
        | {"paper": "Chen et al. 2024", "family": "amounts of mixing", **none},
        {"claim": "adam-and-coefficients", "verdict": "answered", "unit": "correlation"}
        | {"paper": None, "question": True, "p_against": None, "family": "open questions"},
    ]
    every = [
        {**entry, "statement": f"statement of {claim['claim']}", "sentence": "All of it."} | claim
        for claim in claims
    ]
    return {
        **{"scale": "smoke", "level": 0.95, "command": "python -m analysis.reproduce"},
        **{"tested": 4, "claims": every, "provenance": {"runs": "/home/someone/runs"}},
    }


def write_ledger(folder):
    folder.mkdir(parents=True)
    (folder / "ledger.json").write_text(json.dumps(ledger()), encoding="utf-8")
    return folder


def write_lens(folder):
    prompts = (f"{NASTY} 0", "prompt 1", "prompt 2")
    return save_numbers(make_lens(prompts=prompts), folder)


def write_edit_sweep(folder):
    """Two edits: one raises knowledge entropy by 1 nat and the loss by 0.5, one does nothing."""
    rows = [
        {
            **{"edit": edit, "site": "up", "ratio": 0.5, "factor": 2.0},
            **{"temperature": None, "refused": None},
            **{f"{name}_before": 10.0 for name in MEASURES},
            **{f"{name}_after": 10.0 + change * more for name in MEASURES},
        }
        for more, (edit, change) in enumerate((("nothing", 0.0), ("up", 1.0)))
    ]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "edits.csv", index=False)
    content = {"edits": [], "provenance": {"model": "tiny", "weights_sha256": "ab" * 32}}
    (folder / "edits.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def tell_kinds(run):
    """A run's manifest says what its sets are, as those of `training.remix` do."""
    told = json.loads((run / "manifest.json").read_text())
    for stage in told["inputs"]["stages"].values():
        stage["data"]["kind"] = "factoids"
    (run / "manifest.json").write_text(json.dumps(told))


def material(folder, **given):
    """All kinds of results; runs are those of the reports' tests."""
    for seed in (0, 1):
        ckl_runs.make_run(folder / f"ckl-{seed}", seed=seed)
    ckl_runs.make_run(folder / "ckl-late", revision="step-001100", start="cd")
    ckl_runs.make_run(folder / "ckl-going", seed=7, done=False)
    for run in remix_runs.study(folder / "remix"):
        tell_kinds(run)
    write_ledger(folder / "ledger")
    write_lens(folder / "lens")
    write_edit_sweep(folder / "edits")
    fields = {"measured": tables(), "ledger": read_ledger(folder / "ledger"), **given}
    return Material(results=find_results([folder]), **fields)
