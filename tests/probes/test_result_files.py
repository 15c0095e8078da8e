"""A result read back is the result that was saved."""

import json

import pytest
from torch.testing import assert_close

import probes
from tests.models import tiny_model, tokens


def some_result(**arguments):
    batches = [{"input_ids": tokens(3, 11, seed)} for seed in range(4)]
    return probes.measure_entropy(tiny_model("llama"), batches, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"variants": ["relu_gate", "relu_output"]},
        {"kinds": ["next_token"]},
        {"kinds": ["knowledge"], "coefficient": "contribution"},
        {"kinds": ["attention"], "interval": "bootstrap"},
    ],
)
def test_saving_and_loading_keeps_everything(tmp_path, arguments):
    result = some_result(**arguments)
    again = probes.load_result(result.save(tmp_path))
    assert again.to_dict() == json.loads(json.dumps(result.to_dict()))
    assert again.provenance.weights_sha256 == result.provenance.weights_sha256
    assert again.notes == result.notes
    assert again.convergence == result.convergence
    for name in ("knowledge", "contribution"):
        found, expected = getattr(again, name), getattr(result, name)
        assert (found is None) == (expected is None)
        if expected is not None:
            assert_close(found.mean_coefficients, expected.mean_coefficients, rtol=0, atol=0)
            assert found.interval == expected.interval
    for name, expected in result.variants.items():
        found = again.variants[name]
        assert_close(found.mean_coefficients, expected.mean_coefficients, rtol=0, atol=0)


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no readable entropy result \(FileNotFoundError"):
        probes.load_result(tmp_path)
    (tmp_path / "entropy.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no readable entropy result \(KeyError"):
        probes.load_result(tmp_path)
    (tmp_path / "entropy.json").write_text('{"half": ')
    with pytest.raises(ValueError, match=r"holds no readable entropy result \(JSONDecodeError"):
        probes.load_result(tmp_path)


def test_a_file_is_no_folder_for_a_result(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is a file; give a folder"):
        some_result(kinds=["next_token"]).save(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
