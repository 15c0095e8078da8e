"""Text bytes: how many bytes of text a stream of tokens stands for.

Each document's tokens are decoded together, without special tokens, so that a character whose bytes
lie in two rows is counted once.
"""

from typing import Any

from probes.corpus.token_batch import TokenBatch


class TextBytes:
    """Counts bytes; holds only the document at hand."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._document: int | None = None
        self._ids: list[int] = []
        self._bytes = 0

    def see(self, batch: TokenBatch) -> None:
        """Take the tokens of a batch; documents that go on from the last one are joined."""
        if self._tokenizer is None:
            return
        real = batch.attention_mask.bool()
        ids, documents = batch.input_ids[real].cpu(), batch.segment_ids[real].cpu()
        found, counts = documents.unique_consecutive(return_counts=True)
        for document, part in zip(found.tolist(), ids.split(counts.tolist()), strict=True):
            if document != self._document:
                self._decode()
                self._document = document
            self._ids += part.tolist()

    def result(self) -> int | None:
        """Bytes of all documents so far; None without a tokenizer."""
        self._decode()
        return None if self._tokenizer is None else self._bytes

    def _decode(self) -> None:
        if self._ids:
            assert self._tokenizer is not None
            text = self._tokenizer.decode(
                self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            self._bytes += len(text.encode())
            self._ids = []
