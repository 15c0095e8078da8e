"""Attention of the families that compute it themselves, in loops over heads, queries and keys.

Nothing of the models but their weights is used: heads are split, rotated and biased here. All in
float64, for one row without pads.
"""

import math
from typing import Any

import torch
from torch import Tensor

INTERLEAVED = ("gptj", "codegen")


def scores(hf_model: Any, family: str, layer: int, normed: Tensor) -> Tensor:
    """`[head query key]`, masked with -inf, of what the attention of a layer reads."""
    query, key, _ = heads(hf_model, family, layer, normed)
    n_heads, length, width = query.shape
    found = torch.full((n_heads, length, length), -torch.inf, dtype=torch.float64)
    scale = 1.0 if family == "gpt_neo" else 1 / math.sqrt(width)
    window = 3 if family == "gpt_neo" and layer == 1 else length
    for h in range(n_heads):
        for i in range(length):
            for j in range(max(0, i + 1 - window), i + 1):
                product = sum(
                    float(a) * float(b) for a, b in zip(query[h, i], key[h, j], strict=True)
                )
                found[h, i, j] = scale * product + alibi(family, h, n_heads, j, length, scale)
    return found


def attention_out(hf_model: Any, family: str, layer: int, normed: Tensor, of: Tensor) -> Tensor:
    """`[pos d_model]`: the values mixed by the softmax of scores, and projected."""
    value = heads(hf_model, family, layer, normed)[2]
    mixed = torch.cat([row.softmax(-1) @ values for row, values in zip(of, value, strict=True)], -1)
    module = attention(hf_model, family, layer)
    out = module.dense if hasattr(module, "dense") else module.out_proj
    return projected(out, mixed)


def alibi(family: str, head: int, n_heads: int, key: int, length: int, scale: float) -> float:
    """What is added to the score of a key."""
    if family == "bloom":
        return slope(head, n_heads) * key
    if family == "falcon_rw":
        # Slopes are rounded to bfloat16, products of these and positions again.
        rounded = torch.tensor(slope(head, n_heads)).bfloat16() * key
        return float(rounded.bfloat16()) * scale
    if family == "mpt":
        whole = 2 ** math.ceil(math.log2(n_heads))
        every = [2 ** (-8 * (h + 1) / whole) for h in range(whole)]
        if whole != n_heads:
            every = every[1::2] + every[::2]
        return every[head] * (key - (length - 1))
    return 0.0


def slope(head: int, n_heads: int) -> float:
    """Powers of 2^(-8/n) for the largest n, a power of two; then every other one of twice that."""
    whole = 2 ** math.floor(math.log2(n_heads))
    if head < whole:
        return 2 ** (-8 / whole * (head + 1))
    return 2 ** (-8 / (2 * whole) * (2 * (head - whole) + 1))


def heads(hf_model: Any, family: str, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `[head pos d_head]`, rotated."""
    module, n_heads = attention(hf_model, family, layer), hf_model.config.num_attention_heads
    if family in ("gptj", "gpt_neo"):
        parts = [
            projected(p, normed).unflatten(-1, (n_heads, -1)).transpose(0, 1)
            for p in (module.q_proj, module.k_proj, module.v_proj)
        ]
    elif family == "codegen":
        four = projected(module.qkv_proj, normed).unflatten(-1, (4, 3, n_heads // 4, -1))
        query, value, key = (four[:, :, i].flatten(1, 2).transpose(0, 1) for i in range(3))
        parts = [query, key, value]
    elif family == "mpt":
        three = projected(module.Wqkv, normed).unflatten(-1, (3, n_heads, -1))
        parts = [three[:, i].transpose(0, 1) for i in range(3)]
    else:
        groups = {"falcon": 2, "falcon_7b": 1}.get(family, n_heads)
        fused = projected(module.query_key_value, normed)
        fused = fused.unflatten(-1, (groups, n_heads // groups + 2, -1))
        repeated = n_heads // groups
        parts = [
            fused[:, :, :-2].flatten(1, 2).transpose(0, 1),
            fused[:, :, -2].repeat_interleave(repeated, 1).transpose(0, 1),
            fused[:, :, -1].repeat_interleave(repeated, 1).transpose(0, 1),
        ]
    query, key, value = parts
    return rotated(query, family), rotated(key, family), value


def rotated(rows: Tensor, family: str) -> Tensor:
    """Pairs of entries turned by position; the first six in GPT-J and CodeGen, halves in Falcon."""
    if family in INTERLEAVED:
        width, pairs = 6, [(2 * i, 2 * i + 1) for i in range(3)]
    elif family in ("falcon", "falcon_7b"):
        width = rows.shape[-1]
        pairs = [(i, i + width // 2) for i in range(width // 2)]
    else:
        return rows
    turned = rows.clone()
    for pos in range(rows.shape[1]):
        for i, (a, b) in enumerate(pairs):
            angle = pos * 10000 ** (-2 * i / width)
            cos, sin = math.cos(angle), math.sin(angle)
            turned[:, pos, a] = rows[:, pos, a] * cos - rows[:, pos, b] * sin
            turned[:, pos, b] = rows[:, pos, b] * cos + rows[:, pos, a] * sin
    return turned


def attention(hf_model: Any, family: str, layer: int) -> Any:
    """The module with the projections."""
    trunk = hf_model.transformer
    block = (trunk.blocks if family == "mpt" else trunk.h)[layer]
    if family == "gpt_neo":
        return block.attn.attention
    return block.attn if hasattr(block, "attn") else block.self_attention


def projected(module: Any, rows: Tensor) -> Tensor:
    """A linear projection, in float64."""
    out = rows.double() @ module.weight.detach().double().T
    return out if module.bias is None else out + module.bias.detach().double()
