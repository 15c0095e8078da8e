"""Chains of stages: what each begins with, how each ends, and that a kill changes nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import probes
import training.stages as stages
from tests.training.loop_runs import (
    losses_of,
    model_of,
    rows_of,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from tests.training.test_resume import bits_of
from training.choices import OptimizerStart, StageStatus
from training.loop import train
from training.options import LoopFields
from training.runs.directory import RunDirectory
from training.stages import (
    ChainIdentity,
    ReadyStage,
    Stage,
    finished_chain,
    read_outcome,
    run_stages,
)
from training.start_or_resume import Start
from training.stop_rules import LossBelow

STEPS = {"A": 7, "B": 5}


@dataclass(frozen=True, kw_only=True)
class Config(LoopFields):
    """A configuration of a command."""

    extra: int = 0


def identity(extra=0):
    config = Config(batch_size=4, learning_rate=1e-2, extra=extra)
    return ChainIdentity(command="tests", recipe="none", configuration=config, inputs={"shared": 1})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A tiny model in a folder."""
    folder = tmp_path_factory.mktemp("start") / "model"
    model = model_of()
    model.hf_model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return Start(str(folder), None, None)


def ready(name, **given):
    source = rows_of(shuffle_seed={"A": 3, "B": 4}[name])
    return ReadyStage(
        source=source,
        settings=settings_of(steps=STEPS[name], resume_every=2),
        inputs=source.describe(),
        **given,
    )


def stage(name, *, optimizer=OptimizerStart.FRESH, done_in=None, **given):
    """A stage whose rules are made anew for every run, as commands do."""
    make = given.pop("stop", None)

    def prepare(_model):
        return ready(name, stop=make and make(), **given)

    return Stage(name=name, prepare=prepare, optimizer=optimizer, done_in=done_in)


def both(**given):
    return [stage("A"), stage("B", **given)]


def run(path, start, stages=None, **given):
    return run_stages(stages or both(), path, start, identity(), **given)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A chain that was never stopped."""
    path = tmp_path_factory.mktemp("chains") / "whole"
    return path, run(path, start)


def test_a_stage_begins_with_what_the_one_before_left(whole, start, tmp_path):
    """Against two runs of the loop, the second on the weights of the first in memory."""
    path, result = whole
    model = model_of()
    losses = {}
    for name in STEPS:
        found = ready(name)
        directory = RunDirectory.create(
            tmp_path / name, {"configuration": {}, "inputs": found.source.describe()}
        )
        train(model, found.source, found.settings, directory, progress=False)
        losses[name] = losses_of(tmp_path / name)
    assert {name: losses_of(path / f"stage-{name}") for name in STEPS} == losses
    assert [outcome.steps for outcome in result.outcomes] == [7, 5]
    assert {outcome.status for outcome in result.outcomes} == {StageStatus.COMPLETE}


def test_an_optimizer_can_be_kept(whole, start, tmp_path):
    path, _ = whole
    run(tmp_path / "kept", start, both(optimizer=OptimizerStart.KEPT))
    kept, fresh = (step_records(folder / "stage-B") for folder in (tmp_path / "kept", path))
    # The first batch sees the same weights; what is made of its gradient differs.
    assert kept[0].loss == fresh[0].loss
    assert kept[1].loss != fresh[1].loss


def test_a_rule_ends_a_stage_and_the_next_one_goes_on(start, tmp_path):
    seen = []
    stages = [stage("A", stop=lambda: LossBelow(1e9, patience=3)), stage("B")]
    result = run(tmp_path / "run", start, stages, on_stage=lambda name, _ready: seen.append(name))
    first, second = result.outcomes
    assert (first.status, first.steps) == (StageStatus.RULE_FULFILLED, 3)
    assert first.sentence == (
        "stage A: rule fulfilled: loss below 1e+09 nats in 3 updates in a row, after 3 steps"
    )
    assert second.sentence == "stage B: complete, after 5 steps"
    assert seen == ["A", "B"]


def unreachable():
    return LossBelow(1e-9)


def test_a_stage_that_does_not_get_there_says_so_and_the_next_one_goes_on(start, tmp_path):
    result = run(tmp_path / "run", start, [stage("A", stop=unreachable), stage("B")])
    first = result.outcomes[0]
    assert first.status is StageStatus.CAP_REACHED
    last = losses_of(tmp_path / "run" / "stage-A")[-1]
    assert first.reason == f"loss below 1e-09 nats ({last:.2g} at last)"
    assert first.sentence == f"stage A: cap reached before {first.reason}, after 7 steps"
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert [one["status"] for one in done["stages"]] == ["cap reached", "complete"]


def test_a_chain_can_ask_for_all_rules_to_be_fulfilled(start, tmp_path):
    stages = [stage("A", stop=unreachable), stage("B")]
    for resume in (False, True):
        with pytest.raises(
            ValueError, match=r"cap reached before .*; give it more epochs"
        ) as error:
            run(tmp_path / "run", start, stages, require_reached=True, resume=resume)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "stage-B").exists()
    assert not (tmp_path / "run" / "done.json").exists()


def test_pieces_leave_the_bits_of_the_whole(whole, start, tmp_path):
    path, result = whole
    pieces = 0
    while True:
        found = run(tmp_path / "whole", start, resume=True, time_limit=0.0)
        pieces += 1
        if found.unfinished is None:
            break
    # One update a piece; the piece in which the last stage ends is also the one that ends it.
    assert pieces == sum(STEPS.values())
    assert found.outcomes[1].steps == result.outcomes[1].steps
    refuse_differences(tmp_path / "whole", path)


def refuse_differences(found, whole):
    """Assert that two chains have left the same bits, but for times and random states.

    Those hold the state of Python's generator, from which the type checks of the tests draw; PyTorch's
    is seen in what is trained after a stop.
    """
    ours, theirs = (
        {n: b for n, b in bits_of(path).items() if _lasts(n)} for path in (found, whole)
    )
    assert {"manifest.json", "done.json", "stage-B/outcome.json", "stage-B/records.jsonl"} < set(
        ours
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in sorted(ours) if ours[name] != theirs[name]] == []


def _lasts(name):
    return not name.endswith(("timing.jsonl", "random-00000.pt", "training_state.json"))


class Killed(BaseException):
    """In the place of a kill: nothing in our code looks out for it."""


MOMENTS = {
    "before the outcome of A is written": ("write_json", "outcome.json", 0),
    "before stage B is opened": ("opened_directory", "stage-B", 0),
    "before the outcome of B is written": ("write_json", "outcome.json", 1),
    "before the chain is over": ("write_json", "done.json", 0),
    "before the manifest of the chain": ("begin_folder", "whole", 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_boundary_it_leaves_the_bits_of_the_whole(
    moment, whole, start, tmp_path, monkeypatch
):
    name, target, calls = MOMENTS[moment]
    original, left = getattr(stages, name), [calls]

    def dying(path, *arguments, **keywords):
        if Path(path).name == target:
            if not left[0]:
                raise Killed
            left[0] -= 1
        return original(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(stages, name, dying)
        with pytest.raises(Killed):
            run(tmp_path / "whole", start, resume=True)
    run(tmp_path / "whole", start, resume=True)
    refuse_differences(tmp_path / "whole", whole[0])


def test_the_last_stage_is_looked_at_once_more_before_the_chain_is_over(start, tmp_path):
    seen = []

    def at_end(checkpoint):
        assert not (tmp_path / "run" / "done.json").exists()
        seen.append(checkpoint)

    result = run(tmp_path / "run", start, at_end=at_end)
    assert seen == [result.outcomes[-1].checkpoint]
    assert seen[0] == tmp_path / "run" / "stage-B" / "checkpoints" / "step-000005"


def test_a_stage_of_another_chain_is_gone_on_from(whole, start, tmp_path):
    path, _ = whole
    shared = [stage("A", done_in=path / "stage-A"), stage("B")]
    result = run(tmp_path / "run", start, shared)
    assert not (tmp_path / "run" / "stage-A").exists()
    assert losses_of(tmp_path / "run" / "stage-B") == losses_of(path / "stage-B")
    again = finished_chain(tmp_path / "run", identity())
    assert again == result
    assert again.outcomes[0].folder == path / "stage-A"


def test_a_stage_writes_into_its_weights_when_its_folder_is_there(start, tmp_path):
    folders = []

    def prepare(model):
        def begin(directory):
            folders.append(directory.path)
            with torch.no_grad():
                model.hf_model.lm_head.weight.zero_()

        return ready("A", begin=begin)

    run(tmp_path / "run", start, [Stage(name="A", prepare=prepare)])
    assert folders == [tmp_path / "run" / "stage-A"]
    # Every token of a vocabulary is as probable as every other.
    entropy = torch.tensor(float(model_of().hf_model.config.vocab_size)).log()
    assert losses_of(tmp_path / "run" / "stage-A")[0] == pytest.approx(entropy.item(), abs=1e-6)


def test_outcomes_are_read_again(whole):
    path, result = whole
    assert read_outcome(path / "stage-A") == result.outcomes[0]
    assert finished_chain(path, identity()) == result
    assert finished_chain(path / "nowhere", identity()) is None


def test_manifests_hold_what_a_chain_and_its_stages_are(whole):
    path, _ = whole
    chain = json.loads((path / "manifest.json").read_text())
    first = json.loads((path / "stage-A" / "manifest.json").read_text())
    assert chain["inputs"] == {"shared": 1}
    assert first["inputs"] == {"shared": 1, "stage": "A", **ready("A").source.describe()}
    assert chain["configuration"] == first["configuration"]


def test_what_is_no_chain_or_another_is_refused(whole, start, tmp_path):
    path, _ = whole
    with pytest.raises(
        ValueError, match=r"holds a run with another configuration\.extra: 0 there, 1 asked for"
    ):
        run_stages(both(), path, start, identity(extra=1), resume=True)
    with pytest.raises(
        ValueError, match=r"holds a run with another configuration\.extra: 0 there, 1 asked for"
    ):
        finished_chain(path, identity(extra=1))
    with pytest.raises(ValueError, match="holds a run; go on with --resume"):
        run(path, start)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        run(tmp_path / "file", start)
    with pytest.raises(ValueError, match="holds no stage that is over"):
        read_outcome(tmp_path)


def test_weights_of_stages_differ(whole):
    _, result = whole
    first, second = (
        weights_of(probes.load_model(str(outcome.checkpoint))) for outcome in result.outcomes
    )
    assert not same_bits(first, second)
