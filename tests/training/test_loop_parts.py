"""The parts of the loop by themselves: sources, AdamW's groups, positions, speed, random states."""

import random

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import probes
from tests.models import tiny_hf_model, tokens
from tests.training.loop_runs import model_of, rows_of
from training.batches import RowSource, as_training_batch
from training.choices import Precision
from training.engine import Separation, adamw, forward_inputs, positions_within, separation_of
from training.processes import random_states, seed_all, set_random_states
from training.progress import Throughput, flops_per_token, peak_flops, progress_text
from training.runs.records import StepRecord
from training.settings import OptimizerSettings


def test_every_epoch_goes_through_all_rows_once_in_an_order_of_its_own():
    source = rows_of(batch_size=5, epochs=3)
    orders = [
        np.concatenate([source.rows_at(step) for step in range(7 * epoch, 7 * epoch + 7)]).tolist()
        for epoch in range(3)
    ]
    assert [sorted(order) for order in orders] == [list(range(35))] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert source.steps_available == 21


def test_batches_are_a_function_of_the_step():
    forwards = [rows_of().batch(step).input_ids for step in range(24)]
    source = rows_of()
    backwards = [source.batch(step).input_ids for step in reversed(range(24))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_rows_come_in_their_order_unless_they_are_shuffled():
    source = rows_of(batch_size=4, epochs=2, shuffle_seed=None)
    assert source.rows_at(0).tolist() == [0, 1, 2, 3]
    assert source.rows_at(7).tolist() == source.rows_at(15).tolist() == [28, 29, 30, 31]
    assert torch.equal(source.batch(8).input_ids, tokens(35, 13)[:4])
    # Three rows do not fill a ninth batch.
    assert source.describe()["rows_dropped_each_epoch"] == 3
    with pytest.raises(ValueError, match="there is no batch 16; these rows give 16"):
        source.batch(16)


@pytest.mark.parametrize(
    ("rows", "given", "line"),
    [
        ((3, 5), {}, "3 rows do not fill one batch of 4"),
        ((8, 1), {}, "rows of 1 tokens predict nothing"),
        ((8, 5), {"epochs": 0}, "batch_size and epochs must be 1 or more, found 4 and 0"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(rows, given, line):
    with pytest.raises(ValueError, match=line):
        RowSource(np.zeros(rows, dtype=np.int64), 4, **given)


def decaying_names(hf_model, decay):
    optimizer = adamw(hf_model, OptimizerSettings(weight_decay=0.25, decay=decay))
    groups = {p: g for g in optimizer.param_groups for p in g["params"]}
    names = dict(hf_model.named_parameters())
    assert groups.keys() == set(names.values())
    assert all(group["fused"] for group in optimizer.param_groups)
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.0, 0.25}
    return {name for name, p in names.items() if groups[p]["weight_decay"]}


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        # A tied head is the embedding; one of its own is a linear layer.
        ("llama", {"embed_tokens", "norm"}),
        ("olmo", {"embed_tokens"}),
        ("gpt_neox", {"embed_in", "norm", "bias"}),
        ("gpt2", {"wte", "wpe", "ln_", "bias"}),
    ],
)
def test_linear_weights_decay_and_nothing_else(family, left_out):
    hf_model = tiny_hf_model(family)
    found = decaying_names(hf_model, "linear_weights")
    names = {name for name, _ in hf_model.named_parameters()}
    assert found == {name for name in names if not any(part in name for part in left_out)}
    assert 0 < len(found) < len(names)


def test_other_groups_decay():
    hf_model = tiny_hf_model("llama")
    matrices = {name for name, p in hf_model.named_parameters() if p.ndim == 2}
    assert decaying_names(hf_model, "all_matrices") == matrices
    assert "model.embed_tokens.weight" in matrices
    assert decaying_names(hf_model, "none") == set()


def test_positions_start_again_at_every_document():
    generator = np.random.default_rng(3)
    documents = np.repeat(generator.integers(0, 3, (5, 7)), generator.integers(1, 4, 7), axis=1)
    expected = np.zeros_like(documents)
    for row in range(5):
        for place in range(1, documents.shape[1]):
            same = documents[row, place] == documents[row, place - 1]
            expected[row, place] = expected[row, place - 1] + 1 if same else 0
    assert positions_within(torch.from_numpy(documents)).tolist() == expected.tolist()


def test_plain_rows_and_pads_at_the_end_need_no_mask():
    ids = tokens(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    one = torch.ones_like(ids)
    for given in ({}, {"attention_mask": mask}, {"segment_ids": one}):
        batch = as_training_batch(ids, **given)
        inputs = forward_inputs(batch, Separation.IMPOSSIBLE, torch.device("cpu"))
        assert inputs.keys() == {"input_ids"}


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_how_documents_are_kept_apart_is_found_out(family):
    expected = {"llama": Separation.POSITIONS, "opt": Separation.MASK}
    assert separation_of(tiny_hf_model(family)) is expected[family]


def test_a_model_whose_attention_sees_everything_is_found_out():
    hf_model = tiny_hf_model("llama")
    spread = lambda _m, _args, out: out + out.mean(dim=1, keepdim=True)  # noqa: E731
    hf_model.model.embed_tokens.register_forward_hook(spread)
    assert separation_of(hf_model) is Separation.IMPOSSIBLE


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("olmo", False), ("gpt2", True)])
def test_flops_of_a_token_are_counted(family, tied):
    """Every matrix product of the model, forward and twice backward, on one row."""
    hf_model = tiny_hf_model(family)
    # Eager attention spells its products out, over all pairs of positions.
    hf_model.set_attn_implementation("eager")
    for part in hf_model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    with FlopCounterMode(display=False) as counter:
        logits = hf_model(tokens(1, 31), use_cache=False).logits
        logits.sum().backward()
    model = probes.load_model(hf_model)
    assert (model.anatomy.unembed.weight is model.anatomy.embed.weight) is tied
    # The gradient with respect to the first layer's input is not always needed: within 1 %.
    assert flops_per_token(model, 31) * 31 == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("Some other card", "bf16", None),
    ],
)
def test_peaks_are_found_by_name_and_not_made_up(name, precision, peak):
    assert peak_flops(name, Precision(precision)) == peak


def test_throughput_counts_tokens_and_shows_no_share_of_an_unknown_peak():
    speed = Throughput(model_of(), Precision.BF16, 1).of_step(as_training_batch(tokens(7, 5)), 0.5)
    assert speed.keys() == {"seconds", "tokens_per_second", "memory_bytes"}
    assert (speed["seconds"], speed["tokens_per_second"]) == (0.5, 70.0)
    assert 1e7 < speed["memory_bytes"] < 1e11


def test_random_states_survive_the_disk(tmp_path):
    seed_all(3)
    # In the middle of a block of numbers, and with a Gaussian in store.
    torch.rand(5), np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
    torch.save(random_states(), tmp_path / "states.pt")
    expected = torch.rand(3).tolist(), np.random.randn(2).tolist()  # noqa: NPY002
    seed_all(4)
    set_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert (torch.rand(3).tolist(), np.random.randn(2).tolist()) == expected  # noqa: NPY002


def test_python_draws_go_on_too():
    states = random_states()
    # Drawn at once: in tests, beartype draws between our calls.
    first = random.Random()
    version, internal, gauss = states["python"]
    first.setstate((version, tuple(internal), gauss))
    set_random_states(states)
    assert random.getstate()[0] == version
    assert len(internal) == 625


def test_progress_says_what_share_of_the_peak_is_used():
    record = StepRecord(5, 3.25, 4e-4, 1.0, 7)
    speed = {"tokens_per_second": 6123.4, "memory_bytes": 1.5 * 2**30, "flop_utilisation": 0.447}
    assert progress_text(record, speed) == (
        "loss 3.2500  6,123 tokens/s  1.5 GiB  45% of peak FLOPs"
    )
