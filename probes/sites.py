"""Sites: the named places of a transformer where a tensor can be read or replaced.

A `Site` is a kind of place (the MLP coefficients, the residual stream after a block); a
`HookPoint` is a site at one layer. Every hook point has the name that TransformerLens users
know (`blocks.3.mlp.hook_post`), and such names are accepted wherever a hook point is.

Shapes, with the axis names of the glossary; `i` is the layer, `j` 1 for the norm that attention
reads the stream through and 2 for the MLP's:

======================  =====================================  ===========================
site                    TransformerLens name                   shape
======================  =====================================  ===========================
`EMBED`               `hook_embed`                         `batch pos d_model`
`POS_EMBED`           `hook_pos_embed`                     `batch pos d_model`
`RESID_PRE`           `blocks.i.hook_resid_pre`            `batch pos d_model`
`ATTENTION_IN` *      `blocks.i.hook_attn_in`              `batch pos head d_model`
`LN1_SCALE`, `LN2_`   `blocks.i.lnj.hook_scale`            `batch pos 1`
`LN1_NORMALIZED`, ..  `blocks.i.lnj.hook_normalized`       `batch pos d_model`
`QUERY`               `blocks.i.attn.hook_q`               `batch pos head d_head`
`KEY`, `VALUE`        `blocks.i.attn.hook_k`, `hook_v`     `batch pos kv_head d_head`
`ROTATED_QUERY`       `blocks.i.attn.hook_rot_q`           `batch pos head d_head`
`ROTATED_KEY`         `blocks.i.attn.hook_rot_k`           `batch pos kv_head d_head`
`ATTENTION_SCORES`    `blocks.i.attn.hook_attn_scores`     `batch head query_pos key_pos`
`ATTENTION_PATTERN`   `blocks.i.attn.hook_pattern`         `batch head query_pos key_pos`
`MIXED_VALUES`        `blocks.i.attn.hook_z`               `batch pos head d_head`
`HEAD_RESULTS` *      `blocks.i.attn.hook_result`          `batch pos head d_model`
`ATTENTION_OUT`       `blocks.i.hook_attn_out`             `batch pos d_model`
`RESID_MID`           `blocks.i.hook_resid_mid`            `batch pos d_model`
`MLP_IN` *            `blocks.i.hook_mlp_in`               `batch pos d_model`
`MLP_GATE`            `blocks.i.mlp.hook_pre`              `batch pos d_mlp`
`MLP_UP`              `blocks.i.mlp.hook_pre_linear`       `batch pos d_mlp`
`MLP_COEFFICIENTS`    `blocks.i.mlp.hook_post`             `batch pos d_mlp`
`MLP_OUT`             `blocks.i.hook_mlp_out`              `batch pos d_model`
`RESID_POST`          `blocks.i.hook_resid_post`           `batch pos d_model`
`FINAL_SCALE`         `ln_final.hook_scale`                `batch pos 1`
`FINAL_NORMALIZED`    `ln_final.hook_normalized`           `batch pos d_model`
`FINAL_NORM`          `ln_final.hook_out`                  `batch pos d_model`
`LOGITS`              `hook_unembed`                       `batch pos d_vocab`
======================  =====================================  ===========================

Those with a star are read and edited where they are named; they are not among "everything". An edit
of `ATTENTION_IN` or `MLP_IN` is for attention or the MLP alone, one of `RESID_PRE` or `RESID_MID`
for the stream as well. A norm's `normalized` stream is that over its `scale`, before its weight and
bias. Queries, keys and values are those of the projections, without the norms that some families
put on them.

In an MLP without a gate, `blocks.i.mlp.hook_pre` is the up projection's output, as in
TransformerLens, and `MLP_GATE` does not exist. Scores are scaled, soft-capped and masked (a
masked entry is `-inf`); scores, pattern, scales and normalized streams are float32 or wider
whatever the model's type.

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
    POS_EMBED = "pos_embed"
    RESID_PRE = "resid_pre"
    ATTENTION_IN = "attention_in"
    LN1_SCALE = "ln1_scale"
    LN1_NORMALIZED = "ln1_normalized"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    ROTATED_QUERY = "rotated_query"
    ROTATED_KEY = "rotated_key"
    ATTENTION_SCORES = "attention_scores"
    ATTENTION_PATTERN = "attention_pattern"
    MIXED_VALUES = "mixed_values"
    HEAD_RESULTS = "head_results"
    ATTENTION_OUT = "attention_out"
    RESID_MID = "resid_mid"
    MLP_IN = "mlp_in"
    LN2_SCALE = "ln2_scale"
    LN2_NORMALIZED = "ln2_normalized"
    MLP_GATE = "mlp_gate"
    MLP_UP = "mlp_up"
    MLP_COEFFICIENTS = "mlp_coefficients"
    MLP_OUT = "mlp_out"
    RESID_POST = "resid_post"
    FINAL_SCALE = "final_scale"
    FINAL_NORMALIZED = "final_normalized"
    FINAL_NORM = "final_norm"
    LOGITS = "logits"

    @property
    def per_layer(self) -> bool:
        """Whether the site exists once in every layer, rather than once in the model."""
        return self not in _MODEL_SITES

    @property
    def on_request(self) -> bool:
        """Whether it is read only where it is named: it would take memory, or says nothing new."""
        return self in (Site.ATTENTION_IN, Site.HEAD_RESULTS, Site.MLP_IN)


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


class NamedPoint(HookPoint):
    """A hook point that also has its TransformerLens name, as functions receive it."""

    name: str


_MODEL_SITES = {
    Site.EMBED: "hook_embed",
    Site.POS_EMBED: "hook_pos_embed",
    Site.FINAL_SCALE: "ln_final.hook_scale",
    Site.FINAL_NORMALIZED: "ln_final.hook_normalized",
    Site.FINAL_NORM: "ln_final.hook_out",
    Site.LOGITS: "hook_unembed",
}
_LAYER_SITES = {
    Site.RESID_PRE: "hook_resid_pre",
    Site.ATTENTION_IN: "hook_attn_in",
    Site.LN1_SCALE: "ln1.hook_scale",
    Site.LN1_NORMALIZED: "ln1.hook_normalized",
    Site.QUERY: "attn.hook_q",
    Site.KEY: "attn.hook_k",
    Site.VALUE: "attn.hook_v",
    Site.ROTATED_QUERY: "attn.hook_rot_q",
    Site.ROTATED_KEY: "attn.hook_rot_k",
    Site.ATTENTION_SCORES: "attn.hook_attn_scores",
    Site.ATTENTION_PATTERN: "attn.hook_pattern",
    Site.MIXED_VALUES: "attn.hook_z",
    Site.HEAD_RESULTS: "attn.hook_result",
    Site.ATTENTION_OUT: "hook_attn_out",
    Site.RESID_MID: "hook_resid_mid",
    Site.MLP_IN: "hook_mlp_in",
    Site.LN2_SCALE: "ln2.hook_scale",
    Site.LN2_NORMALIZED: "ln2.hook_normalized",
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


def named(point: HookPoint, *, gated: bool) -> NamedPoint:
    """A hook point with its TransformerLens name."""
    found = NamedPoint(*point)
    found.name = hook_name(point, gated=gated)
    return found


ORDER = {site: place for place, site in enumerate(Site)}
"""Sites by the order in which a forward pass comes by."""

_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "mlp_pre": "pre",
    "mlp_post": "post",
    "key": "k",
    "query": "q",
    "value": "v",
}
_SHORT = re.compile(r"([a-z_]+?)(\d+)(ln[12])?")


def as_hook_point(key: Any, *, gated: bool, n_layers: int) -> HookPoint:
    """The hook point of a `(site, layer)` pair or a TransformerLens name, full or short.

    Short names are `("pattern", 0)`, `("scale", 0, "ln1")`, `"pattern0"` and `"embed"`; a layer
    below 0 counts from the last.
    """
    if isinstance(key, str):
        if key in list(Site) and not Site(key).per_layer:
            return HookPoint(Site(key), None)
        if "hook_" in key:
            return parse_hook_point(key, gated=gated)
        match = _SHORT.fullmatch(key)
        key = (match[1], int(match[2]), match[3]) if match else (key, None)
    if not isinstance(key, tuple | list) or not key or not isinstance(key[0], str):
        raise ValueError(
            f"{key!r} names no hook point; give a TransformerLens name, or a pair such as "
            "('pattern', 0) or (probes.Site.RESID_POST, 0)"
        )
    name, layer, *rest = (*key, None) if len(key) > 1 else (*key, None, None)
    if layer is not None and not hasattr(layer, "__index__"):
        raise ValueError(f"layer is {layer!r}; give a number from 0 to {n_layers - 1}")
    if layer is not None and -n_layers <= layer < 0:
        layer += n_layers
    if isinstance(name, Site) or name in list(Site):
        return HookPoint(Site(name), layer)
    return parse_hook_point(_full_name(name, layer, rest[0], gated), gated=gated)


def _full_name(short: Any, layer: int | None, part: str | None, gated: bool) -> str:
    """The name whose last word is a short one; the short one itself where there is none."""
    wanted = f"hook_{_ALIASES.get(short, short)}"
    known = _MODEL_SITES.values() if layer is None else _names_in_a_layer(gated)
    found = [name for name in known if name.rpartition(".")[2] == wanted]
    fits = [name for name in found if part in (None, "attn", "mlp", "a", "m") or part in name]
    if len(fits) > 1:
        raise ValueError(
            f"{short!r} of layer {layer} could be {' or '.join(fits)}; say which, as in "
            f"({short!r}, {layer}, {fits[0].partition('.')[0]!r})"
        )
    tail = fits[0] if fits else wanted
    return tail if layer is None else f"blocks.{layer}.{tail}"


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
    in_layer = {f"blocks.{layer}.{n}": n for n in _names_in_a_layer(gated)}
    known = [*_MODEL_SITES.values(), *in_layer]
    # A name of a layer without its beginning is meant before others that are spelt about alike.
    known = [n for n, tail in in_layer.items() if tail.rpartition(".")[2] == name] or known
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return f"no hook point is named {name!r}; the nearest is {nearest!r}"
