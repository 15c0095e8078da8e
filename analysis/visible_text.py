r"""Visible text: a token the way a page or a figure shows it, so that nothing in it hides.

A space becomes a middle dot, a line break an arrow, and characters that have no shape of their own
or turn the direction of writing become their code. Nothing is escaped here: that is the work of
whoever puts the text into markup.

Example:
    >>> visible(" Paris\n"), visible("a\u202eb"), visible("")
    ('·Paris↵', 'a\\u202eb', '∅')
"""

import unicodedata

_SHOWN = {" ": "·", "\n": "↵", "\t": "⇥", "\u00a0": "⍽"}
# Control and format characters, surrogates, and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
EMPTY = "∅"


def visible(text: str) -> str:
    """Text of a token with every character to be seen.

    Args:
        text: as the tokenizer gives it.

    Returns:
        One line; the sign of the empty set for no text at all.
    """
    return "".join(map(_shown, text)) or EMPTY


def _shown(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return f"\\u{ord(character):04x}"
