"""Text towers: the language model inside a multimodal wrapper.

A folder of Gemma 3, Mistral 3 or Qwen2-VL and Qwen2.5-VL holds a language model, a vision tower and
what leads from one to the other. The language model is read by itself, as an ordinary causal
language model; on text alone it computes what the wrapper does. The rotary positions of the Qwen
models have three axes, which are one and the same without images, so theirs is a Qwen2.

Example:
    >>> import transformers
    >>> text_tower(transformers.LlamaConfig()) is None
    True
"""

from dataclasses import dataclass
from typing import Any

_WRAPPERS = ("gemma3", "mistral3", "qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class TextTower:
    """How to read the language model out of a wrapper's weights."""

    config: Any
    """Of the language model alone."""
    renamed: dict[str, str]
    """Patterns of names in the file, and what they are in the language model."""
    left_out: str
    """Pattern of the names that belong to the other parts."""


def text_tower(config: Any) -> TextTower | None:
    """The language model of a wrapper, from its configuration; None for what is no wrapper."""
    if config.model_type not in _WRAPPERS:
        return None
    text = config.get_text_config()
    own = _as_qwen2(text) if config.model_type.startswith("qwen2") else text
    # The wrapper's settings hold for the language model in it.
    own.tie_word_embeddings = config.tie_word_embeddings
    own.dtype = config.dtype
    return TextTower(
        config=own,
        renamed={
            r"^(model\.)?language_model\.lm_head\.": "lm_head.",
            r"^(model\.)?language_model\.(model\.)?": "model.",
        },
        left_out=r"(model\.)?(visual|vision_tower|multi_modal_projector)\.",
    )


def _as_qwen2(text: Any) -> Any:
    from transformers import Qwen2Config

    known = Qwen2Config().to_dict().keys() - {"model_type", "transformers_version"}
    values = {name: value for name, value in text.to_dict().items() if name in known}
    rope = values["rope_parameters"]
    values["rope_parameters"] = {k: v for k, v in rope.items() if k != "mrope_section"}
    return Qwen2Config(**values)
