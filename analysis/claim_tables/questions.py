"""What did a run forget of what it could do before?

P is the mean over the downstream tasks of the share of questions answered right, F its fall as a
share of its size before (`analysis.metrics`). A question is weighted by the size of its task, so
that the mean over all questions is P. Where no task is answered better than by guessing at a start,
F against it is not tested (`analysis.ckl_report.forgetting`) and left out; P is left out where F is
tested against no start of the run.

Source: Kim et al., ICLR 2025: Eq. 5.

Example:
    >>> rows = list(question_rows(arm, run, chance_table([arm])))            # doctest: +SKIP
    >>> rows[0].measure, rows[0].cluster                                     # doctest: +SKIP
    ('P', 'piqa: q0')
"""

from collections.abc import Iterator

import pandas as pd

from analysis.ckl_report.arms import Arm, Moment
from analysis.ckl_report.forgetting import ALL_TASKS, untested
from analysis.ckl_report.scores import moments_of
from analysis.claim_tables.rows import Row
from analysis.item_tables import TASK_TABLE
from analysis.metrics import forgetting
from analysis.run_reading import TrainingRun


def question_rows(arm: Arm, run: TrainingRun, chances: pd.DataFrame) -> Iterator[Row]:
    """P of every question and F of a run; nothing where neither is tested.

    Args:
        arm: that the run belongs to.
        run: the run.
        chances: `chance_table` of the arm.
    """
    tested = [
        against
        for against in arm.compared_with
        if ALL_TASKS not in untested(chances, arm.name, against)
    ]
    if not tested:
        return
    levels: dict[str, float] = {}
    for moment, _ in moments_of(arm):
        questions = arm.questions(moment, run)
        if questions.empty:
            continue
        items = TASK_TABLE.items(questions)
        levels[moment] = items.score
        values = (items.means * items.weights * len(items.means)).tolist()
        for task, item, value in zip(questions["task"], questions["item"], values, strict=True):
            yield Row("P", value, moment=moment, cluster=f"{task}: {item}")
    for against in tested:
        for moment in arm.moments:
            # Of an accuracy of 0 there is no share; against guessing it is not tested.
            if moment in levels and moment != Moment.START and levels.get(against, 0) > 0:
                share = forgetting(levels[against], levels[moment])
                yield Row("F", share, moment=moment, against=against)
