"""Fictional Knowledge: passages about what does not exist, from files, the hub, or made up.

`load_knowledge` takes

- a `.json` or `.jsonl` file in one of the published layouts (`training.datasets.fictional_files`),
  or several, whose passages are numbered through;
- the id of a Hugging Face data set in that layout, such as `kaist-ai/fictional-knowledge`;
- `generated`: passages made up on the spot (`training.datasets.fictional_generator`).

Exposures are dealt by `assign_exposures`, or as the papers did by `official_exposures`.

Example:
    >>> knowledge = load_knowledge("generated", entities=3)
    >>> len(knowledge), len(knowledge.probes), knowledge.probes[0].kind.value
    (3, 45, 'memorization')
"""

from collections.abc import Sequence
from pathlib import Path

from probes.corpus.sources import HUB_ID, NO_LICENCE
from training.choices import Exposure, ProbeKind
from training.datasets.fictional_exposures import (
    Exposures,
    assign_exposures,
    official_exposures,
)
from training.datasets.fictional_files import SUFFIXES, file_rows, hub_file, passage_of_row
from training.datasets.fictional_generator import (
    DEFAULT_ENTITIES,
    generate_knowledge,
)
from training.datasets.passages import KnowledgeProbe, KnowledgeSet, Passage, knowledge_set

__all__ = [
    "Exposure",
    "Exposures",
    "KnowledgeProbe",
    "KnowledgeSet",
    "Passage",
    "ProbeKind",
    "assign_exposures",
    "generate_knowledge",
    "load_knowledge",
    "official_exposures",
]

GENERATED = "generated"


def load_knowledge(
    source: str | Path | Sequence[str | Path],
    *,
    limit: int | None = None,
    revision: str | None = None,
    entities: int | None = None,
    seed: int | None = None,
) -> KnowledgeSet:
    """Load a set of passages and probes.

    Args:
        source: "generated", a file, several files, or the id of a data set in the hub. A `Path` is
            always a file; write `./generated` for a file of that name.
        limit: only the first so many passages.
        revision: branch, tag or commit of a data set.
        entities: so many generated passages.
        seed: of generated passages, 0 by default; `generate_knowledge` has more settings.

    Raises:
        ValueError: there is nothing readable, no passage, or an option that does not apply.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all")
    is_generated = source == GENERATED
    is_hub = not is_generated and _is_hub_id(source)
    _refuse("generated", is_generated, {"entities": entities, "seed": seed})
    _refuse("a data set", is_hub, {"revision": revision})
    if is_generated:
        count = DEFAULT_ENTITIES if entities is None else entities
        return generate_knowledge(count if limit is None else min(count, limit), seed=seed or 0)
    if is_hub:
        path, licence = hub_file(str(source), revision)
        name = f"{source}@{revision}" if revision else str(source)
        return _from_files([path], limit, name, licence, name)
    sources = [source] if isinstance(source, str | Path) else list(source)
    files = [Path(path).expanduser() for path in sources]
    name = ", ".join(path.name for path in files)
    return _from_files(files, limit, name, NO_LICENCE, ", ".join(map(str, files)))


def _from_files(
    files: Sequence[Path], limit: int | None, name: str, licence: str, source: str
) -> KnowledgeSet:
    passages: list[Passage] = []
    for path in files:
        for place, row in file_rows(path):
            passages.append(passage_of_row(row, len(passages), place))
    if not passages:
        raise ValueError(
            f"{source or 'no file'} holds no passage: give {' or '.join(SUFFIXES)} files"
        )
    return knowledge_set(name, passages[:limit], licence=licence, source=source)


def _is_hub_id(source: str | Path | Sequence[str | Path]) -> bool:
    if not isinstance(source, str) or source.endswith(SUFFIXES) or source.startswith("."):
        return False
    return HUB_ID.fullmatch(source) is not None and not Path(source).expanduser().exists()


def _refuse(what: str, applies: bool, options: dict[str, int | str | None]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given and not applies:
        raise ValueError(
            f"{', '.join(given)} was given, but the source is not {what}: leave it out"
        )
