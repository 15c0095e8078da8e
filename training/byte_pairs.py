"""A tokenizer of one's own: byte-level byte-pair encoding, learnt from texts.

A model of a few million parameters cannot spare most of them for the embeddings of a published
vocabulary of 50,000; one of 4,096 entries is its size. Text is split as GPT-2 splits it, every byte
has an entry, so that any text can be encoded and decoded to the same text, and the pairs that occur
most often are merged, one after the other, until the vocabulary is full. `<|endoftext|>` is 0,
`<|padding|>` is 1; neither is put in by encoding.

The same texts give the same tokenizer.

Source: Sennrich, Haddow and Birch 2016; Radford et al. 2019 (bytes).

Example:
    >>> tokenizer = train_byte_pairs(["so long as so long"], d_vocab=262)
    >>> tokenizer.decode(tokenizer.encode("so long!"))
    'so long!'
"""

from collections.abc import Iterable
from typing import Any

END = "<|endoftext|>"
PADDING = "<|padding|>"
MINIMUM_VOCABULARY = 256 + 2
"""One entry for every byte, and the two special ones."""


def train_byte_pairs(texts: Iterable[str], d_vocab: int) -> Any:
    """Learn a tokenizer.

    Args:
        texts: what to learn it from.
        d_vocab: how many entries it is to have.

    Returns:
        A fast tokenizer as transformers has it.

    Raises:
        ValueError: so many entries are too few for the bytes, or too many for the texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if d_vocab < MINIMUM_VOCABULARY:
        raise ValueError(
            f"a vocabulary of {d_vocab} cannot hold all bytes; give {MINIMUM_VOCABULARY} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found < d_vocab:
        raise ValueError(
            f"the texts give a vocabulary of {found} entries, fewer than the {d_vocab} asked for; "
            f"ask for {found} at most, or give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
