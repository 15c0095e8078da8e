r"""Weights and facts of a model by TransformerLens's names: `model.W_Q`, `model.cfg.n_heads`.

`model.blocks[3].attn.W_Q` is a view of the model's own weight, without gradients; what has no such
storage is computed (adapters, pruned projections). `model.W_Q` stacks those of all layers, which
copies them. Heads that share keys and values share `W_K` and `W_V`: there are as many as key heads,
and query head `h` reads `h // (n_heads // n_key_value_heads)`. Norms are not folded in.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.anatomy import Anatomy
from probes.checking import activation_name
from probes.places import view_of
from probes.projections import bias_of, computed_rows, kind_of, matrix_of
from probes.running_model import RunningModel
from probes.shown import Shown
from probes.sites import Site


@dataclass(frozen=True, repr=False)
class _Part(Shown):
    anatomy: Anatomy
    layer: int

    def _map(self, site: Site) -> tuple[Tensor, Tensor | None]:
        """Matrix and bias of the projection that gives a site, their columns split as it is."""
        reason = self.anatomy.architecture.lacks(site)
        if reason and site is not Site.MLP_OUT:
            raise AttributeError(reason)
        module = getattr(self.anatomy.layers[self.layer], _PROJECTIONS[site])
        matrix, bias = matrix_of(module).detach(), bias_of(module)
        view = None if site is Site.HEAD_RESULTS else view_of(self.anatomy, site)
        if view is None:
            return matrix, bias
        return view.read(matrix), None if bias is None else view.read(bias)


_PROJECTIONS = {
    Site.QUERY: "q",
    Site.KEY: "k",
    Site.VALUE: "v",
    Site.HEAD_RESULTS: "o",
    Site.MLP_UP: "up",
    Site.MLP_GATE: "gate",
    Site.MLP_OUT: "down",
}


def _weight(site: Site, doc: str) -> Any:
    def weight(part: _Part) -> Tensor:
        matrix = part._map(site)[0]
        if site is Site.HEAD_RESULTS:
            return matrix.unflatten(0, (part.anatomy.n_heads, part.anatomy.d_head))
        return matrix.movedim(0, 1) if matrix.ndim == 3 else matrix

    return property(weight, doc=doc)


def _bias(site: Site, doc: str) -> Any:
    def bias(part: _Part) -> Tensor:
        found = part._map(site)[1]
        if found is None:
            family, name = part.anatomy.architecture.family, doc.partition(",")[0]
            raise AttributeError(f"{family} has no {name}: that projection has no bias")
        return found.detach()

    return property(bias, doc=doc)


class AttentionWeights(_Part):
    """Weights of one layer's attention."""

    W_Q = _weight(Site.QUERY, "From the normed stream to queries, `[head d_model d_head]`.")
    W_K = _weight(Site.KEY, "From the normed stream to keys, `[kv_head d_model d_head]`.")
    W_V = _weight(Site.VALUE, "From the normed stream to values, `[kv_head d_model d_head]`.")
    W_O = _weight(Site.HEAD_RESULTS, "From mixed values to the stream, `[head d_head d_model]`.")
    b_Q = _bias(Site.QUERY, "b_Q, added to queries, `[head d_head]`.")
    b_K = _bias(Site.KEY, "b_K, added to keys, `[kv_head d_head]`.")
    b_V = _bias(Site.VALUE, "b_V, added to values, `[kv_head d_head]`.")
    b_O = _bias(Site.HEAD_RESULTS, "b_O, added to what all heads write, `[d_model]`.")


class MLPWeights(_Part):
    """Weights of one layer's MLP."""

    W_in = _weight(Site.MLP_UP, "From the normed stream to the up branch, `[d_model d_mlp]`.")
    W_gate = _weight(Site.MLP_GATE, "From the normed stream to the gate, `[d_model d_mlp]`.")
    W_out = _weight(Site.MLP_OUT, "The memory vectors, one a row: `[d_mlp d_model]`.")
    b_in = _bias(Site.MLP_UP, "b_in, added to the up branch, `[d_mlp]`.")
    b_gate = _bias(Site.MLP_GATE, "b_gate, added to the gate, `[d_mlp]`.")
    b_out = _bias(Site.MLP_OUT, "b_out, added to what all memory vectors write, `[d_model]`.")


class Block(NamedTuple):
    """One layer's weights."""

    attn: AttentionWeights
    mlp: MLPWeights


class Blocks(tuple[Block, ...]):
    """The weights of each layer."""

    def __getitem__(self, layer: Any) -> Any:
        try:
            return super().__getitem__(layer)
        except (IndexError, TypeError):
            raise IndexError(
                f"layer {layer!r} does not exist; blocks are numbered 0 to {len(self) - 1}"
            ) from None


def _stacked(part: str, name: str, axes: str) -> Any:
    def of_all_layers(model: Any) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in model.blocks])

    return property(of_all_layers, doc=f"`{name}` of all layers, stacked: `[layer {axes}]`.")


class Weights:
    """The weights of a model; one that it has no such weight for is an AttributeError."""

    anatomy: Any

    W_Q = _stacked("attn", "W_Q", "head d_model d_head")
    W_K = _stacked("attn", "W_K", "kv_head d_model d_head")
    W_V = _stacked("attn", "W_V", "kv_head d_model d_head")
    W_O = _stacked("attn", "W_O", "head d_head d_model")
    b_Q = _stacked("attn", "b_Q", "head d_head")
    b_K = _stacked("attn", "b_K", "kv_head d_head")
    b_V = _stacked("attn", "b_V", "kv_head d_head")
    b_O = _stacked("attn", "b_O", "d_model")
    W_in = _stacked("mlp", "W_in", "d_model d_mlp")
    W_gate = _stacked("mlp", "W_gate", "d_model d_mlp")
    W_out = _stacked("mlp", "W_out", "d_mlp d_model")
    b_in = _stacked("mlp", "b_in", "d_mlp")
    b_gate = _stacked("mlp", "b_gate", "d_mlp")
    b_out = _stacked("mlp", "b_out", "d_model")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The weights of each layer, `model.blocks[3].attn.W_Q` for example, as views."""
        anatomy = self.anatomy
        layers = range(len(anatomy.layers))
        return Blocks(Block(AttentionWeights(anatomy, i), MLPWeights(anatomy, i)) for i in layers)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The token embedding, one token a row."""
        return _rows_of(self.anatomy.embed, self.anatomy.n_tokens)

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """The embedding of positions, one position a row."""
        anatomy = self.anatomy
        if reason := anatomy.architecture.lacks(Site.POS_EMBED):
            raise AttributeError(reason)
        # OPT counts its positions from 2.
        return anatomy.pos_embed.weight.detach()[getattr(anatomy.pos_embed, "offset", 0) :]

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, one token a column."""
        return matrix_of(self.anatomy.unembed).detach()

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        """The bias of the logits; zeros where there is none."""
        bias, matrix = bias_of(self.anatomy.unembed), self.W_U
        return matrix.new_zeros(matrix.shape[1]) if bias is None else bias.detach()


def _rows_of(embedding: Any, n_rows: int) -> Float[Tensor, "row d_model"]:
    if isinstance(embedding, torch.nn.Embedding) and "weight" in embedding._parameters:
        return embedding.weight.detach()
    return computed_rows(embedding, n_rows).detach()


@dataclass(frozen=True, kw_only=True)
class ModelFacts(Shown):
    """What a model is like; sizes are numbers of things."""

    model_name: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    n_key_value_heads: int | None  # None where every query head has keys and values of its own
    d_mlp: int
    d_vocab: int
    n_ctx: int | None  # how many tokens a row may have; None where the configuration sets no limit
    act_fn: str | None  # transformers' name for the MLP's activation
    gated_mlp: bool
    parallel_attn_mlp: bool  # whether attention and MLP read the same stream
    normalization_type: str  # `"LN"` or `"RMS"`
    eps: float
    positional_embedding_type: str  # `"standard"` (learned), `"rotary"` or `"alibi"`
    dtype: torch.dtype
    device: str


def facts_of(model: RunningModel) -> ModelFacts:
    """The facts of a model."""
    anatomy, config = model.anatomy, model.engine.config
    norm = kind_of(anatomy.final_norm, anatomy.d_model)
    grouped = anatomy.n_key_value_heads != anatomy.n_heads
    return ModelFacts(
        model_name=model.name,
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        d_head=anatomy.d_head,
        n_key_value_heads=anatomy.n_key_value_heads if grouped else None,
        d_mlp=model.d_mlp,
        d_vocab=model.d_vocab,
        n_ctx=model.n_positions,
        act_fn=activation_name(config, anatomy.architecture.activation),
        gated_mlp=anatomy.architecture.gated,
        parallel_attn_mlp=anatomy.architecture.mid is None,
        normalization_type="LN" if norm.centred else "RMS",
        eps=norm.eps,
        positional_embedding_type=_positions(model, config),
        dtype=model.dtype,
        device=str(model.device),
    )


def _positions(model: RunningModel, config: Any) -> str:
    if not model.lacks(Site.POS_EMBED):
        return "standard"
    alibi = getattr(config, "alibi", None) or config.model_type in ("bloom", "mpt")
    return "alibi" if alibi else "rotary"
