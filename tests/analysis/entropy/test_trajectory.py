"""Tables, figures and the page of a trajectory, from results made by hand."""

import dataclasses

import pytest
import torch

from analysis.checkpoints import Checkpoint
from analysis.trajectory import (
    Measured,
    layers_over_training,
    totals_over_training,
    trajectory_findings,
    trajectory_table,
)
from probes.corpus_means import Interval
from tests.analysis.results import make_result, trajectory_page


def measured(steps=(8, 64, 512), corpora=("plants", "stars")):
    found = []
    for place, step in enumerate(steps):
        name = f"step{step}" if step is not None else f"<script>alert({place})</script>"
        results = []
        for corpus in corpora:
            result = make_result(corpus=corpus)
            knowledge = result.knowledge
            per_layer = knowledge.per_layer - 0.1 * place
            total = float(per_layer.sum())
            # Half a nat a checkpoint: the first and the last of three still overlap.
            between = Interval(total - 2, total + 2)
            moved = dataclasses.replace(knowledge, per_layer=per_layer, interval=between)
            results.append(dataclasses.replace(result, knowledge=moved))
        found.append(Measured(Checkpoint("a/model", name, name, step), results))
    return found


def test_the_table_holds_every_number_of_every_result():
    series = measured()
    table = trajectory_table(series)
    for one in series:
        for result in one.results:
            rows = table[(table["checkpoint"] == one.checkpoint.label)]
            rows = rows[rows["corpus"] == result.provenance.corpus]
            plain = rows[rows["measure"] == "|c|"]
            total = plain[plain["layer"].isna()].iloc[0]
            assert total["entropy"] == result.knowledge.total
            assert (total["low"], total["high"]) == result.knowledge.interval[:2]
            layers = plain[plain["layer"].notna()]["entropy"].tolist()
            assert layers == result.knowledge.per_layer.tolist()
            ntp = rows[rows["measure"] == "next-token"]
            assert ntp["entropy"].tolist() == [result.next_token.mean]


def test_totals_are_drawn_over_steps_with_their_intervals():
    series = measured()
    figure = totals_over_training(trajectory_table(series), "|c|")
    assert [trace.name for trace in figure.data] == ["plants", "stars"]
    for index, trace in enumerate(figure.data):
        totals = [one.results[index].knowledge.total for one in series]
        assert list(trace.x) == [8, 64, 512]
        assert list(trace.y) == pytest.approx(totals)
        upper = [one.results[index].knowledge.interval.high for one in series]
        assert [
            y + up for y, up in zip(trace.y, trace.error_y.array, strict=True)
        ] == pytest.approx(upper)


def test_layers_are_drawn_as_changes_since_the_first_checkpoint():
    series = measured()
    figure = layers_over_training(trajectory_table(series), "|c|", "stars")
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == len(series[0].results[1].knowledge.per_layer)
    for line in lines:
        torch.testing.assert_close(torch.tensor(line.y), torch.tensor([0.0, -0.1, -0.2]).double())


def test_checkpoints_without_a_step_stand_in_their_order():
    figure = totals_over_training(trajectory_table(measured(steps=(None, None))), "|c|")
    assert list(figure.data[0].x) == [0, 1]
    assert figure.layout.xaxis.ticktext[0].startswith("&lt;script&gt;")


def test_findings_say_which_way_a_total_moved_and_when_it_may_be_chance():
    found = trajectory_findings(trajectory_table(measured()))
    line = next(s for s in found if s.startswith("Knowledge entropy by |c| over plants falls"))
    assert line.endswith("so this may be chance."), "the intervals were left where they were"
    assert any(s.startswith("Attention entropy over stars") for s in found)


def test_the_page_escapes_names_and_holds_every_checkpoint():
    page = trajectory_page(measured(steps=(8, 64, None)))
    assert "<script>alert" not in page
    assert "step64" in page
