"""Findings of an edit sweep, in plain sentences; the page, the document and the terminal say them.

Every sentence follows from the numbers measured. Two losses count as the same where they differ by
less than rounding in the model's type explains, and an edit is said to damage a model where the
perplexity on held-out text at least doubles.
"""

from collections.abc import Iterator
from math import ceil, log, log10
from typing import Any

import pandas as pd

from analysis.edit_sweep.measurements import AT_RATIO, EditRow, EditSweep, Totals
from analysis.theme import count, nats, percent
from interventions.choices import ResuscitationSite
from probes.perplexity import power_of_e

MEASURES = {
    "knowledge_entropy": "knowledge",
    "contribution_entropy": "contribution",
    "attention_entropy": "attention",
    "next_token_entropy": "next-token",
    "loss": "loss",
    "held_out_loss": "held-out loss",
    "held_out_perplexity": "held-out perplexity",
}
"""What is measured, and what a column of it is called."""
PREDICTED = ("knowledge_entropy", "contribution_entropy")


def edit_table(sweep: EditSweep) -> pd.DataFrame:
    """Everything, one row per edit."""
    return pd.DataFrame(edit_records(sweep))


def edit_records(sweep: EditSweep) -> list[dict[str, Any]]:
    """The rows of `edit_table` as plain values."""
    return [_tidy(row, sweep.before) for row in sweep.rows]


def _tidy(row: EditRow, before: Totals) -> dict[str, Any]:
    setting = row.setting
    found: dict[str, Any] = {
        "edit": setting.label,
        "site": setting.site and str(setting.site),
        "ratio": setting.ratio,
        "factor": setting.factor,
        "temperature": setting.temperature,
        "neurons": row.neurons,
    }
    for name in MEASURES:
        found[f"{name}_before"] = before.get(name)
        if name in PREDICTED:
            found[f"{name}_predicted"] = row.predicted.get(name)
        found[f"{name}_after"] = row.after.get(name)
    return found | {"refused": row.refused}


def cell(measure: str, value: float | None) -> str:
    """A number as a table shows it; empty where there is none."""
    if value is None:
        return ""
    return perplexity(value) if measure == "held_out_perplexity" else nats(value, 3)


def perplexity(value: float) -> str:
    """A perplexity, in as many digits as it needs."""
    if value >= 1e9:
        return f"{value:.2g}"
    return count(value) if value >= 1000 else nats(value, 1)


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


def findings(sweep: EditSweep) -> list[str]:
    """What stands out."""
    tidy = edit_table(sweep)
    made = tidy[tidy["refused"].isna()]
    same = _SAME_LOSS.get(sweep.result.provenance.dtype, _SAME_IN_HALF_PRECISION)
    assert sweep.result.next_token is not None
    return [
        _unedited(sweep),
        *_papers_edit(made, sweep.result.next_token.maximum, same),
        *_same_function(made, same),
        *_up_and_down(made, same),
        *_doubled(made),
        *_lowered(made),
        *_temperatures(made),
        *_refused(tidy),
    ]


def _unedited(sweep: EditSweep) -> str:
    known = sweep.result.knowledge
    assert known is not None
    return (
        f"Unedited: knowledge entropy {nats(known.total)} nats, "
        f"{percent(known.total / known.maximum)} of its maximum; on held-out text a loss of "
        f"{nats(_total(sweep, 'held_out_loss'), 3)} nats per token, a perplexity of "
        f"{cell('held_out_perplexity', sweep.before['held_out_perplexity']) or 'no float64'}."
    )


def _papers_edit(made: pd.DataFrame, guessing: float, same: float) -> Iterator[str]:
    """The paper's site at the factor that it trains with, if that was tried."""
    rows = made[(made["site"] == _PAPERS_SITE) & (made["factor"] == _PAPERS_FACTOR)]
    for _, row in rows[rows["ratio"] == AT_RATIO].iterrows():
        yield (
            f"The paper's edit, up rows at ratio {AT_RATIO:g} and factor {_PAPERS_FACTOR:g}, moves "
            f"knowledge entropy by {change(row, 'knowledge_entropy')} nats (predicted "
            f"{change(row, 'knowledge_entropy', 'predicted')}) and the held-out loss from "
            f"{nats(row['held_out_loss_before'], 3)} to {nats(row['held_out_loss_after'], 3)}: "
            f"{_verdict(row, guessing, same)}."
        )


def _verdict(row: pd.Series, guessing: float, same: float) -> str:
    before, after = row["held_out_loss_before"], row["held_out_loss_after"]
    if abs(after - before) < same:
        return "the model predicts as before"
    more = after - before
    power = power_of_e(more)
    shown = f"e^{more:,.0f}" if power is None else f"{power:,.3g}"
    times = f"the perplexity is {shown} times what it was"
    if more < _DAMAGED:
        return times
    worse = f"worse than guessing all tokens alike ({nats(guessing)})"
    return f"{times}, which damages the model before any training" + (
        f", and {worse}" if after > guessing else ""
    )


def _same_function(made: pd.DataFrame, same: float) -> Iterator[str]:
    """Sites whose edits move an entropy and leave the predictions as they were."""
    for site, rows in made[made["site"].notna()].groupby("site", sort=False):
        loss = _largest(rows, "held_out_loss")
        if loss < same and _largest(rows, "knowledge_entropy") >= _MOVED:
            moved = rows["knowledge_entropy_after"] - rows["knowledge_entropy_before"]
            yield (
                f"Site {site} moves knowledge entropy, by {_span(moved)} nats, without changing "
                f"what the model computes: the held-out loss moves by {_within(loss)} nats and "
                f"contribution entropy by {_within(_largest(rows, 'contribution_entropy'))}. So "
                "knowledge entropy alone does not tell whether a model has changed."
            )


def _doubled(made: pd.DataFrame) -> Iterator[str]:
    resuscitated = made[made["site"].notna()]
    if resuscitated.empty:
        return
    damage = resuscitated["held_out_loss_after"] - resuscitated["held_out_loss_before"]
    doubled = damage >= _DAMAGED
    each = ", ".join(
        f"{int(found.sum())} of {len(found)} at {site}"
        for site, found in doubled.groupby(resuscitated["site"], sort=False)
    )
    yield f"Resuscitations that at least double the perplexity on held-out text: {each}."


def _up_and_down(made: pd.DataFrame, same: float) -> Iterator[str]:
    sides = [
        made[made["site"] == site].set_index(["ratio", "factor"])
        for site in (ResuscitationSite.UP, ResuscitationSite.DOWN)
    ]
    shared = sides[0].index.intersection(sides[1].index)
    if shared.empty:
        return
    up, down = (side.loc[shared] for side in sides)
    apart = {
        name: float((up[f"{name}_after"] - down[f"{name}_after"]).abs().max())
        for name in ("held_out_loss", "contribution_entropy", "knowledge_entropy")
    }
    if apart["held_out_loss"] < same:
        yield (
            "Sites up and down make the same change of the model in other rows: their losses "
            f"differ by {_within(apart['held_out_loss'])} nats and their contribution entropies "
            f"by {_within(apart['contribution_entropy'])}, their knowledge entropies by up to "
            f"{nats(apart['knowledge_entropy'])}."
        )


def _temperatures(made: pd.DataFrame) -> Iterator[str]:
    warm = made[made["temperature"].notna()].sort_values("temperature")
    for _, row in warm.iloc[-1:].iterrows():
        yield (
            f"Attention temperature {row['temperature']:g}, the highest, moves attention entropy "
            f"by {change(row, 'attention_entropy')} nats, knowledge entropy by "
            f"{change(row, 'knowledge_entropy')} and the held-out loss by "
            f"{change(row, 'held_out_loss')}."
        )


def _lowered(made: pd.DataFrame) -> Iterator[str]:
    resuscitated = made[made["site"].notna()]
    moved = resuscitated["knowledge_entropy_after"] - resuscitated["knowledge_entropy_before"]
    fell = moved < -_MOVED
    if not fell.any():
        return
    counts = resuscitated[fell]["site"].value_counts(sort=False)
    names = (
        "; ".join(resuscitated[fell]["edit"])
        if fell.sum() <= _NAMED
        else ", ".join(f"{number} at {site}" for site, number in counts.items())
    )
    yield (
        f"{int(fell.sum())} of {len(resuscitated)} resuscitations lower knowledge entropy instead "
        f"of raising it: {names}."
    )


def _refused(tidy: pd.DataFrame) -> Iterator[str]:
    for reason, rows in tidy[tidy["refused"].notna()].groupby("refused", sort=False):
        yield f"Refused, {'; '.join(rows['edit'])}: {reason}."


def change(row: pd.Series, measure: str, when: str = "after") -> str:
    """How far an edit moves a measure, with its sign."""
    return signed(row[f"{measure}_{when}"] - row[f"{measure}_before"])


def signed(value: float) -> str:
    """A difference in nats, with a sign that is as wide as its digits."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _span(moved: pd.Series) -> str:
    return " to ".join(dict.fromkeys((signed(moved.min()), signed(moved.max()))))


def _largest(rows: pd.DataFrame, measure: str) -> float:
    return float((rows[f"{measure}_after"] - rows[f"{measure}_before"]).abs().max())


def _within(difference: float) -> str:
    """A power of ten that a small difference stays below."""
    power = ceil(log10(max(difference, _SMALLEST)))
    return f"less than {10.0**power:g}"


def _total(sweep: EditSweep, name: str) -> float:
    value = sweep.before[name]
    assert value is not None
    return value
