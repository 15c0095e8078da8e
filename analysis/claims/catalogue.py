"""The catalogue: every claim, and how it is tested, read from a file for each paper in `papers/`.

A claim is a few lines under `[families.claims.IDENTIFIER]`; what is said at the head of its family
or its file holds for all claims there. Beside the fields of `Claim` it says

- `rows` and `where`: named rows (`selections.toml`) and settings that it is about
- `of` and `less`: arms, one or several; several are compared one by one, and all must hold
- `test`: "contrast" (the default), "trend" along `axis`, or "follows", with its `cause`
- `times`: how often the base counts; `averaged`: settings that need not agree
- `unequal`: amounts of training (`AMOUNTS`) that need not agree
- `each`: a column, for each value of which it must hold (of at least `fewest`); `foremost`: a
  column whose largest value must be ahead of every other
- `age`: a span of pretraining (`selections.toml`); checkpoints outside it are left out
- `presupposes`: another `claim`, and what is so `otherwise`, in words
- `doubts`: sentences, or names of those under `[doubts]`

Example:
    >>> claim_named("three-stages").place, str(claim_named("entropy-falls").expected)
    ('Figure 8, section 5', 'falls')
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from analysis.claims.choices import Anchor, Experiment, Paper, Unit
from analysis.claims.designs import AllOf, Contrast, Design, EachOf, Follows, Foremost, Scale, Trend
from analysis.claims.selection import AGES, ARMS, PAPERS, ROWS, Age, Arm, Settings, read_settings
from analysis.measurements import AMOUNTS, BY_ITEM, Table
from analysis.significance import Direction

_FILES = ("kim", "chang", "chen", "open_questions")
_COMMANDS = {
    Table.PRETRAINING: "python -m analysis.entropy --revisions",
    Table.ACQUISITION: "python -m training.ckl",
    Table.MEMORIZATION: "python -m training.remix",
    Table.UPDATES: "python -m analysis.memory_updates",
}


@dataclass(frozen=True, kw_only=True)
class Presupposed:
    """A claim without which another one says nothing, and what is so otherwise, in words."""

    claim: str
    otherwise: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that measurements can support or contradict."""

    identifier: str
    statement: str  # a sentence without its full stop; of a question, the question
    place: str  # section, figure or table in the paper
    design: Design
    # the direction of the effect; None for a question without an expected answer
    expected: Direction | None
    quantity: str  # what is measured, in words, in the `unit` of the effect
    where: Settings = field(default_factory=dict)  # settings of all rows that it is about
    paper: Paper | None = None  # the paper that makes it; None for a question of later work
    table: Table
    family: str  # claims that are tested together; the level is that of the family
    needs: tuple[Experiment, ...]  # the experiments whose runs it is tested on
    figure: Anchor  # the place of the page that shows it
    unit: Unit = Unit.NATS
    unequal: tuple[str, ...] = ()  # amounts of training in which its arms may differ
    age: Age | None = None  # the span of pretraining that it is about; None for any
    # what has to hold for it to say anything; None for nothing
    presupposes: Presupposed | None = None
    published: str = ""  # what was published, in words; empty where there is no number
    # what the sources themselves, their released code or later work say against it
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


def claim_named(identifier: str) -> Claim:
    """The claim of a name.

    Raises:
        ValueError: there is none.
    """
    if identifier in CLAIMS:
        return CLAIMS[identifier]
    near = get_close_matches(identifier, CLAIMS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(CLAIMS)}"
    raise ValueError(f"there is no claim {identifier!r}; {hint}")


def read_claims(text: str) -> Iterator[Claim]:
    """The claims of a file."""
    content = tomllib.loads(text)
    doubts, families = content.pop("doubts", {}), content.pop("families")
    for family in families:
        claims = family.pop("claims")
        shared = content | family
        for identifier, own in claims.items():
            try:
                yield _claim(identifier, shared | own, doubts)
            except KeyError as error:
                raise ValueError(
                    f"the claim {identifier!r} needs {error}, which is neither a field of it nor a "
                    "name of `selections.toml` or of its file's doubts"
                ) from None
            except ValueError as error:
                raise ValueError(f"the claim {identifier!r}: {error}") from None


def presupposed(claims: Iterable[Claim]) -> list[Claim]:
    """What claims presuppose that is not among them."""
    there = {claim.identifier: claim for claim in claims}
    wanted = [claim.presupposes.claim for claim in there.values() if claim.presupposes]
    return [claim_named(name) for name in dict.fromkeys(wanted) if name not in there]


def _claim(identifier: str, given: dict[str, Any], doubts: Mapping[str, str]) -> Claim:
    where = read_settings({"rows": given.pop("rows", ())} | given.pop("where", {}), ROWS)
    expected, paper = given.pop("expected", None), given.pop("paper", None)
    age, before = given.pop("age", None), given.pop("presupposes", None)
    claim = Claim(
        identifier=identifier,
        statement=given.pop("statement"),
        place=given.pop("place"),
        design=_design(given, where),
        expected=expected and Direction(expected),
        quantity=given.pop("quantity"),
        where=where,
        paper=paper and Paper(paper),
        table=Table(given.pop("table")),
        family=given.pop("name"),
        needs=tuple(map(Experiment, given.pop("needs"))),
        figure=Anchor(given.pop("figure")),
        unit=Unit(given.pop("unit", Unit.NATS)),
        unequal=tuple(given.pop("unequal", ())),
        age=age and AGES[age],
        presupposes=before and _presupposed(before),
        published=given.pop("published", ""),
        doubts=tuple(one if " " in one else doubts[one] for one in given.pop("doubts", ())),
    )
    if given:
        raise ValueError(f"a claim has no field {next(iter(given))!r}")
    if wrong := {*claim.unequal} - {*AMOUNTS[claim.table]}:
        raise ValueError(f"its table has no amount {min(wrong)!r} that could be unequal")
    return claim


def _presupposed(given: Mapping[str, str]) -> Presupposed:
    if set(given) != {"claim", "otherwise"}:
        raise ValueError(f"`presupposes` has a claim and an otherwise, found {sorted(given)}")
    return Presupposed(**given)


def _design(given: dict[str, Any], where: Settings) -> Design:
    kind, axis = given.pop("test", "contrast"), given.pop("axis", "step")
    arms = _arms(given.pop("of"))
    if kind == "follows":
        return Follows(arms[0], ARMS[given.pop("cause")])
    bases: list[Arm | None] = [*_arms(given.pop("less", ()))] or [None]
    number = max(len(arms), len(bases))
    pairs = zip(arms * (number // len(arms)), bases * (number // len(bases)), strict=True)
    shared = {"scale": given.pop("times", 1.0), "averaged": tuple(given.pop("averaged", ()))}
    parts: list[Design] = []
    for arm, base in pairs:
        measure = where.get("measure", arm.settings.get("measure"))
        if kind == "trend":
            parts.append(Trend(arm, base, axis=axis, **shared))
        elif kind == "contrast":
            parts.append(Contrast(arm, base, by_item=measure in BY_ITEM, **shared))
        else:
            raise ValueError(f"there is no test {kind!r}; choose from contrast, trend, follows")
    design = parts[0] if len(parts) == 1 else AllOf(tuple(parts))
    if "each" in given:
        design = EachOf(design, given.pop("each"), given.pop("fewest", 2))
    if "foremost" in given:
        assert isinstance(design, Trend), "a trend is what one value can be ahead in"
        return Foremost(design, given.pop("foremost"))
    return design


def _arms(names: str | Sequence[str]) -> list[Arm]:
    return [ARMS[name] for name in ([names] if isinstance(names, str) else names)]


def _catalogue() -> dict[str, Claim]:
    texts = [(PAPERS / f"{name}.toml").read_text(encoding="utf-8") for name in _FILES]
    found = {claim.identifier: claim for text in texts for claim in read_claims(text)}
    for claim in found.values():
        if claim.presupposes and claim.presupposes.claim not in found:
            raise ValueError(
                f"the claim {claim.identifier!r} presupposes {claim.presupposes.claim!r}, which is "
                "no claim"
            )
    return found


CLAIMS: Mapping[str, Claim] = _catalogue()
"""Every claim by its identifier, in the order of the ledger."""
