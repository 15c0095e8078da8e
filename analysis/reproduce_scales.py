"""Scales: how large a reproduction is, on which machine, from which models.

| scale   | trajectories                  | facts in stages | machine                     |
|---------|-------------------------------|-----------------|-----------------------------|
| `smoke` | 0.6M parameters, trained here | the same models | two CPU cores, half an hour |
| `desk`  | SmolLM2-135M, as it is        | the same model  | two CPU cores, two nights   |
| `lab`   | 31M parameters, trained here  | SmolLM2-135M    | one H100-class GPU          |
| `paper` | OLMo-1B, revisions on the hub | Llama-3-8B      | a node of eight             |

They are in `scales.toml`. At `smoke` each seed has a pretraining run of its own, so that what is
found holds over these, too; downstream tasks and facts that the base knew are not tested there.
Stages have as many epochs of as many items in all arms, so as many updates, but for those that a
mix or replay adds. None of the models, revisions and data that `paper` names was ever loaded from
here (`python -m training.data check` tries them); the published passages are to be given.

Example:
    >>> SCALES["smoke"]().seeds
    3
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.ckl_study import Changes
from analysis.claims.choices import Experiment
from probes.assets.table import HUB_MODELS
from training.ckl_config import CKL_RECIPES, CklConfig
from training.pretrain_config import PRETRAIN_RECIPES, PretrainConfig
from training.recipes import Configuration, as_json, from_json
from training.remix import REMIX_RECIPES
from training.remix_config import RemixConfig


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Checkpoints of pretraining that runs begin from: trained here, or a model of the hub."""

    recipe: str = ""
    config: PretrainConfig | None = None
    """What is trained, of another seed each; None for a model of the hub."""
    smaller: PretrainConfig | None = None  # on the same text
    model: str = ""
    revisions: tuple[str, ...] = ()  # revisions on the hub; none for the model alone
    parameters: int = 0  # the size of the hub's model
    tokens: int | None = None  # tokens that the last one was pretrained on; None where not known


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
    parameters: int = 0  # the size of the model, where they do not
    other_tasks: Changes = field(default_factory=dict)
    """Settings where the second stage learns other tasks."""
    familiar: Changes = field(default_factory=dict)
    """Settings where facts that the base knew are asked for."""
    familiar_mixes: Mapping[str, Changes] = field(default_factory=dict)
    """What the second stage has mixed in there, by the names of the arms."""
    generic: str = "generic"  # the mix that is meant where the paper says generic text
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
    machine: str  # the machine that it is sized for, in words
    seeds: int = 3
    checkpoints: int = 8  # bases of runs, evenly spread over a trajectory
    experiments: tuple[Experiment, ...] = tuple(Experiment)
    trajectory: Trajectory
    knowledge: Knowledge
    memorization: Memorization
    corpora: tuple[str, ...]  # texts for entropies, `entropy_tokens` of each
    entropy_tokens: int
    entropy_row_length: int = 256
    update_batches: int = 8  # batches for gradients of memory vectors
    rate: float
    """Floating-point operations of one run that the machine makes in a second of training."""
    overhead: float  # seconds of a run beside that
    processes_per_run: int = 1  # processes that torchrun starts
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
    """Revisions of a hub model to choose from, separated by spaces or commas; or checkpoints of a
    run directory, all where none are named."""
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


def _scale(name: str) -> ReproductionScale:
    given = dict(_GIVEN[name])
    left_out = given.pop("without", ())
    experiments = given.pop("experiments", [one for one in Experiment if one not in left_out])
    return ReproductionScale(
        name=name,
        experiments=tuple(map(Experiment, experiments)),
        trajectory=_trajectory(given.pop("trajectory")),
        knowledge=Knowledge(**_with_config(given.pop("knowledge"), CKL_RECIPES)),
        memorization=Memorization(**_with_config(given.pop("memorization"), REMIX_RECIPES)),
        **_tuples(given),
    )


def _trajectory(given: Mapping[str, Any]) -> Trajectory:
    if "hub" in given:
        hub = HUB_MODELS[given["hub"]]
        others = {name: value for name, value in given.items() if name != "hub"}
        return Trajectory(model=hub.model, revisions=hub.revisions, **others)
    if "recipe" not in given:
        return Trajectory(**given)
    found = _with_config(given, PRETRAIN_RECIPES)
    return Trajectory(**{**found, "smaller": _changed(found["config"], given["smaller"])})


def _with_config(
    given: Mapping[str, Any], recipes: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    config = _changed(recipes[given["recipe"]](), given.get("config", {}))
    return {**_tuples(given), "config": config}


def _changed(config: Configuration, changes: Mapping[str, Any]) -> Configuration:
    others = {name: value for name, value in changes.items() if name != "unset"}
    unset = dict.fromkeys(changes.get("unset", ()))
    return from_json(type(config), {**as_json(config), **others, **unset})


def _tuples(value: Any) -> Any:
    """Values from a file with tuples for lists, as settings have them."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_GIVEN = tomllib.loads(Path(__file__).with_name("scales.toml").read_text(encoding="utf-8"))
SCALES: Mapping[str, Callable[[], ReproductionScale]] = {
    name: partial(_scale, name) for name in _GIVEN
}
"""What makes each scale, by its name."""
