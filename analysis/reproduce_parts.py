"""What a scale is made of: trajectories, how knowledge is taught, how facts are learnt in stages.

`analysis.reproduce_scales` has the scales themselves.

Example:
    >>> Trajectory(model="allenai/OLMo-1B-hf", revisions=("main",)).config is None
    True
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from analysis.ckl_study import Changes
from analysis.claims.choices import Experiment
from training.ckl_config import CklConfig
from training.pretrain_config import PretrainConfig
from training.remix_config import RemixConfig


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Checkpoints of pretraining that runs begin from: trained here, or a model of the hub."""

    recipe: str = ""
    config: PretrainConfig | None = None
    """What is trained, of another seed each; None for a model of the hub."""
    smaller: PretrainConfig | None = None  # on the same text
    model: str = ""
    revisions: tuple[str, ...] = ()  # of the hub; none for the model alone
    parameters: int = 0  # of the model of the hub
    tokens: int | None = None  # that the last of these was pretrained on; None where not known


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """How new knowledge is taught: what all runs have in common, and what is varied."""

    recipe: str
    config: CklConfig
    curves: Changes  # settings of runs that are evaluated step by step
    familiar_corpus: str  # text that the model knows
    intervals: tuple[int, ...]  # steps from an encounter to the next
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]
    arms: tuple[str, ...] = ()  # only these, as the ends of their names; all


@dataclass(frozen=True, kw_only=True)
class Memorization:
    """How facts are learnt in stages: what all runs have in common, and what is varied."""

    recipe: str
    config: RemixConfig
    own_start: bool  # whether runs begin from the last checkpoint of the trajectories
    parameters: int = 0  # of the model, where they do not
    other_tasks: Changes = field(default_factory=dict)
    """Settings where the second stage learns other tasks."""
    familiar: Changes = field(default_factory=dict)
    """Settings where facts that the base knew are asked for."""
    familiar_mixes: Mapping[str, Changes] = field(default_factory=dict)
    """What the second stage has mixed in there, by the names of the arms."""
    generic: str = "generic"
    """The mix that is meant where the paper says generic text."""
    mix_sizes: tuple[float, ...] = (1.0, 2.0, 4.0)  # over the items of the data
    mix_lengths: tuple[int, ...] = (25, 50, 100)  # in words
    other_text: Changes = field(default_factory=lambda: {"mix_corpus": "biomedical-train"})
    """Settings where generic text is from another source."""
    located: int = 32  # facts that are localized in depth
    arms: tuple[str, ...] = ()  # only these; all


@dataclass(frozen=True, kw_only=True)
class ReproductionScale:
    """How large a reproduction is."""

    name: str
    machine: str  # that it is sized for, in words
    seeds: int = 3
    checkpoints: int = 8  # that runs begin from, evenly spread over a trajectory
    experiments: tuple[Experiment, ...] = tuple(Experiment)
    trajectory: Trajectory
    knowledge: Knowledge
    memorization: Memorization
    corpora: tuple[str, ...]  # that entropies are measured on, over `entropy_tokens` of each
    entropy_tokens: int
    entropy_row_length: int = 256
    update_batches: int = 8  # that gradients of memory vectors are taken over
    rate: float
    """Floating-point operations of one run that the machine makes in a second of training."""
    overhead: float  # seconds of a run beside that
    processes_per_run: int = 1  # that torchrun starts for runs of several
    at_once: int = 1  # runs that are made at the same time, where nothing else is asked for

    def seconds(self, operations: float | int) -> float:
        """About how long a run of so many operations takes."""
        return operations / self.rate + self.overhead


@dataclass(frozen=True, kw_only=True)
class ScaleData:
    """Models and data in the place of a scale's."""

    trajectory: str | None = None
    """Run directory of training.pretrain, or hub id, whose checkpoints runs begin from."""
    revisions: tuple[str, ...] = ()
    """Of a hub model those to choose from, separated by spaces or commas; of a run directory its
    checkpoints, all where none are named."""
    knowledge: tuple[str, ...] = ()
    """Passages that runs are taught: generated, or files in a published layout, which the scale
    paper leaves to be given."""
    corpus: str | None = None
    """New text that they are taught in."""
    familiar_corpus: str | None = None
    """Text that the models know."""
    entropy_corpora: tuple[str, ...] = ()
    """Texts that entropies are measured on, the pretraining's first."""


def with_data(scale: ReproductionScale, data: ScaleData) -> ReproductionScale:
    """A scale with other models and data."""
    trajectory, knowledge = scale.trajectory, scale.knowledge
    if data.trajectory is not None or data.revisions:
        named = [name for part in data.revisions for name in part.split(",") if name]
        trajectory = Trajectory(
            model=data.trajectory or trajectory.model,
            revisions=tuple(named),
            # Costs are estimated as if the model was as large as the scale's.
            parameters=trajectory.parameters or parameters_of(trajectory.config),
        )
        scale = replace(
            scale,
            experiments=tuple(one for one in scale.experiments if one is not Experiment.SIZES),
            checkpoints=min(scale.checkpoints, len(named) or scale.checkpoints),
        )
    given = {"knowledge": data.knowledge, "corpus": data.corpus}
    changes: Changes = {name: value for name, value in given.items() if value}
    knowledge = replace(
        knowledge,
        config=replace(knowledge.config, **changes),
        familiar_corpus=data.familiar_corpus or knowledge.familiar_corpus,
    )
    corpora = data.entropy_corpora or scale.corpora
    return replace(scale, trajectory=trajectory, knowledge=knowledge, corpora=corpora)


def parameters_of(config: PretrainConfig | None) -> int:
    """Parameters of a model that is trained from scratch; 0 where none is."""
    return 0 if config is None else config.model_shape(config.d_vocab).parameters()
