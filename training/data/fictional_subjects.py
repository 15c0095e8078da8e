"""Fictional subjects: what a made-up passage can be about, and how its facts are put in words.

The texts are in `fictional_texts/`, one file per subject. A subject has ten **facts**. Five are
**direct**: they name something about the subject (who built it, when it opened). Five are
**onward**: they say something about what a direct fact names, such as where its builder was born.
Following a direct and then an onward fact combines the two, without the one in between being named.

| field           | of           | holds                                                          |
|-----------------|--------------|----------------------------------------------------------------|
| `title`         | the subject  | its name in a sentence, with `{name}` for the invented word(s) |
| `named`         |              | the type of that name, "place" unless given                    |
| `gloss`         |              | what it is, as an apposition                                   |
| `openings`      |              | first sentences of the passage itself                          |
| `pools`         |              | words of which each passage has one; nothing asks for them     |
| `details`       |              | `texts`: one remark without names, in several wordings         |
| `type`          | each fact    | type of what it names (`ValueType`)                            |
| `frames`        |              | sentences that state it                                        |
| `question`, `label` |          | what it is called in an interview and in a list                |
| `memorization`, `semantic` | direct facts | beginnings of sentences that it ends                |
| `of`            | onward facts | the direct fact that names what it is about                    |
| `compositional` |              | beginnings of sentences that it ends, without that name        |
| `aside`         |              | the fact as an apposition to that name                         |

In texts, `{S}` is the subject, `{key}` what fact `key` names, `{key+}` the same with an onward fact
in apposition, and `[one|another]` a choice of words that mean the same.

Example:
    >>> lighthouse = next(subject for subject in subjects() if subject.key == "lighthouse")
    >>> [fact.key for fact in lighthouse.onward]
    ['birthplace', 'teacher', 'river', 'owner', 'number']
"""

import random
import re
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

ONSETS = (
    *("B", "Br", "C", "Cr", "D", "Dr", "F", "Fl", "G", "Gl", "Gr", "H", "J", "K", "Kr", "L", "M"),
    *("N", "P", "Pr", "R", "S", "Sk", "St", "T", "Th", "Tr", "V", "W", "Y", "Z"),
)
VOWELS = ("a", "e", "i", "o", "u", "ae", "ie", "ou")
MIDDLES = (
    *("b", "d", "g", "k", "l", "m", "n", "p", "r", "t", "v", "z", "ll", "nn", "rr", "ss", "tt"),
    *("lb", "ld", "lm", "ln", "lt", "lv", "lz", "mb", "nd", "ng", "nk", "nt", "nv", "nz", "rb"),
    *("rd", "rg", "rk", "rl", "rm", "rn", "rt", "rv", "rz", "sk", "sl", "sp", "st", "th", "dr"),
    *("br", "vr", "kr", "kl"),
)
ENDINGS = (
    *("aldi", "amir", "andel", "arde", "ask", "ault", "avel", "eck", "ekin", "eld", "elis", "ello"),
    *("emund", "enko", "enne", "enza", "eric", "erro", "esk", "eth", "evar", "ias", "ibert"),
    *("ilde", "imar", "ingo", "isk", "isso", "ith", "oda", "olf", "olt", "onde", "oran", "orin"),
    *("osk", "ossi", "oth", "ovic", "ude", "ulf", "umar", "und", "urn", "uska", "wen", "ys", "yth"),
)
_REAL = """
bamoth bassorin bedeck bedolt bedravel begeck begulf belleric bemask bemolt berith betask bilith
birbeck bombarde bordello borys bosporan bottekin bountith branwen brunello cadenza candys capias
caravel carrault castello castorin cerberic cestoda cirith citys coburn colias collibert collude
colorin colossi contund conveth corbys costello cothurn cotys countys credenza daleth damask
delude dennys denude dilbeck dimeric dineric disturn domingo dorask dorneck drimys dunkeld
faldorin flamingo fusteric gareth generic genys gerault gerund gittith gladys gomavel gonys
grimaldi hadith hederic hernias hesperic heteric homeric houbolt judith kamias kenneth kopeck
labrys lapith lentisk lienteric ligoth lilith limbeck lispund makonde manavel mandelis mandingo
mareth messias misturn mithith moneric monias morello nasporin nenteric notekin numeric pagoda
paneth pantelis pelias pennys perrault piperic preburn prelude prunello purbeck raeburn rambaldi
ramekin randolf ranulf ravello rebeck rebias rebolt reburn redeck remask renault responde return
revolt rinaldi roderic rotund rudolf saturn sedovic siberic soloth sonoran sordello sororin
suberic taborin tallith tamias tastekin tebeth tethys timias timoth tirith tobias torello
trieteric trilith trimeric tumorin turbith turmeric valeric varenne vingolf vivaldi vulturn
warnoth wotteth youdith zamorin zenith
"""
REAL_WORDS = frozenset(_REAL.split())
"""Words that the lists make and that mean something; in lower case."""
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
DAYS, YEARS = range(1, 29), range(1700, 2000)
CODES = range(10_000, 100_000)
WORDS = len(ONSETS) * len(VOWELS) * len(MIDDLES) * len(ENDINGS)


class ValueType(StrEnum):
    """What sort of thing a fact names."""

    PERSON = "person"
    PLACE = "place"
    NAME = "name"
    DATE = "date"
    CODE = "code"


class NameSource:
    """Values that have not been given out before."""

    def __init__(self, seed: int | str, excluded: Collection[str] = ()) -> None:
        self._random = random.Random(f"names {seed}")
        self._excluded = frozenset(excluded) | REAL_WORDS
        self._given: set[str] = set()

    def value(self, kind: ValueType) -> str:
        """A fresh value."""
        match kind:
            case ValueType.PERSON:
                return f"{self.word()} {self.word()}"
            case ValueType.DATE:
                return self._fresh(self._date)
            case ValueType.CODE:
                return self._fresh(lambda: str(self._random.choice(CODES)))
        return self.word()

    def word(self) -> str:
        """A fresh invented word, with a capital."""
        while True:
            found = self._fresh(self._word)
            if found.lower() not in self._excluded:
                return found

    def _word(self) -> str:
        return "".join(map(self._random.choice, (ONSETS, VOWELS, MIDDLES, ENDINGS)))

    def _date(self) -> str:
        draw = self._random.choice
        return f"{draw(DAYS)} {draw(MONTHS)} {draw(YEARS)}"

    def _fresh(self, draw: Callable[[], str]) -> str:
        while (found := draw()) in self._given:
            pass
        self._given.add(found)
        return found


FOLDER = Path(__file__).parent / "fictional_texts"
GENRES_FILE = "genres.toml"
FACTS_OF_A_KIND = 5
SLOT = re.compile(r"\{(?P<key>\w+)(?P<aside>\+?)\}")


@dataclass(frozen=True)
class Fact:
    """One thing that a passage says; see the module for the fields."""

    key: str
    type: ValueType
    """Of what it names."""
    of: str | None
    """The direct fact that names what it is about; None for direct facts."""
    frames: tuple[str, ...]
    question: str
    label: str
    prompts: dict[str, tuple[str, ...]]
    """Beginnings of sentences that it ends, by field."""
    aside: str
    """It as an apposition; empty for direct facts."""


@dataclass(frozen=True)
class Subject:
    """What a passage is about; see the module for the fields."""

    key: str
    title: str
    named: ValueType
    gloss: str
    openings: tuple[str, ...]
    pools: dict[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    details: tuple[tuple[str, ...], ...]

    @property
    def direct(self) -> tuple[Fact, ...]:
        """Facts about the subject itself."""
        return tuple(fact for fact in self.facts if fact.of is None)

    @property
    def onward(self) -> tuple[Fact, ...]:
        """Facts about what direct facts name."""
        return tuple(fact for fact in self.facts if fact.of is not None)

    def about(self, direct: Fact) -> tuple[Fact, ...]:
        """The onward facts that go on from a direct one."""
        return tuple(fact for fact in self.facts if fact.of == direct.key)


@cache
def subjects() -> tuple[Subject, ...]:
    """All subjects, in the order of their names."""
    files = sorted(path for path in FOLDER.glob("*.toml") if path.name != GENRES_FILE)
    return tuple(_subject(path.stem, read_texts(path.name)) for path in files)


@cache
def vocabulary() -> frozenset[str]:
    """All words of all texts, in lower case: no invented name may be among them."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.toml")))
    return frozenset(word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text))


def read_texts(name: str) -> dict[str, Any]:
    """The content of a file of texts."""
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def _subject(key: str, content: dict[str, Any]) -> Subject:
    facts = tuple(_fact(name, fields) for name, fields in content["facts"].items())
    found = Subject(
        key,
        content["title"],
        ValueType(content.get("named", ValueType.PLACE)),
        content["gloss"],
        tuple(content["openings"]),
        {name: tuple(words) for name, words in content["pools"].items()},
        facts,
        tuple(tuple(detail["texts"]) for detail in content["details"]),
    )
    assert len(found.direct) == len(found.onward) == FACTS_OF_A_KIND, key
    assert {fact.of for fact in found.onward} <= {fact.key for fact in found.direct}, key
    return found


def _fact(key: str, fields: dict[str, Any]) -> Fact:
    of = fields.get("of")
    names = ("memorization", "semantic") if of is None else ("compositional",)
    return Fact(
        key,
        ValueType(fields["type"]),
        of,
        tuple(fields["frames"]),
        fields["question"],
        fields["label"],
        {name: tuple(fields[name]) for name in names},
        fields.get("aside", ""),
    )
