"""The ledger's file: what was claimed, and what runs say about it, from a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.choices import Verdict
from analysis.ledger import JSON_FILE, verdict_counts

_NEEDED = ("scale", "level", "command", "claims")
_OF_A_CLAIM = (
    *("claim", "statement", "paper", "place", "quantity", "unit", "published", "doubts"),
    "question",
    *("verdict", "effect", "low", "high", "p_value", "p_against", "n", "seeds", "test"),
    *("family", "sentence"),
)
_SHOWN = tuple(name for name in _OF_A_CLAIM if name != "doubts")


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Claims and verdicts.

    Attributes:
        scale: of the runs.
        level: of the verdicts: 1 less the chance of any false one in a family.
        command: that made it.
        claims: in the order of the catalogue, each with its verdict, as in the file.
        provenance: what the file says about where the numbers are from.
    """

    scale: str
    level: float
    command: str
    claims: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have each verdict, of those that any has."""
        return verdict_counts(self.claims)

    def table(self) -> pd.DataFrame:
        """A row for each claim."""
        return pd.DataFrame([[one[name] for name in _SHOWN] for one in self.claims], columns=_SHOWN)


def read_ledger(path: str | Path) -> Ledger:
    """Read a ledger."""
    file = Path(path) / JSON_FILE if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is no ledger, found no JSON ({error}); make it anew with analysis.reproduce"
        ) from None
    _check(content, file)
    return Ledger(
        scale=str(content["scale"]),
        level=float(content["level"]),
        command=str(content["command"]),
        claims=tuple(content["claims"]),
        provenance=content.get("provenance") or {},
    )


def _check(content: Any, file: Path) -> None:
    parts: list[tuple[Any, tuple[str, ...]]] = [(content, _NEEDED)]
    if isinstance(content, dict) and isinstance(content.get("claims"), list):
        parts += [(claim, _OF_A_CLAIM) for claim in content["claims"]]
    for part, needed in parts:
        missing = [name for name in needed if not isinstance(part, dict) or name not in part]
        if missing:
            raise ValueError(
                f"{file} was written by another version, found no {missing[0]!r}; make it anew "
                "with analysis.reproduce"
            )
    verdicts = {str(claim["verdict"]) for claim in content["claims"]}
    if unknown := sorted(verdicts - set(Verdict)):
        raise ValueError(
            f"{file} has an unknown verdict {unknown[0]!r}, known are {', '.join(Verdict)}; make "
            "it anew with analysis.reproduce"
        )
