"""Options that commands share: which model runs where, and how texts become rows of tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.choices import RowLayout, SampleBy

if TYPE_CHECKING:
    from probes.corpus.batching import TokenBatches
    from probes.corpus.sources import Corpus
    from probes.hooked_model import HookedModel


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """How the model is loaded."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own."""

    def load(self, model: str, revision: str | None = None, **more: Any) -> "HookedModel":
        """A model, hooked."""
        import probes

        revision = revision or self.revision
        return probes.load_model(
            model, revision=revision, device=self.device, dtype=self.dtype, **more
        )


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How texts are read and put into rows."""

    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    layout: RowLayout = RowLayout.PACKED
    """packed: documents end to end in full rows; document: one document a row, padded."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    sequence_length: int = 512
    """Tokens of a row."""
    batch_size: int = 8
    """Rows run at once."""

    def corpus_of(self, name: str, max_documents: int | None = None) -> "Corpus":
        """The texts of a name or a file."""
        import probes

        return probes.load_corpus(
            name, column=self.column, sample_by=self.sample_by, max_documents=max_documents
        )

    def batches_of(
        self, model: "HookedModel", corpus: "Corpus", max_tokens: int | None = None
    ) -> "TokenBatches":
        """The text's rows of tokens, for the tokenizer of a model."""
        import probes

        return probes.token_batches(
            corpus,
            model.tokenizer,
            sequence_length=self.sequence_length,
            batch_size=self.batch_size,
            layout=self.layout,
            prepend_bos=self.prepend_bos,
            max_tokens=max_tokens,
        )
