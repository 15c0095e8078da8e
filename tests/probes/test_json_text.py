"""What is written as JSON holds numbers only."""

import json
import math
from dataclasses import replace

import pytest
import torch

from analysis.claims import Ledger, write_ledger
from probes.corpus_means import Interval
from probes.perplexity import Perplexity
from probes.shown import finite_or_none, json_text
from probes.translators import identity_translators
from tests.models import tiny_model
from training.runs.directory import RunDirectory
from training.runs.records import PerplexityRecord, as_line

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"per_layer": [2.0, NAN]}, "per_layer.1 is nan"),
        ([{"a": {"b": (3, -INF)}}], "0.a.b.1 is -inf"),
        (INF, "it is inf"),
    ],
)
def test_what_is_not_finite_is_refused_by_its_place(content, place):
    with pytest.raises(ValueError, match=f"^edits.json is not written: {place}"):
        json_text(content, "edits.json")


def test_finite_values_are_what_json_writes_and_what_is_absent_is_none():
    content = {"é": [1e308, -0.0, None, "nan", True]}
    assert json_text(content, "it", indent=2) == json.dumps(content, ensure_ascii=False, indent=2)
    assert finite_or_none({"a": (NAN, 3, {"b": INF})}) == {"a": [None, 3, {"b": None}]}


def writers(tmp_path):
    """What writes a number that a caller gives it, one a file."""
    ledger = Ledger(scale="", command="", claims=(), provenance={"seconds": NAN})
    directory = RunDirectory.create(tmp_path / "run", {"configuration": {}, "inputs": {}})
    lens = replace(identity_translators(tiny_model("llama")), training={"loss": INF})
    yield lambda: as_line(PerplexityRecord(5, "text", NAN, None, 7))
    yield lambda: directory.append_timing(seconds=INF)
    yield lambda: directory.write_items("probes", [{"value": NAN}])
    yield lambda: directory.finish({"loss": NAN})
    yield lambda: RunDirectory.create(
        tmp_path / "other", {"configuration": {"rate": INF}, "inputs": {}}
    )
    yield lambda: lens.save(tmp_path / "lens")
    yield lambda: write_ledger(ledger, tmp_path)


@pytest.mark.parametrize("number", range(7))
def test_no_file_of_the_product_takes_what_is_no_number(tmp_path, number):
    write = list(writers(tmp_path))[number]
    with pytest.raises(ValueError, match=r"is not written: .* is (nan|inf), which is no number"):
        write()
    assert not [path for path in tmp_path.rglob("*.json*") if "NaN" in path.read_text("utf-8")]


def test_a_perplexity_beyond_float64_is_none():
    def of(loss):
        tensor = torch.ones(2, dtype=torch.float64)
        return Perplexity(loss, Interval(loss - 1, loss + 1, 0.95), 2, tensor, tensor.long(), 4, 4)

    assert of(708.0).perplexity == math.exp(708.0)
    assert of(709.5).perplexity == math.exp(709.5)
    assert of(812.0).perplexity is None
