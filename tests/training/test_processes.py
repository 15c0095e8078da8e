"""Two processes on gloo: the same curve as one, sharded state, and the same bits after a resume."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import probes
from tests.models import tokens
from tests.training.loop_runs import losses_of, model_of, run, same_bits, settings_of, step_records
from tests.training.process_worker import CASES, trained
from training.batches import as_training_batch
from training.processes import joined_processes
from training.runs.directory import RunDirectory
from training.runs.records import PerplexityRecord, records_of
from training.start_or_resume import refuse_other_processes

ROOT = Path(__file__).parent.parent.parent
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def under_torchrun(processes, module, *arguments):
    command = [sys.executable, *LAUNCHER, str(processes), "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def shared(for_all):
    """Where the runs of two processes are, and what these have seen."""

    def make(out):
        done = under_torchrun(2, "tests.training.process_worker", str(out))
        assert done.returncode == 0, done.stderr[-3000:]
        (out / "seen.json").write_text(done.stdout.splitlines()[-1])

    out = for_all("runs-of-two-processes", make)
    return out, json.loads((out / "seen.json").read_text())


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same runs in one process."""
    out = tmp_path_factory.mktemp("single")
    for name, settings in CASES.items():
        alone = {key: value for key, value in settings.items() if key != "parallel"}
        family = "olmo" if settings["parallel"] == "ddp" else "llama"
        trained_alone(out / name, family, alone, trained)
    return out


def trained_alone(path, family, settings, trained):
    with pytest.MonkeyPatch.context() as patch:
        import tests.training.process_worker as worker

        patch.setattr(worker, "model_of", lambda _family: model_of(family))
        trained(path, settings)


def observed(path):
    return records_of(path, PerplexityRecord)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp-checkpointed", "ddp-adapters"])
def test_two_processes_give_the_curve_of_one(name, shared, single):
    out, _ = shared
    ours, alone = step_records(out / name), step_records(single / name)
    # The same terms, added in another order, in float32; seven steps carry that on.
    assert [r.loss for r in ours] == pytest.approx([r.loss for r in alone], rel=2e-5)
    norms = [[r.gradient_norm for r in records] for records in (ours, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert ours[0].loss == pytest.approx(alone[0].loss, rel=1e-6)
    # Five rows: the last process takes two and fills up with one that is not trained on.
    assert [r.trained_tokens for r in ours] == [r.trained_tokens for r in alone] == [60] * 7


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp-checkpointed", "ddp-adapters"])
def test_observers_see_whole_weights(name, shared, single):
    out, _ = shared
    ours, alone = observed(out / name), observed(single / name)
    assert [(r.step, r.corpus) for r in ours] == [(r.step, r.corpus) for r in alone]
    assert [r.corpus for r in ours] == ["2 passes", "weight"] * 2
    for mine, its in zip(ours, alone, strict=True):
        # At step 0 nothing has been added in another order yet.
        tolerance = 1e-6 if mine.step == 0 else 1e-3
        assert mine.mean_loss == pytest.approx(its.mean_loss, rel=tolerance)
        assert mine.bits_per_byte == pytest.approx(its.bits_per_byte, rel=tolerance)


@pytest.mark.parametrize("name", ["ddp-bf16", "fsdp-bf16"])
def test_half_precision_is_near_the_curve_of_one(name, shared, single):
    out, seen = shared
    ours, alone = losses_of(out / name), losses_of(single / name)
    # Two to three digits in every product; under FSDP the residual stream is bfloat16 too, and
    # large steps carry that on.
    assert ours[0] == pytest.approx(alone[0], rel=5e-3)
    assert ours == pytest.approx(alone, rel=0.1)
    assert seen[name]["dtypes"] == ["torch.float32"]


def test_fsdp_shards_parameters_and_optimizer_state(shared):
    out, seen = shared
    for name in ("fsdp", "fsdp-checkpointed", "fsdp-bf16"):
        assert seen[name]["sharded"]
        assert seen[name]["shards"]
        # Tied weights are one parameter, and stay one.
        assert seen[name]["tied"]
        folder = out / name / "checkpoints" / "step-000007" / "training_state"
        shards = sorted((folder / "optimizer").glob("*.distcp"))
        assert [path.name for path in shards] == ["__0_0.distcp", "__1_0.distcp"]
        sizes = [path.stat().st_size for path in shards]
        assert max(sizes) < 1.2 * min(sizes)
        assert len(list(folder.glob("random-*.pt"))) == 2
    assert not seen["ddp"]["sharded"]


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_left_goes_on_to_the_same_bits(name, shared):
    out, _ = shared
    kept = "adapter/adapter_model" if name == "ddp-adapters" else "model"
    for file in ("records.jsonl", f"checkpoints/step-000007/{kept}.safetensors"):
        assert (out / name / file).read_bytes() == (out / f"{name}-cut" / file).read_bytes(), file
    found = [
        sorted(p.name for p in (out / n / "checkpoints").iterdir()) for n in (name, f"{name}-cut")
    ]
    assert found[0] == found[1] == ["step-000003", "step-000006", "step-000007"]


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_checkpoint_is_an_ordinary_whole_one(name, shared):
    out, seen = shared
    model = probes.load_model(str(out / name / "checkpoints" / "step-000007"))
    norm = float(sum(p.detach().double().square().sum() for p in model.hf_model.parameters()))
    assert norm == pytest.approx(seen[name]["norm"], rel=1e-12)
    assert model.tokenizer is not None


def test_what_several_processes_cannot_do_is_refused(shared):
    _, seen = shared
    assert seen["alone"].startswith("torchrun has started 2 processes, and parallel is 'none'")
    assert seen["fsdp with rates"].startswith("learning rates of rows need whole parameters")


def test_another_number_of_processes_cannot_go_on(shared, tmp_path, monkeypatch):
    out, _ = shared
    shutil.copytree(out / "ddp", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    found = RunDirectory.reopen(tmp_path / "run", manifest).latest()
    with pytest.raises(ValueError, match="was written by 2 processes, and 1 would go on; start as"):
        refuse_other_processes(found)
    assert asdict(found)["step"] == 7


@pytest.mark.parametrize(("rows", "processes"), [(5, 2), (7, 3), (2, 4), (6, 3)])
def test_a_batch_is_shared_out_whole_and_evenly(rows, processes):
    batch = as_training_batch(tokens(rows, 5))
    shares = [batch.share(rank, processes) for rank in range(processes)]
    assert len({share.n_rows for share in shares}) == 1
    assert sum(share.trained_tokens for share in shares) == batch.trained_tokens
    together = torch.cat([share.input_ids for share in shares])
    assert torch.equal(together[:rows], batch.input_ids)


def test_micro_batches_are_the_batch_in_pieces():
    batch = as_training_batch(tokens(7, 5))
    pieces = batch.cut(3)
    assert [piece.n_rows for piece in pieces] == [3, 3, 1]
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), batch.labels)
    assert [piece.n_rows for piece in batch.cut(None)] == [7]


def test_one_process_is_alone(tmp_path):
    with joined_processes() as here:
        assert (here.rank, here.count, here.is_first, here.is_alone) == (0, 1, True, True)
        assert torch.equal(here.total(torch.tensor([2.0])), torch.tensor([2.0]))
        here.wait_for_all()
    assert not torch.distributed.is_initialized()
    model, _ = run(tmp_path / "one", settings=settings_of(steps=2))
    again, _ = run(tmp_path / "two", settings=settings_of(steps=2))
    assert same_bits(
        dict(model.hf_model.named_parameters()), dict(again.hf_model.named_parameters())
    )
