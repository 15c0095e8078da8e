"""Model shapes: small models of a known family, and their tokenizers, made from scratch.

`olmo` is like OLMo-1B (gated SiLU MLP, layer norms without parameters, no biases), `llama` like
SmolLM2 (gated SiLU, RMS norms, no biases), `pythia` like Pythia (GELU, not gated, attention and MLP
in parallel, biases). All have rotary positions; embedding and unembedding are one matrix in the
first two. Weights are drawn by transformers' initialiser of the family, in float32.

Source: Groeneveld et al. 2024 (OLMo); Biderman et al. 2023 (Pythia); Allal et al. 2025 (SmolLM2).

Example:
    >>> ModelShape(
    ...     family="olmo", d_model=192, n_layers=4, n_heads=4, d_mlp=768, d_vocab=4096
    ... ).parameters()
    3145728
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from probes.choices import as_choice
from probes.prompts import Prompts, own_front
from probes.refusals import instance_of
from probes.refusals import tokenizer as a_tokenizer
from training.settings import require_kinds

if TYPE_CHECKING:
    from probes.hooked_model import HookedModel

END = "<|endoftext|>"
PADDING = "<|padding|>"
MINIMUM_VOCABULARY = 256 + 2  # one entry for every byte, and the two special ones
_SIZES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_mlp": "intermediate_size",
    "d_vocab": "vocab_size",
    "positions": "max_position_embeddings",
}


class ModelFamily(StrEnum):
    """Which models a new one is like."""

    OLMO = "olmo"  # OLMo-1B: the Knowledge Entropy paper's
    LLAMA = "llama"  # SmolLM2
    PYTHIA = "pythia"  # of the GPT-NeoX family


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The family and the sizes of a model.

    Args:
        family: which models it is like.
        d_model: width of the residual stream.
        n_layers: how many blocks.
        n_heads: heads of attention in a block, which share `d_model` between them.
        d_mlp: memory vectors of a block.
        d_vocab: entries of the vocabulary.
        positions: the longest row that it takes, in tokens.

    Raises:
        ValueError: a size is below 1, or heads do not divide `d_model` evenly.
    """

    family: ModelFamily | str
    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    d_vocab: int
    positions: int = 1024

    def __post_init__(self) -> None:
        require_kinds(self)
        as_choice(ModelFamily, str(self.family), "family")
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, found {getattr(self, name)}")
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} does not give {self.n_heads} heads an even width, which "
                f"rotary positions need; take a multiple of {2 * self.n_heads}"
            )

    def config(self, tokenizer: Any | None = None) -> Any:
        """The configuration as transformers has it, with a tokenizer's special tokens."""
        import transformers

        given = {theirs: getattr(self, ours) for ours, theirs in _SIZES.items()}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            given[name] = getattr(tokenizer, name, None)
        match ModelFamily(self.family):
            case ModelFamily.OLMO:
                return transformers.OlmoConfig(**given, tie_word_embeddings=True)
            case ModelFamily.LLAMA:
                return transformers.LlamaConfig(**given, tie_word_embeddings=True)
            case ModelFamily.PYTHIA:
                given |= {"tie_word_embeddings": False, "hidden_dropout": 0.0}
                return transformers.GPTNeoXConfig(**given)

    def parameters(self) -> int:
        """How many parameters such a model has, tied ones counted once; nothing is allocated."""
        import torch

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in _module(self.config()).parameters())


def new_model(shape: ModelShape, tokenizer: Any | None = None, *, seed: int = 0) -> "HookedModel":
    """A model that has seen nothing, on the CPU in float32.

    Args:
        shape: family and sizes.
        tokenizer: its tokenizer.
        seed: of the weights; the same bits for the same seed, whatever was drawn before.

    Raises:
        ValueError: the tokenizer has ids that the model has no embedding for.
    """
    import torch

    import probes

    for name, wrong in {
        "shape": instance_of(ModelShape, "training.ModelShape(family=..., ...)")(shape),
        "tokenizer": a_tokenizer(tokenizer),
    }.items():
        if wrong:
            raise ValueError(f"new_model: {name} is {wrong}")
    if tokenizer is not None and len(tokenizer) > shape.d_vocab:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, but the model's vocabulary has "
            f"{shape.d_vocab}; make d_vocab at least {len(tokenizer)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf_model = _module(shape.config(tokenizer)).eval()
    return probes.load_model(hf_model, tokenizer=tokenizer)


def _module(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def train_byte_pairs(texts: Iterable[str], d_vocab: int) -> Any:
    """Learn a tokenizer: byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019).

    Text is split as GPT-2 splits it, and every byte has an entry, so that any text comes back.
    `<|endoftext|>` is 0, `<|padding|>` is 1; neither is put in by encoding. The same texts give the
    same tokenizer.

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


def set_bos_habit(tokenizer: Any, prepend_bos: bool | None) -> Any:
    """Have a tokenizer begin texts with a BOS, or not, which is saved with it; in place."""
    if prepend_bos is None or tokenizer is None:
        return tokenizer
    front = Prompts(tokenizer, prepend_bos=prepend_bos).front
    if own_front(tokenizer) == front:
        return tokenizer
    if hasattr(tokenizer, "add_bos_token"):
        tokenizer.add_bos_token = prepend_bos
    if own_front(tokenizer) != front and tokenizer.is_fast:
        from tokenizers.processors import TemplateProcessing

        tokens = tokenizer.convert_ids_to_tokens(list(front))
        begun, special = [*tokens, "$A"], list(zip(tokens, front, strict=True))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=begun, pair=[*begun, "$B:1"], special_tokens=special
        )
    if own_front(tokenizer) != front:
        raise ValueError(
            f"prepend_bos is {prepend_bos}, and {type(tokenizer).__name__} cannot take the habit; "
            "give a fast tokenizer, or leave prepend_bos out"
        )
    return tokenizer
