"""What an edit sweep found, in plain sentences; the page, the document and the terminal say them.

Every sentence follows from the numbers measured. Two losses count as the same where they differ by
less than rounding in the model's type explains, and an edit is said to damage a model where the
perplexity on held-out text at least doubles.
"""

from collections.abc import Iterator
from math import ceil, log, log10

import pandas as pd

from analysis.edit_measures import AT_RATIO, MEASURES, EditSweep
from analysis.numbers import MINUS, count, nats, share
from interventions.choices import ResuscitationSite
from probes.perplexity import power_of_e

_SAME_LOSS = {"float64": 1e-3, "float32": 1e-3}
_SAME_IN_HALF_PRECISION = 0.02
"""Nats per token that rounding stays well below, by type."""
_DAMAGED = log(2.0)
"""Nats more: twice the perplexity."""
_MOVED = 0.01
"""Nats of knowledge entropy that are worth a sentence."""
_SMALLEST = 0.99e-6
"""Nats: float32 does not tell smaller differences from rounding."""
_NAMED = 4
"""So many edits are named one by one; of more, the number at each site."""
_PAPERS_SITE, _PAPERS_FACTOR = ResuscitationSite.UP, 2.0


def cell(measure: str, value: float | None) -> str:
    """A number as a table shows it; empty where there is none."""
    if value is None:
        return ""
    if measure != "held_out_perplexity":
        return nats(value)
    if value >= 1e9:
        return f"{value:.2g}"
    return count(value) if value >= 1000 else nats(value, 1)


def findings(sweep: EditSweep) -> list[str]:
    """What stands out."""
    tidy, known = sweep.table, sweep.result.knowledge
    assert known is not None
    moves = {f"{name}_moved": moved(tidy, name) for name in MEASURES}
    made = tidy.assign(**moves)[tidy["refused"].isna()]
    resuscitated = made[made["site"].notna()]
    same = _SAME_LOSS.get(sweep.result.provenance.dtype, _SAME_IN_HALF_PRECISION)
    unedited = (
        f"Unedited: knowledge entropy {nats(known.total, 2)} nats, "
        f"{share(known.total / known.maximum)} of its maximum; on held-out text a loss of "
        f"{cell('held_out_loss', sweep.before['held_out_loss'])} nats per token, a perplexity of "
        f"{cell('held_out_perplexity', sweep.before['held_out_perplexity']) or 'no float64'}."
    )
    return [
        unedited,
        *_papers_edit(sweep, made, same),
        *_same_function(resuscitated, same),
        *_up_and_down(made, same),
        *_damage(resuscitated),
        *_temperatures(made),
        *(
            f"Refused, {'; '.join(rows['edit'])}: {reason}."
            for reason, rows in tidy.groupby("refused", sort=False)
        ),
    ]


def _papers_edit(sweep: EditSweep, made: pd.DataFrame, same: float) -> Iterator[str]:
    """The paper's site at the factor that it trains with, if that was tried."""
    rows = made[(made["site"] == _PAPERS_SITE) & (made["factor"] == _PAPERS_FACTOR)]
    for row in rows[rows["ratio"] == AT_RATIO].itertuples():
        more, after = row.held_out_loss_moved, row.held_out_loss_after
        power = power_of_e(more)
        verdict = (
            f"the perplexity is {f'e^{more:,.0f}' if power is None else f'{power:,.3g}'} times "
            "what it was"
        )
        assert sweep.result.next_token is not None
        guessing = sweep.result.next_token.maximum
        if abs(more) < same:
            verdict = "the model predicts as before"
        elif more >= _DAMAGED:
            verdict += ", which damages the model before any training"
            if after > guessing:
                verdict += f", and worse than guessing all tokens alike ({nats(guessing, 2)})"
        predicted = row.knowledge_entropy_predicted - row.knowledge_entropy_before
        yield (
            f"The paper's edit, up rows at ratio {AT_RATIO:g} and factor {_PAPERS_FACTOR:g}, moves "
            f"knowledge entropy by {_signed(row.knowledge_entropy_moved)} nats (predicted "
            f"{_signed(predicted)}) and the held-out loss from {nats(row.held_out_loss_before)} to "
            f"{nats(after)}: {verdict}."
        )


def _same_function(resuscitated: pd.DataFrame, same: float) -> Iterator[str]:
    """Sites whose edits move an entropy and leave the predictions as they were."""
    for site, rows in resuscitated.groupby("site", sort=False):
        moved = rows["knowledge_entropy_moved"]
        loss, contribution = (
            float(rows[f"{name}_moved"].abs().max())
            for name in ("held_out_loss", "contribution_entropy")
        )
        if loss < same and moved.abs().max() >= _MOVED:
            span = " to ".join(dict.fromkeys((_signed(moved.min()), _signed(moved.max()))))
            yield (
                f"Site {site} moves knowledge entropy, by {span} nats, without changing what the "
                f"model computes: the held-out loss moves by {_within(loss)} nats and contribution "
                f"entropy by {_within(contribution)}. So knowledge entropy alone does not tell "
                "whether a model has changed."
            )


def _up_and_down(made: pd.DataFrame, same: float) -> Iterator[str]:
    up, down = (
        made[made["site"] == site] for site in (ResuscitationSite.UP, ResuscitationSite.DOWN)
    )
    both = up.merge(down, on=["ratio", "factor"])
    loss, contribution, knowledge = (
        float((both[f"{name}_after_x"] - both[f"{name}_after_y"]).abs().max())
        for name in ("held_out_loss", "contribution_entropy", "knowledge_entropy")
    )
    if loss < same:
        yield (
            "Sites up and down make the same change of the model in other rows: their losses "
            f"differ by {_within(loss)} nats and their contribution entropies by "
            f"{_within(contribution)}, their knowledge entropies by up to {nats(knowledge, 2)}."
        )


def _damage(resuscitated: pd.DataFrame) -> Iterator[str]:
    if resuscitated.empty:
        return
    doubled = resuscitated["held_out_loss_moved"] >= _DAMAGED
    each = ", ".join(
        f"{int(found.sum())} of {len(found)} at {site}"
        for site, found in doubled.groupby(resuscitated["site"], sort=False)
    )
    yield f"Resuscitations that at least double the perplexity on held-out text: {each}."
    fell = resuscitated[resuscitated["knowledge_entropy_moved"] < -_MOVED]
    if fell.empty:
        return
    counts = fell["site"].value_counts(sort=False)
    names = "; ".join(fell["edit"])
    if len(fell) > _NAMED:
        names = ", ".join(f"{number} at {site}" for site, number in counts.items())
    yield (
        f"{len(fell)} of {len(resuscitated)} resuscitations lower knowledge entropy instead of "
        f"raising it: {names}."
    )


def _temperatures(made: pd.DataFrame) -> Iterator[str]:
    for row in made.dropna(subset="temperature").sort_values("temperature").tail(1).itertuples():
        yield (
            f"Attention temperature {row.temperature:g}, the highest, moves attention entropy by "
            f"{_signed(row.attention_entropy_moved)} nats, knowledge entropy by "
            f"{_signed(row.knowledge_entropy_moved)} and the held-out loss by "
            f"{_signed(row.held_out_loss_moved)}."
        )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def moved(rows: pd.DataFrame, measure: str) -> pd.Series:
    """How far edits move a measure."""
    return (rows[f"{measure}_after"] - rows[f"{measure}_before"]).astype(float)


def _within(difference: float) -> str:
    """A power of ten that a small difference stays below."""
    power = ceil(log10(max(difference, _SMALLEST)))
    return f"less than {10.0**power:g}"
