"""Parameter parts: which layer of a model, and which part of it, every weight belongs to.

| part          | is                                                                   |
|---------------|----------------------------------------------------------------------|
| `embedding`   | token embedding, with the unembedding where the two are tied         |
| `attention`   | all of a layer's attention, norms inside it included                 |
| `mlp_in`      | what decides how active memory vectors are: up and gate projections  |
| `mlp_out`     | the memory vectors themselves: the down projection                   |
| `norm`        | a layer's norms; without a layer, the final norm                     |
| `unembedding` | where it has weights of its own                                      |
| `other`       | anything else, such as learnt positions                              |

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                  # doctest: +SKIP
    >>> str(parameter_parts(model)["model.layers.3.mlp.down_proj.weight"])     # doctest: +SKIP
    '3.mlp_out'
    >>> Part.named("3.mlp_out").layer
    3
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from probes.hooked_model import HookedModel


class ModulePart(StrEnum):
    """What kind of part of a model a weight is in."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP_IN = "mlp_in"
    MLP_OUT = "mlp_out"
    NORM = "norm"
    UNEMBEDDING = "unembedding"
    OTHER = "other"


@dataclass(frozen=True)
class Part:
    """A part of a model; the layer is None for what is in none."""

    module: ModulePart
    layer: int | None = None

    def __str__(self) -> str:
        return str(self.module) if self.layer is None else f"{self.layer}.{self.module}"

    @classmethod
    def named(cls, name: str) -> "Part":
        """The part that a record calls so.

        Raises:
            ValueError: there is no such kind of part.
        """
        layer, _, module = name.rpartition(".")
        if module not in list(ModulePart):
            raise ValueError(f"part {name!r} is none of {', '.join(ModulePart)}; name one of them")
        return cls(ModulePart(module), int(layer) if layer else None)


def parameter_parts(model: HookedModel) -> dict[str, Part]:
    """The part of every parameter, by the parameter's name.

    Args:
        model: the hooked model; a parameter that is used in two places has one name.
    """
    anatomy = model.anatomy
    owners: dict[int, Part] = {}

    def own(module: nn.Module | None, part: ModulePart, layer: int | None = None) -> None:
        if module is not None:
            owners.update((id(weight), Part(part, layer)) for weight in module.parameters())

    # What comes later is inside of what came before, or tied to it.
    own(anatomy.unembed, ModulePart.UNEMBEDDING)
    own(anatomy.embed, ModulePart.EMBEDDING)
    own(anatomy.final_norm, ModulePart.NORM)
    for number, layer in enumerate(anatomy.layers):
        own(layer.block, ModulePart.NORM, number)
        for module in (layer.mlp, layer.up, layer.gate):
            own(module, ModulePart.MLP_IN, number)
        own(layer.down, ModulePart.MLP_OUT, number)
        own(layer.attention, ModulePart.ATTENTION, number)
    named = model.hf_model.named_parameters()
    return {name: owners.get(id(weight), Part(ModulePart.OTHER)) for name, weight in named}
