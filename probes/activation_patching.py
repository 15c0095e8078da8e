"""Activation patching: what of a clean run, put into a corrupted one, brings an answer back.

Two prompts of one length differ in what matters for an answer. The corrupted prompt runs again and
again, each time with the clean run's value at one site, layer and position (or of one head) in the
place of its own. **Recovery** is the share of the difference of a metric between the two runs that
this brings back: 0 is the corrupted run, 1 the clean one. Every row of a batch has a patch of its
own; causal tracing (`probes.causal`) is such a sweep too.

Source: Vig et al., arXiv 2004.12265; Meng et al., arXiv 2202.05262; Wang et al., arXiv 2211.00593.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution import OnePrompt
from probes.checking import all_finite, hooked_model, takes
from probes.corpus.token_batch import as_token_batch
from probes.hooks import refusal, run_hooked
from probes.places import Hooks, keeping
from probes.prompts import Ids, one_prompt, place_in, shown_tokens, token_id
from probes.readout import read_in_chunks
from probes.refusals import shown
from probes.running_model import RunningModel
from probes.shown import Result, frame_of
from probes.sites import HookPoint, Site

# Tokens of the rows that run at once on a CPU, and bytes of their logits: larger batches are hardly
# faster there, and take several times the memory. Other devices get so many times as much.
BATCH_TOKENS, LOGITS_BYTES, ELSEWHERE = 256, 4 * 2**20, 16
OF_HEADS = (
    *(Site.QUERY, Site.KEY, Site.VALUE, Site.ROTATED_QUERY, Site.ROTATED_KEY),
    *(Site.MIXED_VALUES, Site.HEAD_RESULTS, Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN),
)
"""Sites with an axis for heads."""
_HEADS_FIRST = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)


class Patch(NamedTuple):
    """What one row takes from another run."""

    points: tuple[HookPoint, ...]
    positions: tuple[int, ...]
    head: int | None = None  # None for all


Values = Mapping[HookPoint, Tensor]
"""What another run has had at hook points: tensors of one row, `[pos ...]` or, of attention scores
and patterns, `[head query_pos key_pos]`."""


def keeping_first(points: Sequence[HookPoint], values: dict[HookPoint, Tensor]) -> Hooks:
    """Hooks that keep the first row's values."""
    return keeping(points, values, lambda tensor: tensor.detach()[0].clone())


def _putting(patches: Sequence[Patch], values: Values) -> Hooks:
    """Hooks that put kept values into the rows of a batch, each where its patch says."""
    rows: dict[HookPoint, list[tuple[int, int, int | None]]] = defaultdict(list)
    for row, patch in enumerate(patches):
        for point in patch.points:
            rows[point] += [(row, position, patch.head) for position in patch.positions]

    def put(tensor: Tensor, point: HookPoint) -> Tensor:
        new, kept = tensor.clone(), values[point].to(tensor)
        # Views, so that writing into them writes into the tensor.
        into, of = new, kept
        if point.site in _HEADS_FIRST:
            into, of = new.transpose(1, 2), kept.transpose(0, 1)
        row, position, head = zip(*rows[point], strict=True)
        which = [torch.tensor(axis, device=tensor.device) for axis in (row, position)]
        if head[0] is None:
            into[which[0], which[1]] = of[which[1]]
        else:
            heads = torch.tensor(head, device=tensor.device)
            into[which[0], which[1], heads] = of[which[1], heads]
        return new

    return [(point, put) for point in rows]


def run_patched(
    model: RunningModel,
    ids: Sequence[int],
    patches: Sequence[Patch],
    values: Values,
    read: Callable[[Float[Tensor, "row d_vocab"]], Float[Tensor, "row"]],
    *,
    what: tuple[str, str],
    position: int = -1,
    others: Callable[[slice], Hooks] = lambda _rows: [],
) -> Float[Tensor, "patch"]:
    """What is read off the logits at a position of a prompt, under each patch by itself."""
    room = 1 if model.device.type == "cpu" else ELSEWHERE
    found, size = [], max(1, room * BATCH_TOKENS // len(ids))
    for some in (slice(start, start + size) for start in range(0, len(patches), size)):
        mine = patches[some]
        batch = as_token_batch({"input_ids": torch.tensor([list(ids)]).expand(len(mine), -1)})
        hooks = [*others(some), *_putting(mine, values)]
        normed = run_hooked(model, batch, hooks)
        assert normed is not None
        with torch.no_grad():
            at = normed[:, position]
            logits_bytes = room * LOGITS_BYTES
            got = read_in_chunks(model.anatomy, at, lambda logits, _: read(logits), logits_bytes)
        if not all_finite(got):
            raise refusal(
                model,
                what[0],
                partial(run_hooked, model, batch, hooks),
                torch.ones_like(batch.input_ids, dtype=torch.bool),
                lambda _row, pos: f"{what[1]}, token {pos}",
                (int((~got.isfinite()).nonzero()[0]), position % len(ids)),
            )
        found.append(got.double().cpu())
    return torch.cat(found)


Token = str | int
Metric = Token | tuple[Token, ...] | Callable[[Float[Tensor, "row d_vocab"]], Tensor]
"""A token's logit; the first token's less the second's; or from logits to a number a row."""
DEFAULT_SITES = (Site.RESID_PRE,)


@dataclass(frozen=True, eq=False)
class PatchingResult(Result):
    """What one patch after the other does to a metric.

    Attributes:
        about: the model.
        metric: what is measured, in words.
        sites: names of what was patched.
        by: what `places` are: positions or heads.
        places: positions with their tokens in both prompts, or heads.
        clean: the metric of the clean prompt.
        corrupted: that of the corrupted one.
        patched: that of the corrupted one under each patch, float64; `[site layer place]`.
    """

    about: str
    metric: str
    sites: tuple[str, ...]
    by: str
    places: tuple[str, ...]
    clean: float
    corrupted: float
    patched: Float[Tensor, "site layer place"]

    @property
    def recovery(self) -> Float[Tensor, "site layer place"]:
        """Share of the difference between the two prompts that a patch brings back."""
        return (self.patched - self.corrupted) / (self.clean - self.corrupted)

    def _facts(self) -> Mapping[str, Any]:
        best = self.to_dataframe().nlargest(1, "recovery").iloc[0]
        place = f"{best['site']} of layer {best['layer']}, {self.by} {best['place']}"
        runs = {"clean": self.clean, "corrupted": self.corrupted}
        return {"": self.about, "metric": self.metric, **runs, "most": place}

    def to_dataframe(self) -> Any:
        """One row per site, layer and place: `patched` and `recovery`."""
        index = torch.cartesian_prod(*map(torch.arange, self.patched.shape)).view(-1, 3)
        return frame_of(
            {
                "site": [self.sites[i] for i in index[:, 0].tolist()],
                "layer": index[:, 1],
                "place": [self.places[i] for i in index[:, 2].tolist()],
                "patched": self.patched.flatten(),
                "recovery": self.recovery.flatten(),
            }
        )

    def plot(self, site: str | None = None) -> Any:
        """The recovery of every layer and place as a heatmap, a plotly figure.

        Args:
            site: which site; None for the first.

        Raises:
            ValueError: it was not patched.
        """
        chosen = self.sites[0] if site is None else str(site)
        if chosen not in self.sites:
            raise ValueError(
                f"site {chosen!r} was not patched; give one of {', '.join(self.sites)}"
            )
        return self._drawn(site=chosen)


@takes(model=hooked_model)
def patching(
    model: RunningModel,
    clean: OnePrompt,
    corrupted: OnePrompt,
    *,
    metric: Metric,
    sites: Sequence[Site | str] | Site | str = DEFAULT_SITES,
    positions: Sequence[int | Sequence[int]] | None = None,
    heads: bool = False,
    position: int = -1,
    prepend_bos: bool | None = None,
) -> PatchingResult:
    """Put values of a clean run into a corrupted one, at one site, layer and place at a time.

    Args:
        model: the model; whatever is attached to it is in every run.
        clean: one text, or its token ids: the prompt whose answer is right.
        corrupted: another of as many tokens.
        metric: a token, whose logit is measured; two of them, for the difference of their logits;
            or a function from logits `[row d_vocab]` to a number a row.
        sites: what to patch, one at a time: any site of a layer, or a short name such as `"z"`.
        positions: at which positions, each by itself, a group together; None for every one. With
            `heads`, all of them together.
        heads: whether one head after the other is patched.
        position: where logits are read; below 0 from the end.
        prepend_bos: of texts, as `HookedModel.to_tokens`.

    Returns:
        The metric under every patch, and the recovery.

    Raises:
        ValueError: the prompts differ in length or give the same metric, the model lacks a site, or
            a site has no heads.
    """
    both = [one_prompt(model, prompt, prepend_bos) for prompt in (clean, corrupted)]
    length = len(both[0])
    if len(both[1]) != length:
        raise ValueError(
            f"clean has {length} tokens and corrupted {len(both[1])}; values go from position to "
            "position, so give prompts of one length, such as names of as many tokens "
            "(model.to_str_tokens shows them)"
        )
    chosen = _sites(model, sites, heads)
    groups = _groups(positions, length)
    read, words = _reading(model, metric)
    values: dict[HookPoint, Tensor] = {}
    points = [HookPoint(site, layer) for site in chosen for layer in range(model.n_layers)]
    at, what, nothing = place_in(position, length), ("the metric", "the prompt"), Patch((), ())

    def run(ids: Ids, patches: list[Patch], hooks: Hooks = ()) -> Tensor:
        settings: dict[str, Any] = {"what": what, "position": at, "others": lambda _: hooks}
        return run_patched(model, ids, patches, values, read, **settings)

    right = float(run(both[0], [nothing], keeping_first(points, values)))
    wrong = float(run(both[1], [nothing]))
    if right == wrong:
        raise ValueError(
            f"{words} is {right:.6g} after both prompts, so nothing can be brought back; give "
            "prompts that differ in what the answer depends on"
        )
    makers: list[tuple[tuple[int, ...], int | None]]
    if heads:
        together = tuple(place for group in groups for place in group)
        makers = [(together, head) for head in range(_n_heads(model, chosen))]
        places = [str(head) for _, head in makers]
    else:
        makers = [(group, None) for group in groups]
        places = _labels(model, both, groups)
    found = run(both[1], [Patch((point,), *maker) for point in points for maker in makers])
    return PatchingResult(
        about=model.name,
        metric=words,
        sites=tuple(map(str, chosen)),
        by="head" if heads else "position",
        places=tuple(places),
        clean=right,
        corrupted=wrong,
        patched=found.view(len(chosen), model.n_layers, len(makers)),
    )


def _sites(model: RunningModel, asked: Any, heads: bool) -> list[Site]:
    listed = [asked] if isinstance(asked, str) else list(asked)
    if not listed:
        raise ValueError("there are no sites to patch; give some, such as 'resid_pre'")
    found: list[Site] = []
    for name in listed:
        point = model.hook_point((name, 0))
        if not point.site.per_layer:
            raise ValueError(
                f"{name} is no site of a layer; before layer 0 the stream is resid_pre"
            )
        if reason := model.lacks(point.site):
            raise ValueError(reason)
        if heads and point.site not in OF_HEADS:
            raise ValueError(f"{point.site} has no heads; give one of {', '.join(OF_HEADS)}")
        found.append(point.site)
    return list(dict.fromkeys(found))


def _n_heads(model: RunningModel, sites: list[Site]) -> int:
    fewer = (Site.KEY, Site.VALUE, Site.ROTATED_KEY)
    counts = {model.anatomy.n_key_value_heads if s in fewer else model.n_heads for s in sites}
    if len(counts) != 1:
        raise ValueError(
            f"the sites have {' and '.join(map(str, sorted(counts)))} heads; patch keys and values "
            "by themselves"
        )
    return counts.pop()


def _groups(asked: Sequence[int | Sequence[int]] | None, length: int) -> list[tuple[int, ...]]:
    given = range(length) if asked is None else [asked] if isinstance(asked, int) else asked
    groups = [(one,) if isinstance(one, int) else tuple(one) for one in given]
    if not groups or not all(groups):
        raise ValueError("there are no positions to patch; give some, or None for every one")
    return [tuple(place_in(place, length) for place in group) for group in groups]


def _labels(
    model: RunningModel, both: list[tuple[int, ...]], groups: list[tuple[int, ...]]
) -> list[str]:
    """Positions with the tokens of both prompts, where these differ."""
    clean, corrupted = (shown_tokens(model, ids) for ids in both)

    def one(place: int) -> str:
        other = "" if clean[place] == corrupted[place] else f" /{corrupted[place]}"
        return f"{place}:{clean[place]}{other}"

    return [", ".join(map(one, group)) for group in groups]


def _number_a_row(metric: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def read(logits: Tensor) -> Tensor:
        found = metric(logits)
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            raise ValueError(
                f"the metric gave {shown(found)} for logits {list(logits.shape)}; give one number "
                f"a row, a tensor of shape {list(logits.shape[:1])}"
            )
        return found

    return read


def _reading(model: RunningModel, metric: Metric) -> tuple[Callable[[Tensor], Tensor], str]:
    if callable(metric):
        return _number_a_row(metric), getattr(metric, "__name__", "the metric")
    tokens = list(metric) if isinstance(metric, tuple | list) else [metric]
    if len(tokens) not in (1, 2):
        raise ValueError(f"metric has {len(tokens)} tokens; give one, or two for a difference")
    ids = [token_id(model, token) for token in tokens]
    words = " minus that of ".join(map(repr, shown_tokens(model, ids)))

    def read(logits: Tensor) -> Tensor:
        return logits[:, ids[0]] - logits[:, ids[1]] if len(ids) == 2 else logits[:, ids[0]]

    return read, f"logit of {words}"
