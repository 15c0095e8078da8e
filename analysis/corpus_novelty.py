r"""How new are corpora to a model, by their entities? `python -m analysis.corpus_novelty`.

The perplexity of every document's entities (`training.novelty`), and how many documents of each
corpus have which. Writes `novelty.html`, `.md`, `.json` and `.csv` (a row per document) into
`--out`.

Source: Kim et al., ICLR 2025: Figure 10.

Example:
    $ python -m analysis.corpus_novelty --model smollm2-135m-instruct-q4 \
          --corpus biomedical general --out runs/novelty
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import SampleBy
from probes.cli import LoadingSettings, command_main, progress

if TYPE_CHECKING:
    import pandas as pd

    from analysis.document import Figure, Report
    from probes.results import Provenance
    from training.novelty import CorpusNovelty

NAME = "novelty"  # what its files are called
_VALUE = "entity_perplexity"
_BINS, _FEWEST = 24, 4
_HOW_TO_READ = (
    "A document's perplexity is e to the mean loss of its entities, each of which is the mean over "
    "the tokens of one mention; entities are spans of words that are written like names. Documents "
    "without one are left out, and medians have the middle half of the documents beside them."
)


@dataclass(frozen=True, kw_only=True)
class NoveltyArguments(LoadingSettings):
    """Measure how new corpora are to a model, by the perplexity of their entities."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    corpus: tuple[str, ...]
    """Built-in corpus, file of texts, folder, quoted pattern or hub data set; several are
    compared."""
    out: Path
    """Folder for the results; made if it is not there."""
    max_documents: int | None = 256
    """Documents of each corpus, None for all; the paper has 10,000."""
    sequence_length: int | None = None
    """Tokens after which a document is cut off; 512, or as many as the model takes."""
    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: NoveltyArguments, given: Sequence[str]) -> None:
    import pandas as pd

    import probes
    from analysis.document import save_report
    from analysis.numbers import command_line
    from probes.cli import refuse_existing
    from training.novelty import corpus_novelty

    if not arguments.corpus or len(set(arguments.corpus)) < len(arguments.corpus):
        raise ValueError(
            f"--corpus names {len(arguments.corpus)} corpora, {len(set(arguments.corpus))} of them "
            "different; name one or more, each once"
        )
    files = [f"{NAME}.{ending}" for ending in ("html", "md", "json", "csv")]
    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=files)
    reading: dict[str, Any] = {"column": arguments.column, "sample_by": arguments.sample_by}
    corpora = [
        probes.load_corpus(name, max_documents=arguments.max_documents, **reading)
        for name in arguments.corpus
    ]
    model = arguments.load(arguments.model)
    found: dict[str, CorpusNovelty] = {}
    for name, corpus in zip(arguments.corpus, corpora, strict=True):
        with progress(f"{name}, documents", arguments.max_documents) as advance:
            found[name] = corpus_novelty(
                model,
                corpus,
                sequence_length=arguments.sequence_length,
                prepend_bos=arguments.prepend_bos,
                on_documents=advance,
            )
    documents = pd.concat(
        [one.to_dataframe().assign(corpus=name) for name, one in found.items()], ignore_index=True
    )
    summary = novelty_table(documents)
    command, origins = command_line(PROGRAM, given), [one.provenance for one in found.values()]
    report = novelty_report(documents, summary, command, origins)
    content = {
        "model": arguments.model,
        "revision": arguments.revision,
        "units": "perplexity",
        "corpora": summary.to_dict("records"),
        "provenance": dict(zip(found, map(asdict, origins), strict=True)),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_report(report, arguments.out, NAME, content=content, tables={NAME: documents})


def novelty_table(documents: "pd.DataFrame") -> "pd.DataFrame":
    """A row for each corpus: documents, those with entities, and quartiles of their perplexity."""
    import pandas as pd

    groups = documents.groupby("corpus", sort=False)
    quartiles = groups[_VALUE].quantile([0.25, 0.5, 0.75]).unstack()
    quartiles.columns = pd.Index(["quarter", "median", "three_quarters"])
    counts = groups[_VALUE].agg(documents="size", with_entities="count")
    loss = groups["entity_loss"].mean().rename("mean_entity_loss")
    mentions = groups["entities"].sum()
    return counts.join([mentions, quartiles, loss]).reset_index()


def novelty_report(
    documents: "pd.DataFrame",
    summary: "pd.DataFrame",
    command: str,
    origins: "Sequence[Provenance]",
) -> "Report":
    """What was found."""
    from analysis.document import Code, Report, Section, Where, origin_fold, table_of
    from analysis.numbers import count, shown_path

    columns = {
        "corpus": "{corpus}",
        "documents": "{with_entities:count} of {documents:count}",
        "entities": "{entities:count}",
        "median": "{median:,.1f~}",
    }
    ends = {"quarter": "low", "three_quarters": "high"}
    title, where = "Perplexity of entities, by document", Where.EVERYWHERE
    table = table_of(title, summary.rename(columns=ends), columns, _HOW_TO_READ, where=where)
    origin = [origin_fold(str(one.corpus), one) for one in origins]
    return Report(
        title=f"How new corpora are to {shown_path(origins[0].model)}",
        kicker="mnemoscope \u00b7 novelty",
        deck=f"{count(len(documents))} documents of {', '.join(summary['corpus'])}.",
        findings=_findings(summary),
        command=command,
        sections=[
            Section("By their entities", [*_figures(documents), table]),
            Section("Provenance", [Code(command), *origin]),
        ],
    )


def _figures(documents: "pd.DataFrame") -> "list[Figure]":
    import numpy as np
    import pandas as pd

    from analysis.document import Panel, figure
    from analysis.figures import lines

    known = documents.dropna(subset=["entity_loss"])
    if len(known) < _FEWEST:
        return []
    edges = np.linspace(known["entity_loss"].min(), known["entity_loss"].max(), _BINS + 1)
    rows = [
        pd.DataFrame(
            {
                "perplexity": np.exp((edges[1:] + edges[:-1]) / 2),
                "documents": np.histogram(found["entity_loss"], edges)[0],
                "corpus": name,
            }
        )
        for name, found in known.groupby("corpus", sort=False)
    ]
    drawn = lines(
        pd.concat(rows, ignore_index=True),
        "perplexity",
        "documents",
        by="corpus",
        hover="{corpus}, perplexity {perplexity:.0f}: <b>{documents}</b> documents",
        titles=("perplexity of a document's entities", "documents"),
        line_shape="hvh",
    ).update_xaxes(type="log")
    return figure(
        "How many documents have entities of which perplexity.",
        "Bins are even in the logarithm of the perplexity.",
        [Panel(drawn, "")],
    )


def _findings(summary: "pd.DataFrame") -> list[str]:
    known = summary.dropna(subset=["median"]).sort_values("median", ascending=False)
    if known.empty:
        return ["No document has a word that is written like a name."]
    said = [f"{one.median:,.1f} on {one.corpus}" for one in known.itertuples()]
    return [
        f"The perplexity of the median document's entities is {', '.join(said)}; the higher it is, "
        "the less of what a text is about was met before."
    ]


PROGRAM = "analysis.corpus_novelty"
main = command_main(NoveltyArguments, _run, program=PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
