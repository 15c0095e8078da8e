"""The Jacobian lens: against numeric Jacobians, a linear model and TransformerLens; its command."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformer_lens.tools.analysis import JacobianLens

import analysis
import probes
import training.lens_fits as lens_fits
from analysis.logit_lens import main as read_main
from probes.lens import LensSettings, read_lens
from probes.prompts import LensItem
from probes.translators import load_translators
from tests.models import N_LAYERS, tiny_hf_model, tiny_model, tiny_tokenizer, tokens
from tests.refusals import refused
from training.jacobian_lens import main
from training.jacobian_lens_fit import JacobianFit, fit_jacobian_lens
from training.tuned_lens import main as tuned_main
from training.tuned_lens_fit import train_translators

D_MODEL, SKIP = 42, 2
IDENTITY = torch.eye(D_MODEL)
BLOCKS = {
    "llama": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
    "gpt_neox": lambda model: model.gpt_neox.layers,
}


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


def numeric(hf_model, blocks, ids, layer):
    """The Jacobian of one unpadded row, through hooks on Hugging Face's own modules."""
    counted, kept = slice(SKIP, ids.shape[1] - 1), {}

    def end(stream):
        def put_in(_module, args):
            kept["stream"] = args[0].detach()
            return None if stream is None else (stream, *args[1:])

        def take_out(_module, _args, output):
            kept["end"] = first_of(output)

        # What comes out of a block is what goes into the next.
        handles = [
            blocks[layer + 1].register_forward_pre_hook(put_in),
            blocks[-1].register_forward_hook(take_out),
        ]
        hf_model(input_ids=ids)
        for handle in handles:
            handle.remove()
        return kept["end"][0, counted].sum(dim=0)

    end(None)
    found = torch.autograd.functional.jacobian(end, kept["stream"])
    return found[:, 0, counted].mean(dim=1)


@pytest.mark.parametrize("family", BLOCKS)
def test_it_is_the_mean_of_numeric_jacobians(family):
    model = tiny_model(family)
    whole, short = tokens(1, 8, 1), tokens(1, 5, 2)
    filled = torch.cat([short, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 3 + [0] * 5])
    batch = {"input_ids": torch.cat([whole, filled, whole]), "attention_mask": mask}
    model.hf_model.train()
    found = fit_jacobian_lens(model, [batch], skip_first=SKIP)
    # The third row has no position between the first two and the last.
    assert (found.training["rows"], found.training["rows_too_short"]) == (2, 1)
    assert model.hf_model.training
    assert all(w.requires_grad and w.grad is None for w in model.hf_model.parameters())
    hf_model = model.hf_model.eval()
    for layer in range(-1, N_LAYERS - 1):
        rows = [numeric(hf_model, BLOCKS[family](hf_model), ids, layer) for ids in (whole, short)]
        # The same float32 products in another order.
        torch.testing.assert_close(
            found.weight[layer + 1], sum(rows) / 2 - IDENTITY, rtol=1e-3, atol=1e-4
        )
    assert not found.bias.any()


def test_it_is_exact_where_blocks_are_linear():
    """Blocks that add nothing, after each of which a known map acts on width and positions."""
    model = tiny_model("llama")
    with torch.no_grad():
        for block in model.hf_model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    draw = torch.Generator().manual_seed(3)
    maps = [IDENTITY + 0.2 * torch.randn(D_MODEL, D_MODEL, generator=draw) for _ in range(N_LAYERS)]
    mix = torch.rand(7, 7, generator=draw).tril()

    def hooks(mixing):
        def acting(point_map):
            return lambda h, _: (mixing[: h.shape[1], : h.shape[1]] @ h) @ point_map.T

        return [(("resid_post", layer), acting(one)) for layer, one in enumerate(maps)]

    with model.hooks(hooks(mix)):
        found = fit_jacobian_lens(model, [{"input_ids": tokens(3, 7)}], skip_first=SKIP)
    expected, mixed = IDENTITY, torch.eye(7)
    for layer in reversed(range(-1, N_LAYERS - 1)):
        expected, mixed = expected @ maps[layer + 1], mixed @ mix
        # From positions 2 to 5 of seven to positions 2 to 5.
        share = mixed[2:6, 2:6].sum() / 4
        torch.testing.assert_close(
            found.weight[layer + 1] + IDENTITY, share * expected, rtol=1e-4, atol=1e-4
        )
    with model.hooks(hooks(torch.eye(7))):
        lens = fit_jacobian_lens(model, [{"input_ids": tokens(1, 7)}], skip_first=SKIP)
        items, settings = [LensItem((5, 9, 11), (17,))], LensSettings(embedding=True)
        plain = read_lens(model, items, settings).readout.kl
        read = read_lens(model, items, settings, translate=lens).readout.kl
    # Every layer of a linear model says what the last one says.
    assert float(read.max()) < 1e-4 < 0.01 < float(plain[:-1].min())


@pytest.fixture(scope="module")
def theirs():
    """TransformerLens's model, and the lens that it fits on two rows of eleven tokens."""
    bridge = tiny_model("llama").to_transformer_lens()
    prompts = [" ".join(f"w{token - 3}" for token in row) for row in tokens(2, 11).tolist()]
    fitted = JacobianLens.fit(
        bridge, prompts, corpus="c", skip_first_positions=SKIP, show_progress=False
    )
    rows = [bridge.to_tokens(prompt)[0] for prompt in prompts]
    return bridge, JacobianLens(fitted.jacobians, n_prompts=2, d_model=D_MODEL), rows


def test_it_is_that_of_transformer_lens(theirs):
    _, lens, rows = theirs
    found = fit_jacobian_lens(
        tiny_model("llama"), [{"input_ids": torch.stack(rows)}], skip_first=SKIP
    )
    for layer, matrix in lens.jacobians.items():
        # The same float32 products in another order.
        torch.testing.assert_close(found.weight[layer + 1] + IDENTITY, matrix, rtol=1e-3, atol=1e-4)


def test_a_published_lens_reads_as_theirs_does(theirs, tmp_path, monkeypatch):
    bridge, lens, rows = theirs
    path, model = tmp_path / "tiny_jacobian_lens.pt", tiny_model("llama")
    lens.save(str(path), dtype=torch.float32)
    loaded = load_translators(path, model)
    assert (loaded.name, loaded.first, loaded.weights_sha256) == ("jacobian", 0, None)
    ids = rows[0]
    item = LensItem(tuple(ids.tolist()), (17,))
    expected = lens.readout(bridge, ids[None], return_full_logits=True)
    read = read_lens(model, [item], LensSettings(), translate=loaded).readout.log_prob
    for layer in range(N_LAYERS - 1):
        logits = expected.lens_logits[layer][-1]
        assert float(read[layer, 0]) == pytest.approx(float(logits.log_softmax(0)[17]), abs=1e-3)
    with refused("has layers 0 to 2, found -1"):
        read_lens(model, [item], LensSettings(embedding=True), translate=loaded)
    again = load_translators(loaded.save(tmp_path / "kept"), model)
    assert torch.equal(again.weight, loaded.weight)
    assert (again.first, again.name) == (0, "jacobian")
    # From the hub by the model's name, which the hub is not asked for here.
    files = [SimpleNamespace(rfilename="README.md")]
    hub = SimpleNamespace(siblings=files)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(path))
    with refused("owner/lenses has 0 files that end with .*name one as owner/lenses/path"):
        load_translators("owner/lenses", model)
    files.append(SimpleNamespace(rfilename=f"tiny/jlens/{model.name}_jacobian_lens.pt"))
    assert torch.equal(load_translators("owner/lenses", model).weight, loaded.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"J": None}, "holds no Jacobian lens"),
        (
            {"J": {0: torch.eye(41), 1: torch.eye(41)}},
            r"matrices \[\(41, 41\)\] of blocks \[0, 1\]",
        ),
        ({"J": {0: IDENTITY}}, r"of blocks \[0\]; .* needs \(42, 42\) of blocks 0 to 1"),
        ({"J": {0: IDENTITY, 1: IDENTITY / 0}}, "is not finite"),
        ({"metadata": {"model_name": "some/other"}}, "was fitted for some/other"),
        ({"metadata": {"target_layer": 1}}, "holds matrices"),
    ],
)
def test_a_published_lens_that_does_not_fit_is_refused(tmp_path, change, message):
    content = {"J": {0: IDENTITY, 1: IDENTITY}, "n_prompts": 3, "d_model": D_MODEL}
    torch.save({**content, **change}, tmp_path / "lens.pt")
    with refused(message):
        load_translators(tmp_path / "lens.pt", tiny_model("llama"))


class Stopped(Exception):
    """The process was killed."""


def stopping_after(count):
    left = iter(range(count))

    def stop(_batches):
        if next(left, None) is None:
            raise Stopped

    return stop


def test_fits_go_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(lens_fits, "EVERY_SECONDS", 0.0)
    model, text = tiny_model("llama"), [{"input_ids": tokens(2, 7, seed)} for seed in range(5)]
    path = tmp_path / "fit.pt"

    def jacobian(**more):
        return fit_jacobian_lens(model, text, **{"skip_first": SKIP, **more})

    def tuned(**more):
        on_step = more.pop("on_batch", None)
        held = {"validation": text[:1], "validate_every": 3}
        lens, history = train_translators(model, text, steps=8, on_step=on_step, **held, **more)
        assert list(history.validation) == [3, 6]
        assert len(history.kl) == 8
        return lens

    for fit in (jacobian, tuned):
        whole = fit()
        with pytest.raises(Stopped):
            fit(kept_in=path, on_batch=stopping_after(4))
        monkeypatch.setattr(JacobianFit, "step", count_calls(calls := [], JacobianFit.step))
        again = fit(kept_in=path)
        assert torch.equal(again.weight, whole.weight)
        assert torch.equal(again.bias, whole.bias)
        if fit is jacobian:
            assert len(calls) == 1
            with refused("holds a fit with skip_first 2, not 3; give the same settings"):
                jacobian(kept_in=path, skip_first=3)
        path.unlink()


def count_calls(calls, function):
    def counted(*given):
        calls.append(given)
        return function(*given)

    return counted


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny model and a corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_hf_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    texts = [" ".join(f"w{(7 * i + shift * i * i) % 97}" for i in range(23)) for shift in range(17)]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on the tiny model; exit code."""

    def call(*extra, fit=main):
        given = ["--model", str(inputs / "model"), "--corpus", str(inputs / "text.jsonl")]
        size = ["--sequence-length", "13", "--held-out-tokens", "60", "--max-tokens", "130"]
        return fit([*given, "--out", str(tmp_path / "out"), *size, "--batch-size", "4", *extra])

    return call


SMALL = ("--skip-first", "3")


def test_the_command_fits_compares_and_can_be_read(run, inputs, tmp_path, capsys):
    assert run(*SMALL, "--dry-run") == 0
    assert "10 rows in 3 batches of 42 backward passes: 126" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert run(*SMALL) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("translators.safetensors", "translators.json", "jacobian_lens.json", "jacobian_lens.csv")
    }
    found = json.loads((out / "jacobian_lens.json").read_text())
    assert found["history"] == {"rows": 10, "rows_too_short": 0}
    assert len(found["jacobian_kl"]) == N_LAYERS
    assert "The Jacobian lens is nearer" in " ".join(capsys.readouterr().out.split())
    model = probes.load_model(str(inputs / "model"))
    lens = load_translators(out, model)
    text = probes.token_batches(
        probes.load_corpus([row for row in corpus_of(inputs)]), model.tokenizer,
        sequence_length=13, batch_size=4, max_tokens=130,
    )  # fmt: skip
    assert torch.equal(lens.weight, fit_jacobian_lens(model, text, skip_first=3).weight)
    given = ["--model", str(inputs / "model"), "--prompt", "w1 w2", "--target", "w3"]
    given += ["--translators", str(out), "--out", str(tmp_path / "read")]
    assert read_main([*given, "--lens", "tuned"]) == 2
    assert "holds a jacobian lens; read through it with --lens" in capsys.readouterr().err
    assert read_main([*given, "--lens", "jacobian"]) == 0
    read = json.loads((tmp_path / "read" / "lens.json").read_text())["items"][0]
    expected = analysis.lens(model, "w1 w2", "w3", translators=lens)
    assert read["rank"] == expected.rank[:, 0].tolist()
    assert expected.provenance.configuration["translators"]["skip_first"] == 3


def corpus_of(inputs):
    lines = (inputs / "text.jsonl").read_text().splitlines()
    # Every eighth is held out, from the second on.
    return [json.loads(line)["text"] for i, line in enumerate(lines) if i % 8 != 1]


@pytest.mark.parametrize("fit", [main, tuned_main])
def test_a_command_that_was_stopped_goes_on(run, tmp_path, capsys, monkeypatch, fit):
    small = SMALL if fit is main else ("--steps", "5")
    tensors = tmp_path / "out" / "translators.safetensors"
    assert run(*small, fit=fit) == 0
    whole = tensors.read_bytes()
    assert run(*small, "--resume", fit=fit) == 0
    assert "complete:" in capsys.readouterr().out
    monkeypatch.setattr(lens_fits, "EVERY_SECONDS", 0.0)
    with monkeypatch.context() as stopped:
        stopped.setattr("training.lens_run.compare_lenses", compare_that_stops())
        assert run(*small, "--overwrite", fit=fit) == 130
    assert (tmp_path / "out" / "fit.pt").is_file()
    capsys.readouterr()
    assert run(*small, fit=fit) == 2
    assert "holds a fit that was stopped; go on with --resume" in capsys.readouterr().err
    assert run(*small, "--resume", fit=fit) == 0
    assert tensors.read_bytes() == whole
    assert not (tmp_path / "out" / "fit.pt").exists()


def compare_that_stops():
    """The comparison of the trial is made; that after the fit is not."""
    import training.lens_run as lens_run

    compare, calls = lens_run.compare_lenses, []

    def stop(*given, **more):
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return compare(*given, **more)

    return stop


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--skip-first", "-1"), "skip_first is -1; give 0 or more"),
        (("--skip-first", "12"), "no row has more than 13 tokens"),
        (("--max-tokens", "0"), "max_tokens is 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(run, tmp_path, capsys, extra, message):
    assert run(*extra) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in error if line.startswith("training.jacobian_lens: error:")]) == 1
    assert message in error[-1]
    assert not (tmp_path / "out").exists()


def test_another_backend_is_refused():
    model = probes.load_model(tiny_hf_model("llama"), backend="transformer_lens")
    with refused("on the native backend, not transformer_lens"):
        fit_jacobian_lens(model, [{"input_ids": tokens(1, 7)}])
