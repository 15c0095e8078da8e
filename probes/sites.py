"""Sites: the named places of a transformer where a tensor can be read or replaced.

A `Site` is a kind of place (the MLP coefficients, the residual stream after a block); a
`HookPoint` is a site at one layer. Every hook point has the name that TransformerLens users
know (`blocks.3.mlp.hook_post`), and such names are accepted wherever a hook point is.

Shapes, with the axis names of the glossary:

======================  =====================================  ===========================
site                    TransformerLens name                   shape
======================  =====================================  ===========================
`EMBED`               `hook_embed`                         `batch pos d_model`
`RESID_PRE`           `blocks.i.hook_resid_pre`            `batch pos d_model`
`ATTENTION_SCORES`    `blocks.i.attn.hook_attn_scores`     `batch head query_pos key_pos`
`ATTENTION_PATTERN`   `blocks.i.attn.hook_pattern`         `batch head query_pos key_pos`
`ATTENTION_OUT`       `blocks.i.hook_attn_out`             `batch pos d_model`
`RESID_MID`           `blocks.i.hook_resid_mid`            `batch pos d_model`
`MLP_GATE`            `blocks.i.mlp.hook_pre`              `batch pos d_mlp`
`MLP_UP`              `blocks.i.mlp.hook_pre_linear`       `batch pos d_mlp`
`MLP_COEFFICIENTS`    `blocks.i.mlp.hook_post`             `batch pos d_mlp`
`MLP_OUT`             `blocks.i.hook_mlp_out`              `batch pos d_model`
`RESID_POST`          `blocks.i.hook_resid_post`           `batch pos d_model`
`FINAL_NORM`          `ln_final.hook_normalized`           `batch pos d_model`
`LOGITS`              `hook_unembed`                       `batch pos d_vocab`
======================  =====================================  ===========================

In an MLP without a gate, `blocks.i.mlp.hook_pre` is the up projection's output, as in
TransformerLens, and `MLP_GATE` does not exist. Scores are scaled, soft-capped and masked (a
masked entry is `-inf`); scores and pattern are float32 whatever the model's type.

Example:
    >>> parse_hook_point("blocks.3.mlp.hook_post", gated=True)
    HookPoint(site=<Site.MLP_COEFFICIENTS: 'mlp_coefficients'>, layer=3)
    >>> hook_name(HookPoint(Site.MLP_UP, 3), gated=False)
    'blocks.3.mlp.hook_pre'
"""

import difflib
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


class Site(StrEnum):
    """A named place in the model; see the module's table for shapes and TransformerLens names.

    In the order in which a forward pass comes by.
    """

    EMBED = "embed"
    RESID_PRE = "resid_pre"
    ATTENTION_SCORES = "attention_scores"
    ATTENTION_PATTERN = "attention_pattern"
    ATTENTION_OUT = "attention_out"
    RESID_MID = "resid_mid"
    MLP_GATE = "mlp_gate"
    MLP_UP = "mlp_up"
    MLP_COEFFICIENTS = "mlp_coefficients"
    MLP_OUT = "mlp_out"
    RESID_POST = "resid_post"
    FINAL_NORM = "final_norm"
    LOGITS = "logits"

    @property
    def per_layer(self) -> bool:
        """Whether the site exists once in every layer, rather than once in the model."""
        return self not in _MODEL_SITES


def as_site(given: Any) -> Site:
    """A site that may be given as its string."""
    if isinstance(given, str) and given in list(Site):
        return Site(given)
    nearest = difflib.get_close_matches(str(given), list(Site), n=1, cutoff=0)[0]
    raise ValueError(
        f"no site is named {given!r}; the nearest is {str(nearest)!r}, and TransformerLens names "
        "go to run_with_cache"
    )


class HookPoint(NamedTuple):
    """A site at a layer; `layer` is None for the sites that exist once (embed, logits)."""

    site: Site
    layer: int | None


_MODEL_SITES = {
    Site.EMBED: "hook_embed",
    Site.FINAL_NORM: "ln_final.hook_normalized",
    Site.LOGITS: "hook_unembed",
}
_LAYER_SITES = {
    Site.RESID_PRE: "hook_resid_pre",
    Site.ATTENTION_SCORES: "attn.hook_attn_scores",
    Site.ATTENTION_PATTERN: "attn.hook_pattern",
    Site.ATTENTION_OUT: "hook_attn_out",
    Site.RESID_MID: "hook_resid_mid",
    Site.MLP_GATE: "mlp.hook_pre",
    Site.MLP_UP: "mlp.hook_pre_linear",
    Site.MLP_COEFFICIENTS: "mlp.hook_post",
    Site.MLP_OUT: "hook_mlp_out",
    Site.RESID_POST: "hook_resid_post",
}


def hook_name(point: HookPoint, *, gated: bool) -> str:
    """The TransformerLens name of a hook point."""
    if not point.site.per_layer:
        return _MODEL_SITES[point.site]
    if point.site is Site.MLP_UP and not gated:
        return f"blocks.{point.layer}.mlp.hook_pre"
    return f"blocks.{point.layer}.{_LAYER_SITES[point.site]}"


def parse_hook_point(name: str, *, gated: bool) -> HookPoint:
    """The hook point that a TransformerLens name means."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    names = _names_in_a_layer(gated) if match else {n: s for s, n in _MODEL_SITES.items()}
    tail = match[2] if match else name
    if tail not in names:
        raise ValueError(_unknown_name(name, gated))
    return HookPoint(names[tail], int(match[1]) if match else None)


def _names_in_a_layer(gated: bool) -> dict[str, Site]:
    names = {name: site for site, name in _LAYER_SITES.items()}
    if not gated:
        names["mlp.hook_pre"] = Site.MLP_UP
        del names["mlp.hook_pre_linear"]
    return names


def _unknown_name(name: str, gated: bool) -> str:
    layer = match[1] if (match := re.match(r"blocks\.(\d+)\.", name)) else "0"
    known = [*_MODEL_SITES.values(), *(f"blocks.{layer}.{n}" for n in _names_in_a_layer(gated))]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return f"no hook point is named {name!r}; the nearest is {nearest!r}"
