"""Tables and files hold the numbers of a lens, where a reader looks for them."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import analysis
from analysis.lens_tables import compare_lenses, items_table, layers_table, lens_table, save_numbers
from tests.analysis.lens_results import D_VOCAB, make_lens


def rows_by_hand(result):
    """Every place that was read, found with loops: item, position, place, row."""
    read = result.per_token
    for row in range(len(read.item)):
        yield int(read.item[row]), int(read.position[row]), int(read.place[row]), row


def test_readouts_are_one_row_per_place_and_layer():
    result = make_lens(target_length=3, embedding=True, controls=("shuffled", "frequency"))
    table = lens_table(result)
    read, at = result.per_token.readout, 0
    for item, position, place, row in rows_by_hand(result):
        given = result.items[item].prompt_ids + result.items[item].target_ids
        for layer, name in enumerate(("embed", "0", "1", "2", "3", "4")):
            found = table.iloc[at]
            at += 1
            expected = [item, name, position, place]
            assert list(found[["item", "layer", "position", "place"]]) == expected
            assert found["token"] == f" t{given[position]}"
            assert found["target"] == f" t{int(result.per_token.target[row])}"
            for column in ("rank", "log_prob", "entropy", "kl"):
                assert found[column] == getattr(read, column)[layer, row].item()
            # float32, as the log-probability is.
            assert found["probability"] == pytest.approx(math.exp(found["log_prob"]), rel=1e-6)
            assert found["rank_shuffled"] == read.control_rank[layer, row, 0]
            assert found["rank_frequency"] == read.control_rank[layer, row, 1]
            best = [f" t{token}" for token in read.top_ids[layer, row].tolist()]
            assert json.loads(found["top_tokens"]) == best
    assert at == len(table)


def first_and_settling(ranks, k):
    """By loops over the layers of one item."""
    found = [rank < k for rank in ranks]
    first = next((layer for layer, is_in in enumerate(found) if is_in), None)
    settling = None
    for layer in reversed(range(len(found))):
        if not found[layer]:
            break
        settling = layer
    return first, settling


@pytest.mark.parametrize("k", [1, 7])
def test_json_holds_every_item(tmp_path, k):
    result = make_lens(n_items=11, controls=("shuffled",), embedding=True)
    save_numbers(result, tmp_path, k)
    content = json.loads((tmp_path / "lens.json").read_text(encoding="utf-8"))
    assert content["layer_labels"] == ["embed", "0", "1", "2", "3", "4"]
    assert content["k"] == k
    firsts = []
    for index, item in enumerate(content["items"]):
        row = next(r for i, _, place, r in rows_by_hand(result) if (i, place) == (index, 0))
        assert item["prompt"] == f"prompt {index}"
        assert item["target"] == f" target {index}"
        for name in ("rank", "log_prob", "entropy", "kl"):
            assert item[name] == getattr(result.per_token.readout, name)[:, row].tolist()
        expected = first_and_settling(item["rank"], k)
        assert (item["first_layer"], item["settling_layer"]) == expected
        control = content["controls"]["shuffled"]["rank"][index]
        assert control == result.per_token.readout.control_rank[:, row, 0].tolist()
        firsts.append(expected[0])
    found = [first for first in firsts if first is not None]
    shares = [found.count(layer) / len(found) for layer in range(6)]
    # Two ways to divide small whole numbers in float64.
    assert content["first_layer_histogram"] == pytest.approx(shares, abs=1e-12)
    assert content["share_found"] == pytest.approx(len(found) / 11, abs=1e-12)
    assert content["provenance"]["weights_sha256"] == "ab" * 32


def test_a_target_that_never_comes_up_has_no_layer(tmp_path):
    result = make_lens(n_items=2)
    read = result.per_token.readout
    never = dataclasses.replace(read, rank=torch.full_like(read.rank, D_VOCAB - 1))
    result = dataclasses.replace(
        result, per_token=dataclasses.replace(result.per_token, readout=never)
    )
    save_numbers(result, tmp_path)
    content = json.loads((tmp_path / "lens.json").read_text(encoding="utf-8"))
    assert [item["first_layer"] for item in content["items"]] == [None, None]
    assert content["first_layer_histogram"] == [0.0] * 5
    assert content["mean_first_layer"] is None
    with (tmp_path / "items.csv").open(newline="", encoding="utf-8") as file:
        assert [row["first_layer"] for row in csv.DictReader(file)] == ["", ""]


def test_a_log_probability_of_nothing_is_still_json(tmp_path):
    result = make_lens(n_items=2)
    read = result.per_token.readout
    nothing = dataclasses.replace(read, log_prob=torch.full_like(read.log_prob, -math.inf))
    result = dataclasses.replace(
        result, per_token=dataclasses.replace(result.per_token, readout=nothing)
    )
    save_numbers(result, tmp_path)
    text = (tmp_path / "lens.json").read_text(encoding="utf-8")
    assert "Infinity" not in text
    assert json.loads(text)["items"][0]["log_prob"] == [None] * 5


def test_items_name_layers_and_give_the_last_rank():
    result = make_lens(n_items=7, embedding=True)
    table = items_table(result, k=3)
    labels = result.layer_labels
    for index, row in table.iterrows():
        ranks = result.rank[:, index].tolist()
        expected = [None if x is None else labels[x] for x in first_and_settling(ranks, 3)]
        assert [row["first_layer"], row["settling_layer"]] == expected
        assert row["rank"] == ranks[-1]
        area = sum(1 - math.log(1 + rank) / math.log(D_VOCAB) for rank in ranks) / len(ranks)
        # Six float64 terms.
        assert row["rank_area"] == pytest.approx(area, abs=1e-12)


def test_prompts_of_token_ids_are_spelt_out():
    result = make_lens(n_items=1, prompts=(None,), targets=(None,), length=3, target_length=2)
    row = items_table(result).iloc[0]
    assert row["prompt"] == "".join(f" t{token}" for token in result.items[0].prompt_ids)
    assert row["target"] == "".join(f" t{token}" for token in result.items[0].target_ids)


def test_layers_are_summarised_over_items():
    result = make_lens(n_items=7, embedding=True)
    table = layers_table(result, k=5)
    assert table["depth"].tolist() == [-1, 0, 1, 2, 3, 4]
    for layer, row in table.iterrows():
        ranks = sorted(result.rank[layer].tolist())
        # Of seven values quartiles lie half way between the second and third, fifth and sixth.
        middle = [(ranks[1] + ranks[2]) / 2, ranks[3], (ranks[4] + ranks[5]) / 2]
        assert row[["rank_low", "rank_median", "rank_high"]].tolist() == middle
        assert row["share_found"] == sum(rank < 5 for rank in ranks) / 7
        assert row["kl"] == pytest.approx(np.mean(result.kl[layer].tolist()), rel=1e-12)


def test_all_four_files_are_written(tmp_path):
    folder = make_lens().save(tmp_path / "deep" / "lens")
    names = {path.name for path in folder.iterdir()}
    assert names == {"lens.json", "lens.csv", "items.csv", "lens.html"}


def test_nothing_is_written_for_a_k_that_finds_everything(tmp_path):
    with pytest.raises(ValueError, match=f"k is {D_VOCAB}, but there are {D_VOCAB} tokens"):
        analysis.save_lens(make_lens(), tmp_path / "out", k=D_VOCAB)
    assert not (tmp_path / "out").exists()


def test_two_readings_are_compared_item_by_item():
    pair = make_lens(n_items=7), make_lens(n_items=7, model="other", n_layers=3)
    compared = compare_lenses(*pair, k=5, seed=0)
    assert (compared.items, compared.names) == (7, ("tiny", "other"))
    assert list(compared.found) == [int((one.first_layer(5) >= 0).sum()) for one in pair]
    gaps = pair[1].log_prob[-1].double() - pair[0].log_prob[-1].double()
    assert compared.tests["log_prob"].effect == pytest.approx(float(gaps.mean()))
    assert any("7 items" in sentence for sentence in compared.findings())
    with pytest.raises(ValueError, match="of different items"):
        compare_lenses(pair[0], make_lens(n_items=5), k=5, seed=0)
