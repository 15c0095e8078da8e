"""A claim: what somebody found, and how it is tested here, as data.

Example:
    >>> from analysis.claims import claim_named
    >>> claim_named("entropy-falls").expected
    <Direction.FALLS: 'falls'>
"""

from dataclasses import dataclass, field

from analysis.claims.choices import Paper, Unit
from analysis.claims.designs import Design
from analysis.claims.evidence import Scale
from analysis.claims.measurements import Table
from analysis.claims.selection import Settings
from analysis.statistics.results import Direction


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that measurements can support or contradict.

    Attributes:
        identifier: for commands and links.
        statement: a sentence without its full stop; of a question, the question.
        paper: that makes or raises it; None for a question of later work.
        place: section, figure or table there.
        quantity: what is measured, in words.
        command: that makes the runs, without its options.
        table: of measurements.
        where: settings of all rows that it is about.
        design: of the test.
        unit: of the effect.
        expected: the direction of the effect; None for a question without an expected answer.
        value: what was published, in words; empty where there is no number.
        doubts: what the sources themselves, their released code or later work say against it.
        family: claims that are tested together; the level is that of the family.
    """

    identifier: str
    statement: str
    paper: Paper | None
    place: str
    quantity: str
    command: str
    table: Table
    design: Design
    unit: Unit
    expected: Direction | None
    family: str
    where: Settings = field(default_factory=dict)
    value: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def least(self) -> Scale:
        """What a verdict needs."""
        return self.design.least

    @property
    def is_question(self) -> bool:
        """Whether no answer is expected."""
        return self.expected is None


@dataclass(frozen=True, kw_only=True)
class ClaimGroup:
    """What several claims have in common; see `Claim`."""

    paper: Paper
    command: str
    table: Table
    family: str
    unit: Unit = Unit.NATS
    where: Settings = field(default_factory=dict)

    def claim(
        self,
        identifier: str,
        statement: str,
        place: str,
        design: Design,
        where: Settings,
        quantity: str,
        expected: Direction,
        *,
        unit: Unit | None = None,
        family: str | None = None,
        value: str = "",
        doubts: tuple[str, ...] = (),
    ) -> Claim:
        """A claim of the group; what is not given is the group's, and `where` adds to its own."""
        return Claim(
            identifier=identifier,
            statement=statement,
            paper=self.paper,
            place=place,
            quantity=quantity,
            command=self.command,
            table=self.table,
            design=design,
            unit=unit or self.unit,
            expected=expected,
            family=family or self.family,
            where={**self.where, **where},
            value=value,
            doubts=doubts,
        )
