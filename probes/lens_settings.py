"""Lens settings: what to read through the lens, and where.

Example:
    >>> LensSettings(top_k=3).positions
    <LensPositions.LAST: 'last'>
"""

from dataclasses import dataclass

from probes.choices import LensPositions, TargetSpan


@dataclass(frozen=True, kw_only=True)
class LensSettings:
    """What to read, and where.

    Attributes:
        positions: the readout position alone (`last`), all of the prompt, or some positions of it,
            counted from its start or, if negative, from its end.
        span: the target's first token alone, or all of them.
        norm: whether streams go through the final norm before the unembedding.
        embedding: whether the stream before block 0 is a layer.
        top_k: how many of the most likely tokens to keep.
    """

    positions: LensPositions | tuple[int, ...] = LensPositions.LAST
    span: TargetSpan = TargetSpan.FIRST
    norm: bool = True
    embedding: bool = False
    top_k: int = 10

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; keep at least one token")
