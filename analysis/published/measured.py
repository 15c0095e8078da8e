"""Measured: every published number beside what our results say of it.

| numbers | stand for | module |
|---|---|---|
| Kim et al., figures | entropies over checkpoints | `analysis.published.entropy_curves` |
| Kim et al., tables | runs from checkpoints of all ages | `analysis.published.acquisition_cells` |
| Kim et al., text | correlations and gaps of these | `analysis.published.acquisition_numbers` |
| Chang et al. | encounters and forgetting curves | `analysis.published.encounter_effects` |
| Chen et al. | facts kept over stages | `analysis.published.memorization_cells` |

Values agree only where all conditions of the published number are met. Else directions are
compared, of the change from what the paper itself compares with: the first checkpoint, no mix, no
replay, the other corpus, the other kind of later data.

Example:
    >>> found = verify({})
    >>> len(found), {str(one.agreement) for one in found}
    (617, {'not comparable'})
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.claims.choices import Paper
from analysis.claims.measurements import Table
from analysis.published.acquisition_cells import measure_cell
from analysis.published.acquisition_numbers import measure_correlation, measure_gap
from analysis.published.catalogue import PUBLISHED, published_named
from analysis.published.comparing import Agreement, Measured, compare, no_target
from analysis.published.encounter_effects import measure_told
from analysis.published.entropy_curves import measure_curve
from analysis.published.inconsistencies import inconsistencies_of
from analysis.published.memorization_cells import measure_kept
from analysis.published.records import Published, Reading
from analysis.published.result_rows import ResultRows, Said, result_rows
from analysis.statistics.tests import ScaleError

_ONE_RUN = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number beside ours.

    Attributes:
        published: the number.
        measured: ours, in its unit; None where there is none.
        agreement: in a word.
        why: in words.
        unmet: names of the conditions in which ours differ.
        way: why, but for these.
        inconsistencies: identifiers of what is known against the published number.
    """

    published: Published
    measured: Measured | None
    agreement: Agreement
    why: str
    unmet: tuple[str, ...] = ()
    way: str
    inconsistencies: tuple[str, ...]


def verify(
    tables: Mapping[Table, pd.DataFrame], settings: Mapping[Table, Said] | None = None
) -> list[Comparison]:
    """Every published number beside what results say of it."""
    rows = result_rows(tables, settings)
    return [_compared(published, rows) for published in PUBLISHED.values()]


def _compared(published: Published, rows: ResultRows) -> Comparison:
    known = tuple(one.identifier for one in inconsistencies_of(published.identifier))
    measured, why = None, no_target(published)
    if not why:
        try:
            measured = _measured(published, rows)
        except ScaleError as error:
            why = str(error)
    if measured is None:
        return Comparison(
            published=published,
            measured=None,
            agreement=Agreement.NOT_COMPARABLE,
            why=why,
            way=why,
            inconsistencies=known,
        )
    found = compare(measured, published)
    doubts = f"; the source is inconsistent: {', '.join(known)}" if known else ""
    alone = "" if measured.seeds > _ONE_RUN else _alone(measured)
    return Comparison(
        published=published,
        measured=measured,
        agreement=found.agreement,
        why=f"{found.why}{alone}{doubts}",
        unmet=found.unmet,
        way=f"{found.way}{alone}{doubts}",
        inconsistencies=known,
    )


def _alone(measured: Measured) -> str:
    """What has to be said of a number of one run."""
    known = measured.change is None or measured.change_interval is not None
    return "; of one run" if known else "; of one run, without an interval"


def _measured(published: Published, rows: ResultRows) -> Measured:
    base = published_named(published.base) if published.base else None
    if published.paper is Paper.CONTINUAL_MEMORIZATION:
        return measure_kept(published, base, rows)
    if published.paper is Paper.FACTUAL_KNOWLEDGE:
        return measure_told(published, rows)
    if published.reading is Reading.TICKS:
        return measure_curve(published, rows)
    if "checkpoint" in published.conditions:
        return measure_cell(published, base, rows)
    if "correlation" in published.unit:
        return measure_correlation(published, rows)
    return measure_gap(published, base, rows)
