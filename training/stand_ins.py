"""Stand-ins: what a run that is only tried takes for models and data that are not on this machine.

A tiny model with random weights, of the family and with as many positions as the one that is
meant; rows of built-in text for a corpus of the hub; generated passages and items in the layout of
published ones. Each is a folder or a file, so that a trial reads it as a run reads the real thing.
Where many runs are tried, all of them take tiny models, and texts are tokenised once.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import probes
from probes.assets import AssetKind, asset_names, fetch
from probes.checkpoint_files import quiet_transformers
from probes.corpus.sources import is_hub_corpus
from probes.models import where_it_is
from training.data.factoids import HUB_FACTOIDS, KEY_VALUE_RECALL, KeyValues, load_factoids
from training.data.fictional_generator import generate_knowledge
from training.data.mixes import MixName
from training.data.packed_rows import packed_corpus
from training.data.passages import (
    GENERATED,
    PARAPHRASES_FIELD,
    PROBE_FIELDS,
    TEXT_FIELD,
    Passage,
    is_hub_knowledge,
)
from training.data.primary_sets import HUB_INSTRUCTIONS, Layout
from training.model_shapes import set_bos_habit
from training.pretrain_config import OWN_TOKENIZER, PretrainConfig
from training.runs.directory import tokenizer_hash
from training.start_or_resume import find_start, why_not_here

_TEXT, _HELD_OUT = "general-train", "general-heldout"
_GPT_NEOX, _OLMO = "gpt-neox-tokenizer", "olmo-tokenizer"
_KNOWN = {
    "olmo-2": ("olmo2", 4096, _OLMO),
    "olmo": ("olmo", 2048, _OLMO),
    "pythia": ("gpt_neox", 2048, _GPT_NEOX),
    "llama-3": ("llama", 8192, _GPT_NEOX),
    "llama": ("llama", 4096, _GPT_NEOX),
    "mistral": ("mistral", 32_768, _GPT_NEOX),
}
"""Family, positions and a tokenizer that is here, by a part of a model's name."""
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_TINY_SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_mlp": 64}
_HUB_MIXES = frozenset(MixName) - {MixName.RANDOM, MixName.GENERIC}
_FACT_DOCUMENTS, _READ_ROWS = 2000, 256


class StandIns:
    """Makes stand-ins in a folder, each once, and keeps lines about what they stand in for.

    Where `many` runs are tried, every model is tiny, and rows of texts are kept; `planned` are runs
    of pretraining that are still to be made, by their folders.
    """

    def __init__(
        self,
        folder: Path,
        *,
        many: bool = False,
        planned: Mapping[str, PretrainConfig] | None = None,
    ) -> None:
        self._folder, self._many, self._planned = folder, many, planned or {}
        self._trained: dict[PretrainConfig, Path] = {}
        self._tiny: dict[str, Path] = {}
        self.said: dict[str, None] = {}

    def configuration(self, config: Any) -> Any:
        if isinstance(config, PretrainConfig):
            return self._pretraining(config)
        config = replace(config, **self._base(config), **self._texts(config))
        if hasattr(config, "knowledge"):
            config = replace(config, **self._knowledge(config))
            return replace(config, **self._rows(config))
        return replace(config, **self._stages(config))

    def model(self, name: str, revision: str | None = None) -> str:
        """The folder of a tiny model of the same family."""
        if name in self._planned:
            return str(self._pretrained(self._planned[name]))
        if why_not_here(name) is None:
            return str(self._shrunk(where_it_is(find_start(name, revision).model)[0]))
        known = (like for part, like in _KNOWN.items() if part in name.lower())
        family, positions, tokenizer = next(known, _KNOWN["olmo"])
        from transformers import AutoConfig

        path = self._folder / f"{family}-{positions}"
        sizes = {name: size for name, size in _TINY.items() if name != "head_dim"}
        made = AutoConfig.for_model(family, max_position_embeddings=positions, **sizes)
        return str(self._saved(path, made, fetch(tokenizer)))

    def corpus(self, name: str, instead: str = _HELD_OUT) -> str:
        if not is_hub_corpus(name):
            return name
        self._say(f"{name} is of the hub: {instead} stands in")
        return instead

    def _say(self, line: str) -> None:
        self.said[line] = None

    def _pretraining(self, config: PretrainConfig) -> PretrainConfig:
        tokenizer, here = config.tokenizer, asset_names(AssetKind.TOKENIZER)
        if tokenizer != OWN_TOKENIZER and tokenizer not in here and not Path(tokenizer).exists():
            self._say(f"the tokenizer {tokenizer} is not on this machine: {_GPT_NEOX} stands in")
            tokenizer = _GPT_NEOX
        small: dict[str, Any] = {}
        if self._many:
            documents = min(config.fact_documents, _FACT_DOCUMENTS)
            small = {**_TINY_SHAPE, "fact_documents": documents}
        corpora = tuple(self.corpus(name, _TEXT) for name in config.corpus)
        return replace(
            config,
            tokenizer=tokenizer,
            corpus=corpora,
            column=config.column if corpora == config.corpus else None,
            held_out=tuple(map(self.corpus, config.held_out)),
            **small,
        )

    def _pretrained(self, config: PretrainConfig) -> Path:
        """The model that a pretraining run begins with, which has its tokenizer."""
        from training.pretrain_run import prepare

        config = replace(self._pretraining(config), seed=0)
        if config not in self._trained:
            model = prepare(config).model
            assert model.tokenizer is not None
            path = self._folder / f"trained-{len(self._trained)}"
            with quiet_transformers():
                model.hf_model.save_pretrained(path)
            model.tokenizer.save_pretrained(path)
            self._trained[config] = path
        return self._trained[config]

    def _shrunk(self, folder: str) -> Path:
        """A model that is here, made tiny; one for all checkpoints of a run."""
        from transformers import AutoConfig, AutoTokenizer

        if folder not in self._tiny:
            config = AutoConfig.from_pretrained(folder)
            for name, size in _TINY.items():
                if getattr(config, name, None) is not None:
                    setattr(config, name, size)
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[: config.num_hidden_layers]
            words = tokenizer_hash(AutoTokenizer.from_pretrained(folder))
            known = {**config.to_dict(), "_name_or_path": None, "words": words}
            like = json.dumps(known, sort_keys=True, default=str)
            label = hashlib.sha256(like.encode()).hexdigest()[:12]
            path = self._folder / f"{config.model_type}-{label}"
            self._tiny[folder] = self._saved(path, config, folder)
        return self._tiny[folder]

    def _saved(self, path: Path, config: Any, tokenizer: str | Path) -> Path:
        """A model of random weights with a tokenizer, in a folder."""
        if not path.exists():
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            words = AutoTokenizer.from_pretrained(tokenizer)
            config.vocab_size = max(len(words), words.vocab_size)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                setattr(config, name, getattr(words, name))
            with torch.random.fork_rng(devices=[]), quiet_transformers():
                torch.manual_seed(0)
                AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
            words.save_pretrained(path)
        return path

    def _base(self, config: Any) -> dict[str, Any]:
        why = why_not_here(config.model)
        if why is None and not self._many:
            return {}
        changes: dict[str, Any] = {"model": self.model(config.model, config.revision)}
        if config.model in self._planned:
            pass
        elif why is not None:
            family = Path(changes["model"]).name.rpartition("-")[0]
            self._say(f"{why}: a tiny {family} model stands in")
        elif config.cloze == "auto":
            cloze = find_start(config.model, config.revision).cloze
            changes["cloze"] = None if cloze is None else str(cloze)
        return {**changes, "revision": None}

    def _texts(self, config: Any) -> dict[str, Any]:
        return {
            "evaluation_corpora": tuple(map(self.corpus, config.evaluation_corpora)),
            "coefficient_corpus": self.corpus(config.coefficient_corpus, _TEXT),
        }

    def _rows(self, config: Any) -> dict[str, Any]:
        """The text that is trained on, as rows of token ids; one batch of them for the hub's."""
        of_hub = config.corpus is None or is_hub_corpus(config.corpus)
        if not of_hub and not self._many:
            return {}
        from transformers import AutoTokenizer

        most = _READ_ROWS if of_hub else config.rows_needed()
        name = _TEXT if of_hub else config.corpus
        label = "-".join(map(str, (Path(config.model).name, Path(name).name, config.row_length)))
        path = (
            self._folder / f"{label}-{config.prepend_bos}-{most}-{config.batch_size * of_hub}.npy"
        )
        if not path.exists():
            words = set_bos_habit(AutoTokenizer.from_pretrained(config.model), config.prepend_bos)
            corpus = probes.load_corpus(name, column=None if of_hub else config.column)
            rows = packed_corpus(corpus, words, config.row_length, max_rows=most).ids
            size = (config.batch_size, config.row_length)
            np.save(path, np.resize(rows, size) if of_hub else rows)
        changes = {"corpus": str(path), "column": None}
        if of_hub:
            what = "the text to train on is to be given"
            what = what if config.corpus is None else f"{config.corpus} is of the hub"
            self._say(f"{what}: {_TEXT} stands in, one batch again and again")
            last = config.last_injection + 1 + max(config.lags, default=0)
            steps = last if config.steps is None else config.steps
            changes |= {"epochs": steps, "steps": steps}
        return changes

    def _knowledge(self, config: Any) -> dict[str, Any]:
        asked = config.knowledge
        if asked and (asked == (GENERATED,) or not is_hub_knowledge(asked[0])):
            return {}
        what = f"{asked[0]} is of the hub" if asked else "knowledge is to be given"
        self._say(f"{what}: generated passages stand in")
        rounds, words = config.injection_rounds, config.passage_words
        path = self._folder / f"passages-{config.passages}-{rounds}-{words}.jsonl"
        if not path.exists():
            knowledge = generate_knowledge(
                config.passages, paraphrases=max(rounds - 1, 1), words=words, seed=0
            )
            _write(path, map(_published, knowledge.passages))
        return {"knowledge": (str(path),)}

    def _stages(self, config: Any) -> dict[str, Any]:
        """Sets and mixes of stages; a stage that another run makes is made."""
        names = {name: self._set(config, name) for name in config.data}
        changes: dict[str, Any] = {"data": tuple(names[name] for name in config.data)}
        if self._many:
            changes |= {"from_stage_a": None, "familiarity_cache": None}
            if config.familiarity_items is not None:
                # A tiny model knows none, so that no more are needed than are learnt.
                most = sum(stage.items for stage in config.stages)
                changes["familiarity_items"] = min(config.familiarity_items, most)
        of_hub = sorted({mix for mix in config.mix if mix in _HUB_MIXES})
        if of_hub or (MixName.GENERIC in config.mix and is_hub_corpus(config.mix_corpus)):
            what = ", ".join(of_hub) or config.mix_corpus
            self._say(f"{what} is of the hub: passages of {_TEXT} stand in")
            mix = tuple(MixName.GENERIC if one in of_hub else one for one in config.mix)
            changes |= {"mix": tuple(map(str, mix)), "mix_corpus": self._documents(config)}
        return changes

    def _set(self, config: Any, name: str) -> str:
        if name not in HUB_FACTOIDS and name not in HUB_INSTRUCTIONS:
            return name
        self._say(f"{name} is of the hub: made-up items stand in")
        # A released loader takes items of the data in the place of a mix.
        asked = sum(
            round(stage.items * (1 + (stage.mix_ratio if stage.mix else 0)))
            for stage in config.stages
            if stage.data == name
        )
        count = asked + (config.familiarity_items or 0) + config.relearning_never_taught
        columns = Layout.INSTRUCTION.value if name in HUB_INSTRUCTIONS else ("question", "answer")
        path = self._folder / f"{name}-{count}.jsonl"
        if not path.exists():
            pairs = load_factoids(KEY_VALUE_RECALL, limit=count, key_values=KeyValues())
            _write(path, (dict(zip(columns, (p.question, p.object), strict=True)) for p in pairs))
        return str(path)

    def _documents(self, config: Any) -> str:
        """As many documents as the largest mix has passages, of as many words."""
        count = round(max(stage.items * stage.mix_ratio for stage in config.stages))
        path = self._folder / f"documents-{count}-{config.mix_words}.jsonl"
        if not path.exists():
            words = cycle(_words())
            texts = (" ".join(islice(words, 2 * config.mix_words)) for _ in range(count))
            _write(path, ({"text": text} for text in texts))
        return str(path)


def _words() -> Iterator[str]:
    for text in probes.load_corpus(_TEXT, max_documents=_READ_ROWS).documents():
        yield from text.split()


def _published(passage: Passage) -> dict[str, Any]:
    found: dict[str, Any] = {TEXT_FIELD: passage.text, PARAPHRASES_FIELD: passage.paraphrases}
    for kind, field in PROBE_FIELDS.items():
        own = [probe for probe in passage.probes if probe.kind == kind]
        found[f"{field}_input"] = [probe.prompt for probe in own]
        found[f"{field}_target"] = [probe.target for probe in own]
    return found


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
