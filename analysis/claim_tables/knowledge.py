"""What did a run know and acquire, and how uniformly did its start use its memory, at each moment?

- K of every passage, in nats: the mean log-probability of its probes.
- A of a run: the change of K as a share of its size before (`analysis.metrics`), against the start
  and, of one that was edited, the unedited one as well.
- "gain of log-probability": the same change of what was met in nats, and "gain of generated": the
  rise of the share of its probes whose target the model generates greedily, token for token, where
  a run recorded that (`--generate-every`); right after the last injection and at the end.
- "knowledge entropy" of the unedited start and the start, in nats; of a run without an edit the
  same number twice.

Source: Kim et al., ICLR 2025: Eq. 4 (A), Eq. 2 (knowledge entropy).

Example:
    >>> rows = list(knowledge_rows(arm, run, means))                         # doctest: +SKIP
    >>> rows[0].measure, rows[0].cluster                                     # doctest: +SKIP
    ('K', 'passage 0')
"""

from collections.abc import Iterator

import numpy as np

from analysis.ckl_report.arms import Arm, Moment
from analysis.ckl_report.scores import ALL_KINDS, MET, moments_of
from analysis.claim_tables.passage_means import PassageMeans
from analysis.claim_tables.rows import Row
from analysis.item_tables import HELD_OUT
from analysis.metrics import acquisition
from analysis.run_reading import TrainingRun
from training.ckl.looks import GENERATED
from training.recall import Match
from training.runs.records import RecallRecord, records_of

GAINED_AT = (Moment.INJECTED, Moment.END)
"""The moments that gains in nats and in what is generated are given at."""
_ENTROPY = "knowledge"
"""The kind of entropy."""


def knowledge_rows(arm: Arm, run: TrainingRun, means: PassageMeans) -> Iterator[Row]:
    """K, A and gains of log-probability of a run.

    Args:
        arm: that the run belongs to.
        run: the run.
        means: of its probes.
    """
    moments = list(dict(moments_of(arm)))
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    by_passage = means.of(scores)
    for moment, column in zip(moments, by_passage.T.tolist(), strict=True):
        for group, value in zip(means.groups, column, strict=True):
            yield Row("K", value, group.exposure, group.kind, moment, cluster=group.cluster)
    for (exposure, kind), values in means.over_passages(by_passage).items():
        known = dict(zip(moments, values.tolist(), strict=True))
        yield from _acquired(arm, exposure, kind, known)


def generated_rows(arm: Arm, run: TrainingRun) -> Iterator[Row]:
    """The rise of the share of probes of met passages whose target is generated.

    Args:
        arm: that the run belongs to.
        run: the run; nothing is given where it recorded nothing.

    Raises:
        ValueError: what is recorded is not of its probes.
    """
    met = (run.probe_scores.items["exposure"] != HELD_OUT).to_numpy()
    shares: dict[int, float] = {}
    for record in records_of(run.path, RecallRecord):
        if record.items != GENERATED or record.match != Match.TOKENS:
            continue
        if len(record.correct) != len(met):
            raise ValueError(
                f"{run.path} has {len(record.correct)} generated targets at step {record.step}, "
                f"but {len(met)} probes; its files are not of one run"
            )
        shares[record.step] = float(np.array(record.correct)[met].mean())
    start, what = arm.moments[Moment.START], "gain of generated"
    for moment in GAINED_AT:
        if start in shares and (step := arm.moments[moment]) in shares:
            gain = shares[step] - shares[start]
            yield Row(what, gain, MET, ALL_KINDS, moment, against=Moment.START)


def entropy_rows(run: TrainingRun) -> Iterator[Row]:
    """Knowledge entropy of both starts of a run; nothing where it was not measured.

    Args:
        run: the run.
    """
    unedited = run if run.unedited is None else run.unedited
    for moment, seen in ((Moment.UNEDITED, unedited), (Moment.START, run)):
        found = seen.entropies
        totals = found[(found["step"] == 0) & (found["kind"] == _ENTROPY) & found["layer"].isna()]
        for value in totals["entropy"]:
            yield Row("knowledge entropy", float(value), moment=moment)


def _acquired(arm: Arm, exposure: str, kind: str, known: dict[str, float]) -> Iterator[Row]:
    """A against each start, and gains of what was met."""
    for against in arm.compared_with:
        for moment in arm.moments:
            if moment != Moment.START and known[against] != 0:
                share = acquisition(known[against], known[moment])
                yield Row("A", share, exposure, kind, moment, against)
    if (exposure, kind) == (MET, ALL_KINDS):
        for moment in GAINED_AT:
            gain = known[moment] - known[Moment.START]
            yield Row("gain of log-probability", gain, exposure, kind, moment, Moment.START)
