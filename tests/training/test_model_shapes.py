"""New models of known families: sizes, seeds, and what they are like."""

import pytest
import torch

import probes
from tests.models import tiny_tokenizer
from training.model_shapes import ModelFamily, ModelShape, new_model

SIZES = {
    "d_model": 28,
    "n_layers": 3,
    "n_heads": 7,
    "d_mlp": 37,
    "d_vocab": 101,
    "positions": 61,
}


def shape(family, **changes):
    return ModelShape(family=family, **{**SIZES, **changes})


def by_hand(family):
    """Parameters, counted from the papers' descriptions rather than from any code."""
    d, layers, mlp, vocab = (SIZES[n] for n in ("d_model", "n_layers", "d_mlp", "d_vocab"))
    gated_block = 4 * d * d + 3 * d * mlp
    match family:
        case "olmo":  # norms without parameters, no biases, one embedding
            return layers * gated_block + vocab * d
        case "llama":  # two RMS norms a block and one at the end
            return layers * (gated_block + 2 * d) + d + vocab * d
        case "pythia":  # biases everywhere but in the two embeddings, norms with a bias
            attention = 4 * d * d + 4 * d
            mlp_part = 2 * d * mlp + mlp + d
            return layers * (attention + mlp_part + 4 * d) + 2 * d + 2 * vocab * d


@pytest.mark.parametrize("family", list(ModelFamily))
def test_parameters_are_those_of_the_family(family):
    counted = sum(p.numel() for p in new_model(shape(family)).hf_model.parameters())
    assert shape(family).parameters() == counted == by_hand(family)


@pytest.mark.parametrize("family", list(ModelFamily))
def test_a_new_model_is_what_was_asked_for(family):
    model = new_model(shape(family), seed=3)
    assert (model.n_layers, model.d_model, model.d_mlp) == (3, 28, 37)
    assert model.n_heads == 7
    assert model.architecture.gated is (family is not ModelFamily.PYTHIA)
    assert model.engine.config.max_position_embeddings == 61
    assert model.dtype is torch.float32
    tied = (
        model.hf_model.get_input_embeddings().weight
        is model.hf_model.get_output_embeddings().weight
    )
    assert tied is (family is not ModelFamily.PYTHIA)


def test_pythia_runs_attention_and_mlp_in_parallel():
    assert new_model(shape("pythia")).engine.config.use_parallel_residual is True


def test_weights_depend_on_the_seed_alone_and_drawing_them_leaves_no_trace():
    first = new_model(shape("olmo"), seed=5)
    torch.rand(17)
    state = torch.get_rng_state()
    again = new_model(shape("olmo"), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.content_hash() == first.content_hash()
    assert new_model(shape("olmo"), seed=6).content_hash() != first.content_hash()


def test_the_end_token_of_the_tokenizer_is_the_models():
    config = new_model(shape("llama"), tiny_tokenizer()).engine.config
    assert (config.eos_token_id, config.pad_token_id) == (2, 0)


def test_a_saved_model_comes_back_the_same(tmp_path):
    model = new_model(shape("pythia"), seed=1)
    model.hf_model.save_pretrained(tmp_path)
    assert probes.load_model(str(tmp_path)).content_hash() == model.content_hash()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"family": "olmoe"}, "family must be one of olmo, llama, pythia, found 'olmoe'"),
        ({"n_heads": 5}, "d_model 28 does not give 5 heads an even width.*a multiple of 10"),
        ({"d_mlp": 0}, "d_mlp must be 1 or more, found 0"),
    ],
)
def test_shapes_that_cannot_be(changes, line):
    with pytest.raises(ValueError, match=line):
        ModelShape(**{"family": "olmo", **SIZES, **changes})


def test_a_tokenizer_with_more_entries_than_the_model_is_refused():
    with pytest.raises(ValueError, match="has 101 entries, but the model's vocabulary has 97"):
        new_model(shape("olmo", d_vocab=97), tiny_tokenizer())
