"""A claim: what somebody found, and how it is tested here, as data.

Example:
    >>> from analysis.claims import claim_named
    >>> claim_named("entropy-falls").expected
    <Direction.FALLS: 'falls'>
"""

from dataclasses import KW_ONLY, dataclass, field

from analysis.claims.choices import Anchor, Experiment, Paper, Unit
from analysis.claims.designs import Design, Scale
from analysis.claims.measurements import Table
from analysis.claims.selection import Settings
from analysis.statistics.results import Direction

_COMMANDS = {
    Table.PRETRAINING: "python -m analysis.entropy --revisions",
    Table.ACQUISITION: "python -m training.ckl",
    Table.MEMORIZATION: "python -m training.remix",
    Table.UPDATES: "python -m analysis.memory_updates",
}


@dataclass(frozen=True)
class Claim:
    """Something that measurements can support or contradict.

    Attributes:
        identifier: for commands and links.
        statement: a sentence without its full stop; of a question, the question.
        place: section, figure or table in the paper.
        design: of the test.
        expected: the direction of the effect; None for a question without an expected answer.
        quantity: what is measured, in words.
        where: settings of all rows that it is about.
        paper: that makes or raises it; None for a question of later work.
        table: of measurements.
        family: claims that are tested together; the level is that of the family.
        needs: the experiments whose runs it is tested on.
        figure: where the page shows what it is about.
        unit: of the effect.
        value: what was published, in words; empty where there is no number.
        doubts: what the sources themselves, their released code or later work say against it.
    """

    identifier: str
    statement: str
    place: str
    design: Design
    expected: Direction | None
    quantity: str
    where: Settings = field(default_factory=dict)
    _: KW_ONLY
    paper: Paper | None = None
    table: Table
    family: str
    needs: tuple[Experiment, ...]
    figure: Anchor
    unit: Unit = Unit.NATS
    value: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes the runs, without its options."""
        return _COMMANDS[self.table]

    @property
    def least(self) -> Scale:
        """What a verdict needs."""
        return self.design.least

    @property
    def is_question(self) -> bool:
        """Whether no answer is expected."""
        return self.expected is None
