r"""Direct logit attribution: what every part of a model adds to a logit.

The stream that the final norm reads is a sum: embeddings, what each head and each memory vector has
written, and biases. With the norm's scale frozen at what the whole sum gives, a logit is linear in
the parts: a part :math:`x` adds :math:`x \cdot d`, where :math:`d` is the token's column of the
unembedding taken back through the norm. Norms of what attention or MLP has written (OLMo 2, Gemma
2) are frozen as well; of soft-capped logits the one before the cap is taken apart. Sums are checked
against the model's own logit in every call.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021); for memory
vectors Geva et al., arXiv 2203.14680.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probes.anatomy import Anatomy, Layer
from probes.captured import Captured
from probes.checking import hooked_model, takes, tolerance, wide
from probes.corpus.token_batch import as_token_batch
from probes.hooks import capture
from probes.places import results_of_heads
from probes.projections import NormRun, bias_of, device_of, matrix_of
from probes.prompts import Ids, one_prompt, place_in, shown_tokens, token_id
from probes.running_model import RunningModel
from probes.shown import Result, frame_of
from probes.sites import Site

OnePrompt = str | Sequence[Any] | Int[Tensor, "..."]
"""A text, or a row of token ids, which may come as `[1 pos]`."""


@dataclass(frozen=True, eq=False)
class LogitAttribution(Result):
    """What the parts of a model add to a logit, or to a difference of two, at one position.

    Attributes:
        about: the model.
        what: which logit, in words.
        prompt: the tokens of the prompt.
        position: where the logit is read, from the start.
        logit: the model's own; before the soft-cap where the family has one.
        embeddings: what the embedding adds, and that of positions where there is one.
        heads: `[layer head]`.
        attention_bias: the bias of attention's last projection, `[layer]`.
        memory: what each memory vector adds with its coefficient, `[layer d_mlp]`.
        mlp_bias: the bias of the down projection, `[layer]`.
        final_bias: the biases of the final norm and of the unembedding.
    """

    about: str
    what: str
    prompt: tuple[str, ...]
    position: int
    logit: float
    embeddings: Mapping[str, float]
    heads: Float[Tensor, "layer head"]
    attention_bias: Float[Tensor, "layer"]
    memory: Float[Tensor, "layer d_mlp"]
    mlp_bias: Float[Tensor, "layer"]
    final_bias: float

    @property
    def attention(self) -> Float[Tensor, "layer"]:
        """What attention adds, heads and bias together."""
        return self.heads.sum(dim=1) + self.attention_bias

    @property
    def mlp(self) -> Float[Tensor, "layer"]:
        """What the MLP adds, memory vectors and bias together."""
        return self.memory.sum(dim=1) + self.mlp_bias

    @property
    def total(self) -> float:
        """The sum of all parts, which is the logit but for rounding."""
        layers = float(self.attention.sum() + self.mlp.sum())
        return sum(self.embeddings.values()) + layers + self.final_bias

    def _facts(self) -> Mapping[str, Any]:
        rows = self.to_dataframe()
        most = rows.reindex(rows["contribution"].abs().sort_values(ascending=False).index)[:3]
        shown = (f"{r.component} {r.contribution:+.3g}" for r in most.itertuples())
        return {"": f"{self.what}, {self.about}", "logit": self.logit, "most": ", ".join(shown)}

    def to_dataframe(self) -> Any:
        """One row per part, MLPs whole: `component`, `kind`, `layer`, `head`, `contribution`."""
        rows: list[tuple[str, str, int | None, int | None, float]] = [
            (name, "embedding", None, None, value) for name, value in self.embeddings.items()
        ]
        for layer, heads in enumerate(self.heads.tolist()):
            rows += [(f"L{layer}H{h}", "head", layer, h, v) for h, v in enumerate(heads)]
            bias, mlp = float(self.attention_bias[layer]), float(self.mlp[layer])
            rows.append((f"{layer}_attn_bias", "attention bias", layer, None, bias))
            rows.append((f"{layer}_mlp_out", "mlp", layer, None, mlp))
        rows.append(("final_bias", "final bias", None, None, self.final_bias))
        names = ("component", "kind", "layer", "head", "contribution")
        frame = frame_of(dict(zip(names, zip(*rows, strict=True), strict=True)))
        return frame.astype({"layer": "Int64", "head": "Int64"})


@takes(model=hooked_model)
def logit_attribution(
    model: RunningModel,
    prompt: OnePrompt,
    token: str | int,
    minus: str | int | None = None,
    *,
    position: int = -1,
    prepend_bos: bool | None = None,
) -> LogitAttribution:
    """What embeddings, heads, MLPs and memory vectors add to the logit of a token.

    Args:
        model: the model; whatever is attached to it is in the pass.
        prompt: one text, or its token ids.
        token: as text that is one token, or its id.
        minus: a token whose logit is subtracted, so that the difference is taken apart.
        position: where the logit is read; below 0 from the end.
        prepend_bos: of text, as `HookedModel.to_tokens`.

    Raises:
        ValueError: a text is not one token, the position does not exist, the model's parts are not
            told apart, or they do not add up to its logit.
    """
    ids = one_prompt(model, prompt, prepend_bos)
    tokens = [token_id(model, one) for one in (token, minus) if one is not None]
    if len(tokens) != len(set(tokens)):
        raise ValueError(f"token and minus are both {token!r}, so nothing is left; give two tokens")
    place = place_in(position, len(ids))
    readout = Readout.of(model, ids, place, tokens)
    found = readout.parts()
    shown = [repr(text) for text in shown_tokens(model, tokens)]
    capped = model.anatomy.logit_softcap
    result = LogitAttribution(
        about=model.name,
        what=f"logit of {' minus that of '.join(shown)}"
        + (f", before the soft-cap of {capped:g}" if capped is not None else ""),
        prompt=tuple(shown_tokens(model, ids)),
        position=place,
        logit=readout.logit,
        **found,
    )
    readout.refuse_other_sum(result)
    return result


@dataclass(frozen=True, eq=False)
class Readout:
    """One position of one pass, and the direction of a logit there, before the final norm."""

    model: RunningModel
    captured: Captured
    place: int
    direction: Float[Tensor, "d_model"]
    logit: float
    final_bias: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: RunningModel, ids: Ids, place: int, tokens: list[int]) -> "Readout":
        """Run a prompt; a second token's logit is subtracted."""
        for site in (Site.ATTENTION_OUT, Site.MLP_OUT, Site.MIXED_VALUES):
            if reason := model.lacks(site):
                raise ValueError(f"a logit cannot be taken apart: {reason}")
        sites = [Site.RESID_PRE, Site.MIXED_VALUES, Site.MLP_COEFFICIENTS, Site.RESID_POST]
        if not model.lacks(Site.POS_EMBED):
            sites += [Site.EMBED, Site.POS_EMBED]
        batch = as_token_batch({"input_ids": torch.tensor([ids])})
        captured = capture(model, batch, [*sites, Site.FINAL_NORM])
        anatomy = model.anatomy
        column, constant = token_direction(anatomy, tokens)
        final = NormRun(anatomy.final_norm, _at(captured, Site.RESID_POST, -1, place))
        normed = _at(captured, Site.FINAL_NORM, None, place)
        logit = float(normed @ column.to(normed)) + constant
        direction = final.pulled_back(column.to(final.scale))
        bias = final.from_bias(column) + constant
        return cls(model, captured, place, direction, logit, bias)

    def vector(self, site: Site, layer: int | None) -> Tensor:
        return _at(self.captured, site, layer, self.place)

    @torch.no_grad()
    def parts(self) -> dict[str, Any]:
        """What everything adds, by the names of `LogitAttribution`."""
        both = not self.model.lacks(Site.POS_EMBED)
        begins: dict[str, tuple[Site, int | None]] = {"embed": (Site.RESID_PRE, 0)}
        if both:
            begins = {"embed": (Site.EMBED, None), "pos_embed": (Site.POS_EMBED, None)}
        layers = range(self.model.n_layers)
        heads, attention_bias = zip(*map(self.attention, layers), strict=True)
        memory, mlp_bias = zip(*map(self.memory, layers), strict=True)
        return {
            "embeddings": {n: self._along(self.vector(*at)) for n, at in begins.items()},
            "heads": torch.stack(heads),
            "attention_bias": heads[0].new_tensor(attention_bias),
            "memory": torch.stack(memory),
            "mlp_bias": memory[0].new_tensor(mlp_bias),
            "final_bias": self.final_bias,
        }

    def attention(self, number: int) -> tuple[Float[Tensor, "head"], float]:
        """What each head of a layer adds, and the bias of their projection."""
        anatomy = self.model.anatomy
        layer = anatomy.layers[number]
        values = self.vector(Site.MIXED_VALUES, number).flatten().to(device_of(layer.o))
        written = wide(results_of_heads(anatomy, layer.o, values))
        bias = _bias(layer.o, written[0])
        norm = norm_after(layer.attention_out, (layer.attention, layer.o))
        direction, added = self._before(norm, written.sum(dim=0) + bias)
        return (written @ direction).cpu(), float(bias @ direction) + added

    def memory(self, number: int) -> tuple[Float[Tensor, "d_mlp"], float]:
        """What each memory vector of a layer adds, and the bias of the down projection."""
        coefficients, vectors, direction, bias = self.mlp(number)
        return coefficients * (vectors @ direction), bias

    @torch.no_grad()
    def mlp(
        self, number: int
    ) -> tuple[
        Float[Tensor, "d_mlp"], Float[Tensor, "d_mlp d_model"], Float[Tensor, "d_model"], float
    ]:
        """Coefficients, memory vectors, the direction to read these along, and what biases add."""
        layer = self.model.anatomy.layers[number]
        vectors = wide(layer.memory_vectors)
        coefficients = self.vector(Site.MLP_COEFFICIENTS, number).to(vectors)
        bias = _bias(layer.down, vectors[0])
        norm = mlp_norm(layer)
        direction, added = self._before(norm, coefficients @ vectors + bias)
        constant = float(bias @ direction) + added
        return coefficients.cpu(), vectors.cpu(), direction.cpu(), constant

    def refuse_other_sum(self, result: LogitAttribution) -> None:
        """Refuse parts that are not all there is."""
        largest = max(
            abs(result.logit), float(result.heads.abs().max()), float(result.mlp.abs().max())
        )
        # Many families' norms compute in float32, whatever they get.
        share = max(tolerance(self.model.dtype), tolerance(torch.float32))
        if not abs(result.total - result.logit) <= share * max(largest, 1.0):
            raise ValueError(
                f"the parts of {self.model.name} add up to {result.total:.6g}, and its logit is "
                f"{result.logit:.6g}: something else writes to its stream; take off what is "
                "attached to the model, or read the stream with run_with_cache"
            )

    def _before(self, norm: Any, received: Tensor) -> tuple[Tensor, float]:
        """The direction before a block's own norm, and what that norm's bias adds."""
        direction = self.direction.to(received)
        if norm is None:
            return direction, 0.0
        run = NormRun(norm, received)
        return run.pulled_back(direction), run.from_bias(direction)

    def _along(self, part: Tensor) -> float:
        return float(wide(part) @ self.direction.to(part.device))


@torch.no_grad()
def token_direction(anatomy: Anatomy, tokens: list[int]) -> tuple[Float[Tensor, "d_model"], float]:
    """What the normed stream is multiplied by for a logit (less another's), and the bias."""
    columns = wide(matrix_of(anatomy.unembed)[:, tokens]) * anatomy.logit_scale
    signs = columns.new_tensor([1.0, -1.0][: len(tokens)])
    bias = bias_of(anatomy.unembed)
    constant = 0.0 if bias is None else float(wide(bias[tokens]) @ signs) * anatomy.logit_scale
    return columns @ signs, constant


def norm_after(output: Any, own: tuple[Any, ...]) -> Any | None:
    """The norm that a part's output goes through before it is added to the stream, if any."""
    plain = output in own or isinstance(output, nn.Dropout | nn.Identity)
    return None if plain else output


def mlp_norm(layer: Layer) -> Any | None:
    """The norm that memory vectors go through before they reach the stream, if any."""
    return norm_after(layer.mlp_out, (layer.mlp, layer.down))


def _bias(projection: Any, like: Tensor) -> Tensor:
    bias = bias_of(projection)
    return torch.zeros_like(like) if bias is None else wide(bias.detach()).to(like)


def _at(captured: Captured, site: Site, layer: int | None, place: int) -> Tensor:
    return wide(captured[site, layer][0, place])
