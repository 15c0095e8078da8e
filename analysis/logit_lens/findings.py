"""Lens findings: what the numbers of a lens say, in plain sentences."""

from collections.abc import Sequence
from itertools import groupby

from analysis.logit_lens.figures import SITE_NAMES
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import layers_table, read_target
from analysis.theme import nats, percent, shorten
from probes.causal import CausalResult
from probes.localization import NEVER, first_layer, share_found

FEW = 4
"""Items that are each worth a sentence of their own."""


def lens_findings(result: LensResult, *, k: int) -> list[str]:
    """Sentences on where targets become readable."""
    if len(result.items) <= FEW:
        return [_of_item(result, index, k) for index in range(len(result.items))]
    return [_readable(result, k), _settled(result, k), *_controls(result, k)]


def _of_item(result: LensResult, index: int, k: int) -> str:
    name = shorten(read_target(result, index).strip(), 40)
    first = int(result.first_layer(k)[index])
    rank, log_prob = int(result.rank[-1, index]), float(result.log_prob[-1, index])
    at_the_end = (
        f"at the last layer its rank is {rank:,}, its log-probability {nats(log_prob)} nats"
    )
    if first == NEVER:
        return f"{name!r} is among the top {k} at no layer; {at_the_end}."
    settled = int(result.settling_layer(k)[index])
    stays = (
        f"stays from layer {result.layer_labels[settled]} on"
        if settled != NEVER
        else "does not stay"
    )
    return (
        f"{name!r} is first among the top {k} at layer {result.layer_labels[first]} and {stays}; "
        f"{at_the_end}."
    )


def _readable(result: LensResult, k: int) -> str:
    found = result.localization(k)
    n = len(result.items)
    share = f"{round(found.share_found * n)} of {n} targets ({percent(found.share_found)})"
    if found.mean_first_layer is None:
        return f"None of {n} targets is among the top {k} at any layer."
    peak = int(found.first_histogram.argmax())
    return (
        f"{share} are among the top {k} at some layer; the first such layer is "
        f"{_mean_label(result, found.mean_first_layer)} on average and most often "
        f"{result.layer_labels[peak]}, spread as if over {found.effective_layers:.1f} layers."
    )


def _mean_label(result: LensResult, row: float) -> str:
    """A mean of rows as a number of a block; the embedding, where it is a row, is before 0."""
    return f"{row - (result.layer_labels[0] == 'embed'):.1f}"


def _settled(result: LensResult, k: int) -> str:
    found = result.localization(k)
    return (
        f"{percent(found.share_settled)} are still there at the last layer; the mean area under "
        f"the rank curve is {float(found.rank_area.mean()):.3f} of 1."
    )


def _controls(result: LensResult, k: int) -> list[str]:
    names = {"shuffled": "targets of other items", "frequency": "tokens of the same frequency"}
    shares = [
        f"{percent(share_found(first_layer(result.control_rank(name), k)))} of "
        f"{names.get(name, name)}"
        for name in result.control_names
    ]
    if not shares:
        return []
    return [f"For comparison, {' and '.join(shares)} are among the top {k} at some layer."]


HALF = 0.5


def causal_findings(causal: CausalResult, result: LensResult, k: int) -> list[str]:
    """What a causal check says, in plain sentences."""
    sentences = []
    if causal.n_unmeasurable:
        sentences.append(
            f"Of {len(causal.clean)} items, {causal.n_unmeasurable} lost less than "
            f"{causal.least_drop:g} nats to the noise; nothing can be restored in them."
        )
    if causal.n_unmeasurable < len(causal.clean):
        sentences += [_of_site(causal, index) for index in range(len(causal.sites))]
        sentences.append(_agreement(causal, result, k))
    return sentences


def _of_site(causal: CausalResult, index: int) -> str:
    recovery = causal.mean_recovery[index]
    site = causal.sites[index]
    start = f"Restoring the {SITE_NAMES.get(site, site)}"
    helps = (recovery >= HALF).tolist()
    if any(helps):
        ends = layer_ranges(helps)
        return f"{start} brings back half or more of what noise took at {ends}."
    best = int(recovery.argmax())
    return f"{start} helps most at layer {best}, where {percent(float(recovery[best]))} comes back."


def _agreement(causal: CausalResult, result: LensResult, k: int) -> str:
    table = layers_table(result, k)
    share = table.loc[table["depth"] >= 0, "share_found"].to_numpy()
    readable = share >= HALF * max(share.max(), 1 / len(result.items))
    helps = (causal.mean_recovery[0] >= HALF).numpy()
    site = SITE_NAMES.get(causal.sites[0], causal.sites[0])
    both = (readable & helps).tolist()
    if not any(both):
        return f"At no layer can targets both be read and be brought back through the {site}."
    return (
        f"Targets can be read, half as often as at the best layer or more, and be brought back "
        f"through the {site} at {layer_ranges(both)}."
    )


def layer_ranges(chosen: Sequence[bool]) -> str:
    """Chosen layers as ranges, with the word for them."""
    runs = [list(run) for is_in, run in groupby(range(len(chosen)), lambda i: chosen[i]) if is_in]
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    *most, last = texts
    name = "layers" if sum(map(len, runs)) > 1 else "layer"
    return f"{name} {', '.join(most)} and {last}" if most else f"{name} {last}"
