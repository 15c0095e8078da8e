r"""Random words: mixing data that has nothing to do with any fact.

An item asks for a sequence of words to be copied. The prompt is

    Memorize the following random-string passage:\n{words}

and the answer the same words, parted by single spaces. Each word is drawn uniformly and
independently of the others (so with replacement) from the headwords of Webster's Second
International, capitals kept. The paper says that 50 words are drawn uniformly from the NLTK word
corpus, which is an older copy of the same list with 850 words of Basic English beside it, and does
not say whether a word may occur twice in a sequence; at 50 of 235,970 words one does in 0.5 % of
them.

Item i depends on the seed and on i alone: the first items of a long mix are the short mix of the
same seed, and the first words of long items are the short items.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
4.1 and B.5.2.

Example:
    >>> item = random_sequences(["ant", "bee", "cow"], 1, words=4, seed=0)[0]
    >>> item.turns[0].answer
    'bee cow cow bee'
"""

import random
from collections.abc import Sequence

from training.datasets.conversations import Conversation, Turn

RANDOM_PROMPT = "Memorize the following random-string passage:\n"
RANDOM_SOURCE = "random"
WORD_LIST = "webster-words"
PAPER_WORDS = 50
"""Words in an item of the paper: some 150 tokens of a large vocabulary, 450 of a small one."""
SHORT_WORDS = 8
"""Words in an item for small vocabularies, whose tokens are a few characters long."""


def random_words(n: int, *, words: int = PAPER_WORDS, seed: int) -> list[Conversation]:
    """Sequences of words of the built-in word list, each to be copied.

    Args:
        n: how many items.
        words: how many words an item has.
        seed: decides which; the same seed gives the same items in the same order.

    Raises:
        ValueError: a number is not positive, or the word list cannot be had
            (`probes.assets.AssetError`).
    """
    from probes.assets import fetch

    vocabulary = fetch(WORD_LIST).read_text(encoding="utf-8").split()
    return random_sequences(vocabulary, n, words=words, seed=seed)


def random_sequences(
    vocabulary: Sequence[str], n: int, *, words: int, seed: int
) -> list[Conversation]:
    """Sequences of words of any list, each to be copied; see `random_words`."""
    check_mix_numbers(n, words)
    return [_item(vocabulary, index, words, seed) for index in range(n)]


def check_mix_numbers(n: int, words: int) -> None:
    """Refuse a mix of no items, or of items without words."""
    if n < 1:
        raise ValueError(f"a mix of {n} items was asked for: give 1 or more")
    if words < 1:
        raise ValueError(f"mix items of {words} words were asked for: give 1 or more")


def _item(vocabulary: Sequence[str], index: int, words: int, seed: int) -> Conversation:
    drawn = random.Random(f"{seed}/{index}").choices(vocabulary, k=words)
    passage = " ".join(drawn)
    turn = Turn(RANDOM_PROMPT + passage, passage)
    return Conversation((turn,), f"{RANDOM_SOURCE}-{seed}-{index}", RANDOM_SOURCE)
