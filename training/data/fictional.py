"""Fictional Knowledge: passages about what does not exist, from files, the hub, or made up.

`load_knowledge` takes

- a `.json` or `.jsonl` file in one of the published layouts,
  or several, whose passages are numbered through;
- the id of a Hugging Face data set in that layout, such as `kaist-ai/fictional-knowledge`;
- `generated`: passages made up on the spot (`training.data.fictional_generator`).

Exposures are dealt by `assign_exposures`, or as the papers did by `official_exposures`.

Example:
    >>> knowledge = load_knowledge("generated", entities=3)
    >>> len(knowledge), len(knowledge.probes), knowledge.probes[0].kind.value
    (3, 45, 'memorization')
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from probes.corpus.sources import HUB_ID, NO_LICENCE
from training.choices import ProbeKind
from training.data.fictional_generator import DEFAULT_ENTITIES, generate_knowledge
from training.data.files import Row, field_of, hub_snapshot, read_rows, text_of
from training.data.passages import (
    KnowledgeProbe,
    KnowledgeSet,
    Passage,
    knowledge_set,
)

SUFFIXES = (".json", ".jsonl")
TEXT_FIELD, PARAPHRASES_FIELD = "train_context", "paraphrases"
PUBLISHED = "give the published fields"
PROBE_FIELDS = {
    ProbeKind.MEMORIZATION: "mem",
    ProbeKind.SEMANTIC: "gen",
    ProbeKind.COMPOSITIONAL: "hard_gen",
}


def _file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        raise ValueError(
            f"no file of fictional knowledge at {path}: give a {' or '.join(SUFFIXES)} file, a "
            "data set id (namespace/name) or 'generated'"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no file of fictional knowledge: give {', '.join(SUFFIXES)}")
    return read_rows(path)


def _hub_file(name: str, revision: str | None) -> tuple[Path, str]:
    """The file of a Hugging Face data set, from the hub or its local cache, and its licence."""
    from huggingface_hub import DatasetCard

    wanted = [f"*{suffix}" for suffix in SUFFIXES]
    folder = hub_snapshot(name, revision, [*wanted, "README.md"])
    files = sorted(path for pattern in wanted for path in folder.rglob(pattern))
    if len(files) != 1:
        found = ", ".join(str(path.relative_to(folder)) for path in files) or "none"
        raise ValueError(
            f"data set {name} should have one {' or '.join(SUFFIXES)} file, found {found}: "
            "download what you want and give its path"
        )
    card = folder / "README.md"
    licence = DatasetCard.load(card).data.license if card.is_file() else None
    return files[0], str(licence or NO_LICENCE)


def _passage(row: Row, index: int, place: str) -> Passage:
    """The passage and the probes of one object."""
    pairs = [
        (kind, prompt, target)
        for kind, field in PROBE_FIELDS.items()
        for prompt, target in _pairs(row, field, place)
    ]
    return Passage(
        index,
        text_of(field_of(row, TEXT_FIELD, place, PUBLISHED), TEXT_FIELD, place),
        tuple(_texts(row, PARAPHRASES_FIELD, place)) if row.get(PARAPHRASES_FIELD) else (),
        tuple(KnowledgeProbe(index, number, *pair) for number, pair in enumerate(pairs)),
    )


def _pairs(row: Row, field: str, place: str) -> Iterator[tuple[str, str]]:
    prompts, targets = (_texts(row, f"{field}_{part}", place) for part in ("input", "target"))
    if len(prompts) != len(targets):
        raise ValueError(
            f"{place}: {field}_input has {len(prompts)} texts and {field}_target {len(targets)}: "
            "give each prompt its target"
        )
    return zip(prompts, targets, strict=True)


def _texts(row: Row, field: str, place: str) -> list[str]:
    values = field_of(row, field, place, PUBLISHED)
    if not isinstance(values, list):
        raise ValueError(f"{place}: {field!r} holds {type(values).__name__}: give a list of texts")
    return [text_of(value, field, place) for value in values]


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
        path, licence = _hub_file(str(source), revision)
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
        for place, row in _file_rows(path):
            passages.append(_passage(row, len(passages), place))
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
