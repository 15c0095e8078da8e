"""What stands beside an interval is the estimate that the interval is of."""

import json
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from analysis.depth import compare_spread
from analysis.document import print_report
from analysis.entropy_figures import convergence_table
from analysis.entropy_page import entropy_report, findings, used_share
from analysis.numbers import course, one_seed
from analysis.observations import guessing
from analysis.trajectory import totals_over_training, trajectory_findings
from probes.choices import EntropyKind
from probes.corpus_means import Interval, bootstrap_interval, estimate_of, jackknife_interval
from probes.results import (
    AttentionEntropy,
    ConvergencePoint,
    EntropyResult,
    KnowledgeEntropy,
    NextTokenEntropy,
    Provenance,
    load_result,
)
from tests.analysis.results import entropy_page

# The bias of few documents takes the measured total out of its interval: 26.43 beside 26.45 to
# 26.55, as in three layers of 8.81 nats.
PER_LAYER, LOW, HIGH = 8.81, 26.45, 26.55


def result(**given):
    between = Interval(LOW, HIGH)
    means = torch.rand(3, 7001, dtype=torch.float64) + 0.5
    found = KnowledgeEntropy(torch.full((3,), PER_LAYER, dtype=torch.float64), means, between)
    provenance = dict.fromkeys(Provenance.__dataclass_fields__)
    provenance |= {"model": "tiny", "corpus": "plants", "documents": 11, "tokens": 1009}
    provenance |= {"versions": {}, "configuration": {"coefficient": "abs"}}
    provenance |= {"weights_sha256": "ab" * 32, "rows": 11}
    provenance |= dict.fromkeys(("architecture", "dtype", "device"), "any") | given
    return EntropyResult(
        Provenance(**provenance),
        knowledge=found,
        contribution=KnowledgeEntropy(found.per_layer, means.clone(), between),
        attention=AttentionEntropy(torch.full((3, 2), PER_LAYER, dtype=torch.float64), between),
        next_token=NextTokenEntropy(26.43, 27.0, between),
        convergence=tuple(
            ConvergencePoint(EntropyKind.KNOWLEDGE, n, 97 * n, 26.43, between) for n in (3, 7, 11)
        ),
    )


def inside(text, ends):
    """Every number that is followed by an interval lies within it."""
    found = re.findall(ends, text)
    assert found
    for value, low, high in found:
        assert float(low) <= float(value) <= float(high), (value, low, high)
    return found


def test_sentences_and_terminal_tables_print_the_estimate_beside_its_interval():
    text = " ".join(findings([result()]))
    inside(text, r"([\d.]+) nats \(95% interval ([\d.]+) to ([\d.]+)")
    assert "26.50 nats (95% interval 26.45 to 26.55; 26.43 before the correction for few" in text
    console = Console(width=200, record=True, file=StringIO())
    print_report(entropy_report([result()]), console)
    assert len(inside(console.export_text(), r"([\d.]+) \[([\d.]+), ([\d.]+)\]")) == 4


def test_the_page_and_its_settling_curve_print_it_too():
    text = entropy_page([result()])
    assert text.count("95% interval 26.45 to 26.55; 26.43 before") >= 3
    table = convergence_table([result()])
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()


def test_the_file_names_both(tmp_path):
    result().save(tmp_path)
    kept = json.loads((tmp_path / "entropy.json").read_text())
    for name, total in (
        ("knowledge_entropy", "total"),
        ("attention_entropy", "total"),
        ("next_token_entropy", "mean"),
    ):
        assert kept[name][total] == pytest.approx(26.43 if total == "mean" else 3 * PER_LAYER)
        assert kept[name]["estimate"] == pytest.approx(26.5)
    assert load_result(tmp_path).convergence == result().convergence


def test_a_share_of_the_maximum_is_at_most_all_of_it():
    most = np.log(5)
    found = KnowledgeEntropy(
        torch.full((2,), most - 1e-3, dtype=torch.float64),
        torch.ones(2, 5, dtype=torch.float64),
        Interval(2 * most - 0.01, 2 * most + 0.03),
    )
    assert found.estimate > found.maximum
    assert used_share(found) == 1.0


def test_jackknife_and_bootstrap_intervals_hold_the_estimate():
    random = np.random.default_rng(3)
    for _ in range(20):
        value, others = float(random.normal()), random.normal(size=7) ** 3
        for made in (jackknife_interval, bootstrap_interval):
            found = made(value, others.tolist())
            assert found.low <= estimate_of(value, found) <= found.high
    assert estimate_of(1.5, None) == 1.5


def test_a_difference_in_spread_is_what_its_interval_is_of():
    random = np.random.default_rng(5)
    for n in (2, 5, 19):
        a, b = random.integers(0, 7, size=(2, n))
        found = compare_spread(a, b, 7, np.random.default_rng(0), replicates=99)
        assert found.interval.low <= found.effect <= found.interval.high
        assert abs(found.effect) <= 6


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((26.42, 22.01, 23.69), "falls, from 26.42 at 0 to 23.69 at 2, but not steadily: it is "
         "lowest, 22.01, at 1"),
        ((1.0, 3.0, 2.0), "rises, from 1.00 at 0 to 2.00 at 2, but not steadily: it is highest, "
         "3.00, at 1"),
        ((2.0, 0.5, 4.0, 2.0), "is the same in the end, from 2.00 at 0 to 2.00 at 3, but not "
         "steadily: it is lowest, 0.50, at 1 and highest, 4.00, at 2"),
        ((3.0, 2.0, 1.0), "falls, from 3.00 at 0 to 1.00 at 2"),
        ((3.0, 0.999, 1.0), "falls, from 3.00 at 0 to 1.00 at 2"),
    ],
)  # fmt: skip
def test_a_turn_is_named_with_its_place(values, told):
    places = [f"at {place}" for place in range(len(values))]
    assert course(values, places, lambda value: f"{value:.2f}") == told


def test_a_sweep_names_the_turn_and_draws_the_estimate():
    rows = [
        (
            f"step-{step}",
            step,
            "plants",
            "|c|",
            pd.NA,
            value - 0.1,
            value,
            value - 0.05,
            value + 0.05,
        )
        for step, value in ((0, 26.42), (40, 22.01), (90, 23.69))
    ]
    columns = ["checkpoint", "step", "corpus", "measure", "layer", "entropy"]
    tidy = pd.DataFrame(rows, columns=[*columns, "estimate", "low", "high"])
    (found,) = trajectory_findings(tidy.astype({"layer": "Int64", "step": "Int64"}))
    assert found == (
        "Knowledge entropy by |c| over plants falls, from 26.42 nats at step-0 to 23.69 nats at "
        "step-90, but not steadily: it is lowest, 22.01 nats, at step-40."
    )
    (line,) = totals_over_training(tidy, "|c|").data
    assert min(line.error_y.array) > 0
    assert min(line.error_y.arrayminus) > 0


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ((1, 1), "; one training seed, which says nothing about others"),
        ((1, 3), "; one training seed for some, which says nothing about others"),
        ((3, 2), ""),
    ],
)
def test_one_training_seed_is_said(seeds, told):
    assert one_seed(seeds) == told


def test_guessing_is_one_in_as_many_values_as_an_item_offers():
    table = pd.DataFrame({"task": ["sciq", "cloze", "cloze"], "chance": [0.5, 0.25, 0.25]})
    assert guessing([table, table.assign(chance=0.2)]) == pytest.approx(0.225)
    assert guessing([table[:1]]) is None
    assert guessing([table.assign(chance=None)]) is None
