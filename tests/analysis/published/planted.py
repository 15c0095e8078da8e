"""Planted results: tables that hold what the papers print, and the conditions they printed it for.

Written from the tables of the papers by their own layout, without the code that reads results back.
"""

import pandas as pd

SEEDS = (0, 1, 2)
FACTS = ("Oslo", "Lima")
CHECKPOINTS = {"118k": 118_000, "369k": 369_000, "554k": 554_000, "738k": 738_000}
RECIPES = {
    "baseline": (128, 4e-4),
    "batch-size-2048": (2048, 4e-4),
    "learning-rate-1e-3": (128, 1e-3),
    "learning-rate-1e-4": (128, 1e-4),
}
MIXES = {
    "none": (None, None),
    "random-at-A": ("random", None),
    "generic-at-A": ("generic", None),
    "random-later": (None, "random"),
    "generic-later": (None, "generic"),
    "both": ("random", "generic"),
}
SETS = {
    "LAMA": "lama",
    "EQ": "entityquestions",
    "WQ": "webquestions",
    "GSM8K": "gsm8k-train",
    "MATH": "math-train",
    "EC": "evolcode",
    "APPS": "apps",
    "UC": "ultrachat",
}
FACTOID = ("ID", "LAMA", "EQ", "WQ")
PAPER_SETTINGS = {
    "acquisition": {
        "new corpus": "PubMed",
        "familiar corpus": "C4",
        "corpus rows": "204800 of 1024",
        "epochs": "1",
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
MOMENTS = {
    "A": {"moment": "last injection", "against": "start", "exposure": "met", "kind": "all"},
    "K": {"moment": "last injection", "exposure": "met", "kind": "all"},
    "F": {"moment": "end", "against": "start"},
    "P": {"moment": "end"},
    "knowledge entropy": {"moment": "unedited start"},
    **{
        name: {"exposure": "met", "kind": "all"}
        for name in ("rise", "effectivity", "net gain", "slope")
    },
}


def value(identifier):
    from analysis.published import published_named

    return published_named(identifier).value


def verified(tables, settings=None):
    """All comparisons, of tables and settings by their names."""
    from analysis.claims.measurements import Table
    from analysis.published import verify

    by_table = {Table(name): table for name, table in tables.items()}
    return verify(by_table, {Table(name): said for name, said in (settings or {}).items()})


def frame(table, rows):
    """Rows as a table, what is not given missing."""
    from analysis.claims.measurements import COLUMNS, Table

    columns = COLUMNS[Table(table)]
    return pd.DataFrame([{**dict.fromkeys(columns), **row} for row in rows], columns=list(columns))


def run_row(measure, number, step, *, seed=0, **changes):
    """A value of a run of continual knowledge learning."""
    settings = {
        "trajectory": "allenai/OLMo-1B-hf",
        "parameters": 1_176_764_416,
        "novelty": "new",
        "batch_size": 128,
        "learning_rate": 4e-4,
        "interval": 160,
    }
    row = {"measure": measure, "value": number, "step": step, "seed": seed}
    return {**settings, **MOMENTS[measure], **row, **changes}


def published_runs():
    """Tables 1 and 2 of Kim et al. but for several epochs, in each of three seeds."""
    rows = []
    for recipe, (batch, rate) in RECIPES.items():
        for name, step in CHECKPOINTS.items():
            for measure, table in (("A", 1), ("F", 1), ("K", 2), ("P", 2)):
                number = value(f"kim-table-{table}-{recipe}-{name}-{measure}")
                number = number if measure == "K" else number / 100
                items = {"K": ("one", "two"), "P": ("sciq 1", "sciq 2")}.get(measure, (None,))
                rows += [
                    run_row(
                        measure,
                        number,
                        step,
                        seed=seed,
                        batch_size=batch,
                        learning_rate=rate,
                        cluster=item,
                    )
                    for seed in SEEDS
                    for item in items
                ]
    return frame("acquisition", rows)


def kept_row(number, first, later, mix, *, seed=0, fact=None, **changes):
    """A fact of stage A, right or not."""
    first_mix, later_mix = MIXES[mix]
    amount = {} if mix == "none" else {"mix_ratio": 2.0, "mix_words": 50}
    settings = {
        "measure": "share right",
        "moment": "after B",
        "stages": 2,
        "familiar": False,
        "first": first,
        "later": later,
        "later_kind": "factoid",
        "mix_first": first_mix,
        "mix_later": later_mix,
    }
    return {**settings, **amount, "value": number, "seed": seed, "cluster": fact, **changes}


def published_facts(first="KVR", *, seeds=SEEDS):
    """Table 2 of Chen et al. for one set of facts, in each of three seeds."""
    name = {"KVR": "kvr", "PopQA": "popqa", "TriviaQA": "triviaqa-train"}[first]
    rows = [
        kept_row(
            value(f"chen-table-2-{first}-{mix}-{later}-accuracy") / 100,
            name,
            SETS.get(later, name),
            mix,
            seed=seed,
            fact=fact,
            later_kind="factoid" if later in FACTOID else "non-factoid",
        )
        for mix in MIXES
        for later in ("ID", *SETS)
        for seed in seeds
        for fact in FACTS
    ]
    return frame("memorization", rows)


def curve(numbers, *, measure="|c|", corpus="general", layer=None, seeds=SEEDS, noise=0.0):
    """Entropies over checkpoints, by step; every seed is `noise` above the one before."""
    rows = [
        {
            "measure": measure,
            "value": number + noise * seed,
            "seed": seed,
            "step": step,
            "corpus": corpus,
            "layer": layer,
        }
        for step, number in numbers.items()
        for seed in seeds
    ]
    return frame("pretraining", rows)
