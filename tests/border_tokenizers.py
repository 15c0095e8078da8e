"""Tokenizers that treat the border of two texts differently, made on the spot."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizer, PreTrainedTokenizerFast

import probes
from tests.models import tiny_config

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
_WORDS = ("Paris", "The", "is", "at", "co", "capital", "of", "France")
_BEGUN, _ENDED, _BARE = "<s> $A", "$A </s>", "$A"


def _chain(word: str, first: str = "") -> list[tuple[str, str]]:
    """Merges that build a word from its characters, left to right."""
    whole = [*first, *word]
    return [("".join(whole[:n]), whole[n]) for n in range(1, len(whole))]


def _merges(space: str) -> list[tuple[str, str]]:
    found = [pair for word in _WORDS for pair in (*_chain(word, space), *_chain(word))]
    return list(dict.fromkeys([*found, ("co", "at")]))


def _vocabulary(alphabet: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    pieces = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _fast(backend: Any, frame: str) -> Any:
    backend.post_processor = TemplateProcessing(
        single=frame, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _underlined(frame: str, scheme: str | None) -> Any:
    """A SentencePiece model with bytes to fall back on; without a scheme as Llama 2 writes it."""
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *map(chr, range(97, 123))]
    alphabet += [*"PTF", ",", "."]
    merges = _merges("▁")
    backend = Tokenizer(models.BPE(_vocabulary(alphabet, merges), merges, byte_fallback=True))
    if scheme is None:
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(parts)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return _fast(backend, frame)


def _bytes(frame: str, *, prefix: bool = False) -> Any:
    merges = _merges("Ġ")
    vocabulary = _vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet()), merges)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, frame)


def _python() -> Any:
    """A tokenizer written in Python: a token a character, no offsets, begun with a BOS."""

    class Characters(PreTrainedTokenizer):
        @property
        def vocab_size(self) -> int:
            return 3 + 128

        def get_vocab(self) -> dict[str, int]:
            return SPECIAL | {chr(code): code + 3 for code in range(128)}

        def _tokenize(self, text: str) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return self.get_vocab().get(token, 0)

        def _convert_id_to_token(self, index: int) -> str:
            return [*SPECIAL][index] if index < 3 else chr(index - 3)

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

        def build_inputs_with_special_tokens(
            self, token_ids_0: list[int], token_ids_1: list[int] | None = None
        ) -> list[int]:
            return [1, *token_ids_0]

    return Characters(bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def tokenizer_of(kind: str) -> Any:
    """A tokenizer of a kind in `KINDS`."""
    match kind:
        case "llama":
            return _underlined(_BEGUN, None)
        case "mistral":
            return _underlined(_BEGUN, "first")
        case "always":
            return _underlined(_BARE, "always")
        case "gpt2":
            return _bytes(_BARE)
        case "gpt2 with a space":
            return _bytes(_BARE, prefix=True)
        case "olmo":
            return _bytes(_ENDED)
        case "llama3":
            return _bytes(_BEGUN)
        case "begun and ended":
            return _bytes("<s> $A </s>")
        case "python":
            return _python()
    raise AssertionError(kind)


KINDS = (
    *("llama", "mistral", "always", "gpt2", "gpt2 with a space", "olmo", "llama3"),
    *("begun and ended", "python"),
)


def tiny_llama(kind: str, *, double: bool = False) -> Any:
    """A tiny hooked Llama for such a tokenizer."""
    tokenizer = tokenizer_of(kind)
    config = tiny_config("llama")
    config.vocab_size = len(tokenizer)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    hf_model = AutoModelForCausalLM.from_config(config).eval()
    torch.set_rng_state(state)
    return probes.load_model(hf_model.double() if double else hf_model, tokenizer=tokenizer)
