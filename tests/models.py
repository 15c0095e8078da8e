"""Tiny random models of every family, and a tokenizer, made on the spot; sizes are prime.

A swapped axis cannot pass where no two sizes agree. Weights are drawn wide enough that attention is
far from uniform and MLP coefficients far from each other.
"""

from functools import cache
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import probes

D_VOCAB = 101
N_LAYERS = 3
N_HEADS = 3
D_MLP = 29
POSITIONS = 61


def tiny_config(family: str) -> Any:
    common = {
        "vocab_size": D_VOCAB,
        "hidden_size": 42,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.25,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    grouped = {"num_key_value_heads": 1, "head_dim": 14}
    # Shorter than the rows of the tests, so that windows cut something off.
    window = {"sliding_window": 3}
    mixed = {**window, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    match family:
        case "llama":
            return hf.LlamaConfig(**common, **grouped, tie_word_embeddings=True)
        case "mistral":
            return hf.MistralConfig(**common, **grouped, **window)
        case "olmo":
            return hf.OlmoConfig(**common, num_key_value_heads=3)
        case "olmo2":
            return hf.Olmo2Config(**common, num_key_value_heads=1)
        case "olmo3":
            return hf.Olmo3Config(**common, num_key_value_heads=3, **mixed)
        case "qwen2":
            return hf.Qwen2Config(**common, num_key_value_heads=1)
        case "qwen3":
            return hf.Qwen3Config(**common, num_key_value_heads=3, head_dim=10)
        case "gemma2":
            caps = {"attn_logit_softcapping": 1.7, "final_logit_softcapping": 2.3}
            return hf.Gemma2Config(**common, **grouped, **mixed, **caps, query_pre_attn_scalar=11)
        case "gemma3_text":
            return hf.Gemma3TextConfig(**common, **grouped, **mixed, query_pre_attn_scalar=11)
        case "phi3":
            return hf.Phi3Config(**common, num_key_value_heads=1)
        case "gpt_neox":
            return hf.GPTNeoXConfig(**common)
        case "gpt2":
            names = {
                "hidden_size": "n_embd",
                "intermediate_size": "n_inner",
                "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head",
                "max_position_embeddings": "n_positions",
            }
            return hf.GPT2Config(**{names.get(k, k): v for k, v in common.items()})
        case "opt":
            names = {"intermediate_size": "ffn_dim", "initializer_range": "init_std"}
            renamed = {names.get(k, k): v for k, v in common.items()}
            return hf.OPTConfig(**renamed, word_embed_proj_dim=42, dropout=0.0)
        case "gptj":
            shape = {"n_embd": 42, "n_inner": D_MLP, "n_layer": N_LAYERS, "n_head": N_HEADS}
            return hf.GPTJConfig(**_COMMON, **shape, n_positions=POSITIONS, rotary_dim=6)
        case "codegen":
            # Its weights are laid out for four chips, so heads come in fours.
            shape = {"n_embd": 40, "n_inner": D_MLP, "n_layer": N_LAYERS, "n_head": 4}
            return hf.CodeGenConfig(**_COMMON, **shape, n_positions=POSITIONS, rotary_dim=6)
        case "gpt_neo":
            named = {"num_layers": N_LAYERS, "num_heads": N_HEADS, "intermediate_size": D_MLP}
            mixed = {"window_size": 3, "attention_types": [[["global", "local", "global"], 1]]}
            return hf.GPTNeoConfig(
                **_COMMON, **named, **mixed, hidden_size=42, max_position_embeddings=POSITIONS
            )
        case "falcon" | "falcon_7b" | "falcon_rw":
            return hf.FalconConfig(**_COMMON, **_FALCON[family])
        case "bloom":
            return hf.BloomConfig(**_COMMON, hidden_size=42, n_layer=N_LAYERS, n_head=N_HEADS)
        case "mpt":
            return hf.MptConfig(
                **_COMMON, d_model=42, n_layers=N_LAYERS, n_heads=N_HEADS, max_seq_len=POSITIONS
            )
    raise AssertionError(f"no tiny {family}")


_COMMON = {
    "vocab_size": D_VOCAB,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FALCON_SHAPE = {
    "hidden_size": 60,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 6,
    "ffn_hidden_size": D_MLP,
    "max_position_embeddings": POSITIONS,
}
_FALCON: dict[str, dict[str, Any]] = {
    "falcon": {**_FALCON_SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_7b": {**_FALCON_SHAPE, "multi_query": True, "parallel_attn": True},
    "falcon_rw": {
        **_FALCON_SHAPE,
        "multi_query": False,
        "parallel_attn": False,
        "alibi": True,
        "bias": True,
    },
}


GATED = (
    *("llama", "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3"),
    *("gemma2", "gemma3_text", "phi3"),
)
FAMILIES = (*GATED, "gpt_neox", "gpt2", "opt")
"""Every row of the architecture table whose attention goes through `AttentionInterface`."""
ALIBI = ("falcon_rw", "bloom", "mpt")
OWN_ATTENTION = ("gptj", "codegen", "gpt_neo", "falcon", "falcon_7b", *ALIBI)
"""The other rows, Falcon in three variants; tests that do not look at attention take a few."""
SEQUENTIAL = tuple(family for family in FAMILIES if family != "gpt_neox")
"""Attention first, then the MLP on what attention has added to."""


OTHERS = ("transformer_lens", "nnsight")
BACKENDS = ("native", *OTHERS)
CONTRASTING = ("gemma2", "gpt_neox", "opt")
"""Soft-caps and windows; parallel blocks; a flattened MLP, and attention that a bridge leaves."""


def across(families: tuple[str, ...], backends: tuple[str, ...] = OTHERS) -> list[Any]:
    """Pairs of backend and family; elsewhere than natively all but a few wait for `-m slow`."""
    import pytest

    return [
        pytest.param(b, f, marks=() if b == "native" or f in CONTRASTING else pytest.mark.slow)
        for b in backends
        for f in families
    ]


@cache
def on(backend: str, family: str) -> Any:
    """One hooked model of each kind, shared by tests that leave it as it was."""
    import probes

    return probes.load_model(tiny_hf_model(family), backend=backend, tokenizer=tiny_tokenizer())


def tiny_hf_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A fresh tiny model; the same bits for the same arguments."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    for name, parameter in model.named_parameters():
        # Not the whole model, whose rotary frequencies a checkpoint of this type has in float32.
        parameter.data = parameter.data.to(dtype)
        # Norms and biases start at ones and zeros, which would hide a part that is left out.
        if parameter.ndim == 1:
            centre = 0.0 if name.endswith("bias") else 1.0
            parameter.data = centre + 0.2 * torch.randn(parameter.shape, dtype=dtype)
    torch.set_rng_state(state)
    return model


def tiny_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh tiny hooked model with a tokenizer."""
    return probes.load_model(tiny_hf_model(family, dtype), tokenizer=tiny_tokenizer())


@cache
def tiny_tokenizer() -> Any:
    """Words `w0` to `w97` are the ids 3 to 100; 0 pads, 1 begins, 2 ends."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(D_VOCAB - 3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, D_VOCAB, (rows, length), generator=generator)


def padded(lengths: list[int], side: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows of some lengths, padded to the longest on one side; ids and mask."""
    width = max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, where] = tokens(1, length, seed + row)[0]
        mask[row, where] = 1
    return ids, mask
