"""`analysis.corpus_novelty` from its words to its files."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.corpus_novelty import _figures, main, novelty_table
from tests.analysis.report.drawn import plots


def test_corpora_are_compared_document_by_document(pretrained, tmp_path, capsys):
    out = tmp_path / "out"
    model = max((pretrained / "checkpoints").iterdir())
    words = ["--model", str(model), "--max-documents", "7", "--sequence-length", "31"]
    corpora = ["--corpus", "general-heldout", "biomedical-heldout"]
    assert main([*words, *corpora, "--out", str(out)]) == 0
    assert "page: " in capsys.readouterr().out
    rows, told = pd.read_csv(out / "novelty.csv"), json.loads((out / "novelty.json").read_text())
    for one in told["corpora"]:
        own = rows[rows["corpus"] == one["corpus"]]["entity_loss"]
        assert one["documents"] == len(own) == 7
        assert one["with_entities"] == own.notna().sum()
        assert one["median"] == pytest.approx(np.exp(np.nanmedian(own)), rel=1e-6)
    assert main([*words, *corpora, "--out", str(out)]) == 2
    assert main([*words, "--corpus", "general", "general", "--out", str(tmp_path / "b")]) == 2
    assert "--corpus names 2 corpora, 1 of them different" in capsys.readouterr().err


def test_the_picture_counts_documents():
    losses = {"new": [4.0, 4.1, 5.0, None], "known": [1.0, 1.0, 2.0]}
    rows = [(name, loss) for name, found in losses.items() for loss in found]
    documents = pd.DataFrame(rows, columns=["corpus", "entity_loss"]).astype({"entity_loss": float})
    documents = documents.assign(entities=1, entity_perplexity=np.exp(documents["entity_loss"]))
    (figure,) = _figures(documents)
    (drawn,) = plots([figure])
    for trace, kept in zip(drawn["data"], (3, 3), strict=True):
        assert sum(trace["y"]) == kept
    # The middles of 24 bins of e ** (1 / 6) each, from e to e ** 5.
    assert drawn["data"][0]["x"][0] == pytest.approx(np.exp(1 + 1 / 12))
    found = novelty_table(documents).set_index("corpus")
    assert found.loc["new", "median"] == pytest.approx(np.exp(4.1))
    assert (found.loc["new", "documents"], found.loc["new", "with_entities"]) == (4, 3)
