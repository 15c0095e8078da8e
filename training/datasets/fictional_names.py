"""Invented names: words, people, dates and numbers that nothing outside their passage gives away.

Every value is drawn uniformly and independently of all others, and never twice:

| value    | is                                                            | there are |
|----------|---------------------------------------------------------------|-----------|
| word     | onset, vowel, middle and ending, each drawn from a list       | 607,104 |
| person   | two words                                                     |           |
| place, name | one word                                                   |           |
| date     | a day (1 to 28), a month and a year (1700 to 1999)            | 100,800   |
| code     | five digits                                                   | 90,000    |

No word of one value occurs in another, and words of ordinary English that the lists happen to make
are left out, so that whoever has not read the passage can only guess uniformly.

Example:
    >>> names = NameSource(seed=0)
    >>> person, place = names.value(ValueType.PERSON), names.value(ValueType.PLACE)
    >>> len(person.split()), len(place.split())
    (2, 1)
"""

import random
from collections.abc import Callable, Collection
from enum import StrEnum

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
    """Values that have not been given out before.

    Args:
        seed: decides all of them.
        excluded: words in lower case that are never made.
    """

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
