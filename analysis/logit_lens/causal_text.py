"""Causal findings: where restoring a layer helps, and whether a lens can read the target there."""

from collections.abc import Sequence
from itertools import groupby

from analysis.logit_lens.depth_figures import SITE_NAMES
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import layers_table
from analysis.theme import percent
from probes.causal import CausalResult

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
