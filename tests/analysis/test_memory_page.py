"""`analysis.memory` from its words to its files: numbers of the library, contexts with shades."""

import json
import re

import pandas as pd
import pytest

import probes
from analysis.memory import main


def test_a_prompts_vectors_with_tokens_and_contexts(pretrained, tmp_path, capsys):
    checkpoint, out = max((pretrained / "checkpoints").iterdir()), tmp_path / "out"
    words = ["--model", str(checkpoint), "--prompt", "The river <b>", "--vectors", "3"]
    words += ["--corpus", "general-heldout", "--max-tokens", "700", "--sequence-length", "31"]
    assert main([*words, "--contexts", "2", "--out", str(out)]) == 0
    assert "page: " in capsys.readouterr().out
    model = probes.load_model(str(checkpoint))
    top = probes.memory.top_vectors(model, "The river <b>", n=3)
    table, told = pd.read_csv(out / "memory.csv"), json.loads((out / "memory.json").read_text())
    assert list(zip(table["layer"], table["index"], strict=True)) == list(top.vectors)
    assert table["contribution"].tolist() == pytest.approx(top.contribution.tolist(), rel=1e-4)
    assert told["vectors"][0]["promoted"] == list(top.written.promoted[0])
    contexts = pd.read_csv(out / "contexts.csv")
    assert len(contexts) == len(told["contexts"]) == 6
    page = (out / "memory.html").read_text()
    assert page.count('<article class="vector"') == 3
    assert len(re.findall(r'<mark class="(?:above|below) own" style="--depth:100"', page)) == 6
    assert "<b>”" not in page, "text of the prompt is escaped"


def test_what_is_asked_wrongly_is_refused_in_a_line(pretrained, tmp_path, capsys):
    checkpoint = max((pretrained / "checkpoints").iterdir())
    words = ["--model", str(checkpoint), "--prompt", "The river", "--out", str(tmp_path / "out")]
    for more in (["--by", "logit"], ["--position", "99"], ["--vectors", "0"]):
        assert main([*words, *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1
