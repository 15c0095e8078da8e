"""The options of `training.pretrain`, and its recipes: `tiny`, `small` and `lab`.

Example:
    >>> tiny().checkpoint_steps()[:6]
    (0, 1, 2, 4, 8, 16)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from training.choices import Precision
from training.model_shapes import ModelFamily, ModelShape
from training.options import LoopFields
from training.settings import LoopSettings, Misfits, log_spaced_steps

OWN_TOKENIZER = "own"


@dataclass(frozen=True, kw_only=True)
class PretrainFields:
    """What pretraining has besides the settings of every training run."""

    shape: ModelFamily
    """Which models the new one is like: gated MLPs (olmo, llama) or GELU (pythia)."""
    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Blocks."""
    n_heads: int
    """Attention heads of a block."""
    d_mlp: int
    """Memory vectors of a block."""
    positions: int = 1024
    """Longest row that the model takes, in tokens."""
    tokenizer: str = OWN_TOKENIZER
    """own (byte pairs learnt from the texts), olmo-tokenizer, gpt-neox-tokenizer, or a folder or
    hub id."""
    d_vocab: int = 4096
    """Entries of a tokenizer of one's own."""
    corpus: tuple[str, ...]
    """Texts: built-in corpora, files, folders or hub data sets; none, to train on facts alone."""
    column: str | None = None
    """Column of the text in .jsonl and .parquet files and data sets; theirs is "text"."""
    max_documents: int | None = None
    """Documents of each corpus to read; all."""
    fact_documents: int
    """Generated documents about made-up people and places, mixed in; they are asked for later."""
    fact_people: int
    """People in the generated facts."""
    fact_places: int
    """Places in them."""
    fact_seed: int = 0
    """Seed of the facts, so that runs with another --seed have the same."""
    facts_asked: int | None = None
    """Facts that are asked for at every checkpoint, each in two wordings; all."""
    row_length: int
    """Tokens of a row."""
    steps: int
    """Updates."""
    log_checkpoints: bool = True
    """Checkpoints at steps 0, 1, 2, 4, 8, ... up to --checkpoint-every."""
    checkpoint_every: int
    """Steps between checkpoints from there on."""
    held_out: tuple[str, ...]
    """Corpora to be predicted at every checkpoint; none to skip."""
    held_out_tokens: int = 8192
    """Tokens of each."""
    entropy_tokens: int | None = 4096
    """Held-out tokens on which entropies are measured at every checkpoint; None for none."""
    tasks: tuple[str, ...] = ()
    """Downstream tasks at every checkpoint, such as sciq or piqa."""
    task_limit: int | None = None
    """Questions of each; all."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(LoopFields, PretrainFields):
    """A pretraining run; settings that do not go together are refused."""

    def __post_init__(self) -> None:
        misfits = Misfits()
        misfits.check(
            lambda: self.model_shape(self.d_vocab),
            self.settings,
            lambda: misfits.found.extend(self._misfits()),
        )

    def _misfits(self) -> Iterator[str]:
        if not self.corpus and not self.fact_documents:
            yield "there is nothing to train on; give a --corpus or --fact-documents"
        if self.row_length < 2:
            yield f"--row-length must be 2 or more, found {self.row_length}"
        if self.row_length > self.positions:
            yield (
                f"rows of {self.row_length} tokens are longer than the {self.positions} positions "
                f"of the model; give --positions {self.row_length} or more, or a smaller "
                "--row-length"
            )
        if self.facts_asked is not None and self.facts_asked < 1:
            yield f"--facts-asked must be 1 or more, or None, found {self.facts_asked}"
        if self.entropy_tokens is not None and not self.held_out:
            yield (
                "entropies are measured on held-out text; give --held-out, or --entropy-tokens None"
            )

    def model_shape(self, d_vocab: int) -> ModelShape:
        return ModelShape(
            family=self.shape,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_mlp=self.d_mlp,
            d_vocab=d_vocab,
            positions=self.positions,
        )

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Every step at which a checkpoint is kept, the first and the last among them."""
        spaced = range(0, self.steps + 1, self.checkpoint_every)
        return tuple(sorted({*self._early_steps(), *spaced, self.steps}))

    def settings(self) -> LoopSettings:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise ValueError(
                f"--steps and --checkpoint-every must be 1 or more, found {self.steps} and "
                f"{self.checkpoint_every}"
            )
        every, steps = self.checkpoint_every, self._early_steps()
        return self.loop_settings(self.steps, checkpoint_every=every, checkpoint_steps=steps)

    def _early_steps(self) -> tuple[int, ...]:
        if not self.log_checkpoints:
            return (0,)
        return (0, *log_spaced_steps(min(self.checkpoint_every, self.steps)))


def tiny() -> PretrainConfig:
    """A 3.1M-parameter model, for a trajectory in minutes on two CPU cores."""
    return PretrainConfig(
        shape=ModelFamily.OLMO,
        d_model=192,
        n_layers=4,
        n_heads=4,
        d_mlp=768,
        d_vocab=4096,
        corpus=("general-train",),
        fact_documents=5000,
        fact_people=24,
        fact_places=8,
        row_length=384,
        steps=400,
        batch_size=6,
        learning_rate=3e-3,
        checkpoint_every=50,
        held_out=("general-heldout",),
    )


def small() -> PretrainConfig:
    """A 10M-parameter model, for half an hour on two CPU cores."""
    return replace(
        tiny(),
        d_model=288,
        n_layers=6,
        n_heads=6,
        d_mlp=1152,
        d_vocab=8192,
        fact_documents=14_400,
        fact_people=96,
        fact_places=32,
        steps=900,
        batch_size=12,
        learning_rate=2e-3,
        checkpoint_every=100,
        resume_every=50,
    )


def lab() -> PretrainConfig:
    """A 31M-parameter model over 20,000 steps, for minutes on one GPU."""
    return replace(
        small(),
        d_model=384,
        n_layers=12,
        d_mlp=1536,
        fact_documents=200_000,
        fact_people=2000,
        fact_places=100,
        facts_asked=1000,
        row_length=512,
        steps=20_000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_fraction=0.02,
        precision=Precision.BF16,
        compile=True,
        checkpoint_every=1000,
        resume_every=500,
        held_out_tokens=65_536,
        entropy_tokens=32_768,
    )


PRETRAIN_RECIPES: Mapping[str, Callable[[], PretrainConfig]] = {
    "tiny": tiny,
    "small": small,
    "lab": lab,
}
