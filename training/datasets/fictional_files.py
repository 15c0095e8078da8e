"""Fictional Knowledge from files and from the hub: the published layouts, and what is refused.

Both published layouts are lists of objects with the fields below. The set of the paper on factual
knowledge acquisition is one file; that of the Knowledge Entropy paper is two, the passages that are
paraphrased and those that are shown once, and their passages are numbered through in that order.

| field                               | holds                                                  |
|-------------------------------------|--------------------------------------------------------|
| `train_context`                     | the passage                                            |
| `paraphrases`                       | list of texts; optional, and may be empty              |
| `mem_input`, `mem_target`           | lists of one length: memorization probes               |
| `gen_input`, `gen_target`           | the same: semantic probes                              |
| `hard_gen_input`, `hard_gen_target` | the same: compositional probes                         |

Files are `.json` (one list) or `.jsonl` (an object a line), in UTF-8. White space around texts is
taken off; other fields are ignored.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024 (kaist-ai/fictional-knowledge in the hub); Kim et al., "Knowledge Entropy Decay during
Language Model Pretraining Hinders New Knowledge Acquisition", ICLR 2025.

Example:
    >>> row = {"train_context": "Tolm lies on the Ise.", "mem_input": ["Tolm lies on the"],
    ...        "mem_target": ["Ise"], "gen_input": [], "gen_target": [],
    ...        "hard_gen_input": [], "hard_gen_target": []}
    >>> passage_of_row(row, 0, "item 1").probes[0].target
    'Ise'
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probes.corpus.sources import NO_LICENCE
from training.choices import ProbeKind
from training.datasets.hub_files import hub_snapshot
from training.datasets.passages import KnowledgeProbe, Passage
from training.datasets.row_files import Row, read_rows, text_of

SUFFIXES = (".json", ".jsonl")
TEXT_FIELD, PARAPHRASES_FIELD = "train_context", "paraphrases"
PROBE_FIELDS = {
    ProbeKind.MEMORIZATION: "mem",
    ProbeKind.SEMANTIC: "gen",
    ProbeKind.COMPOSITIONAL: "hard_gen",
}


def file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a file, each with its place for error messages.

    Raises:
        ValueError: there is no such file, it is of another kind, or it is not valid.
    """
    if not path.is_file():
        raise ValueError(
            f"no file of fictional knowledge at {path}: give a {' or '.join(SUFFIXES)} file, a "
            "data set id (namespace/name) or 'generated'"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no file of fictional knowledge: give {', '.join(SUFFIXES)}")
    return read_rows(path)


def hub_file(name: str, revision: str | None) -> tuple[Path, str]:
    """The file of a Hugging Face data set, from the hub or its local cache, and its licence.

    Args:
        name: id of the data set, "namespace/name".
        revision: branch, tag or commit; None for the newest.

    Raises:
        ValueError: it cannot be had, or has another number of files than one.
    """
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


def passage_of_row(row: Row, index: int, place: str) -> Passage:
    """The passage and the probes of one object.

    Args:
        row: the object.
        index: what the passage is numbered.
        place: where the object stands, for errors.

    Raises:
        ValueError: a field is missing or holds something else than it should.
    """
    pairs = [
        (kind, prompt, target)
        for kind, field in PROBE_FIELDS.items()
        for prompt, target in _pairs(row, field, place)
    ]
    return Passage(
        index,
        text_of(_field(row, TEXT_FIELD, place), TEXT_FIELD, place),
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
    values = _field(row, field, place)
    if not isinstance(values, list):
        raise ValueError(f"{place}: {field!r} holds {type(values).__name__}: give a list of texts")
    return [text_of(value, field, place) for value in values]


def _field(row: Row, field: str, place: str) -> Any:
    if row.get(field) is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise ValueError(f"{place}: no {field!r}; found {found}: give the published fields")
    return row[field]
