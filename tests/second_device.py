"""A second device on a machine that has none: tensors say that they are elsewhere, and compute here.

PyTorch lets a backend be written in Python. This one wraps tensors of the CPU, and refuses what a
GPU refuses: an operation on tensors of two devices, unless one of them is a plain number. So a
tensor that was left behind fails here as it would there, and numbers can be compared.

`python -m tests.second_device FAMILY...` measures tiny models on both devices and prints as JSON
what each found; `commands` in place of a family runs the commands of training. It is a process of
its own, since a backend is registered for good.
"""

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "elsewhere"
COMMANDS = "commands"
DEVICE = f"{NAME}:0"
_COPIES = {"aten::copy_", "aten::_to_copy"}
"""Operations that take tensors of two devices on a GPU too."""
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_"}
"""Those whose second argument, the indices, may be on the CPU there."""


class Elsewhere(torch.Tensor):
    """A tensor of the second device; what it holds is on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Operations that make a tensor there out of none, or out of one of the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere)]
    name = func._schema.name
    indices = tree_leaves(args[1]) if name in _INDEXED else []
    stray = [one for one in here if one.ndim and not any(one is index for index in indices)]
    if there and stray and name not in _COPIES:
        raise RuntimeError(f"{name} was given tensors of two devices")
    asked = kwargs.get("device")
    goes_there = bool(there) if asked is None else torch.device(asked).type == NAME
    if name == "aten::copy_":
        goes_there = isinstance(args[0], Elsewhere)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    # In-place operations answer with the tensor that they were given.
    wrappers = {id(tensor.held): tensor for tensor in there}

    def wrapped(found: Any) -> Any:
        if not isinstance(found, torch.Tensor) or not goes_there:
            return found
        return wrappers[id(found)] if id(found) in wrappers else Elsewhere(found)

    return tree_map(wrapped, func(*args, **kwargs))


class _Module(backend_registration._DummyBackendModule):
    """What PyTorch asks of `torch.cuda` and its like; nothing runs beside anything else here."""

    def current_stream(self) -> "_Module":
        return self

    def stream(self, stream: "_Module") -> Any:
        return nullcontext()

    def synchronize(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def register() -> torch.library.Library:
    """Make the device known, before the first backward pass; it is there in `_Factories`."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    # Tied weights stay tied when a model is moved, as between real devices.
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is seen here too
    # No kernel of autocast knows the device: a step of half precision computes in float32.
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return library


def findings(family: str, device: str) -> dict[str, list[float]]:
    """What a tiny model of a family says on a device, by what was asked."""
    import analysis
    import interventions
    import probes
    from probes import checkpoint_files
    from tests.models import padded, tiny_hf_model, tiny_tokenizer
    from tests.training.loop_runs import losses_of, run, settings_of

    checkpoint_files.DTensor = Elsewhere  # another tensor that is no packed weight
    hf_model = tiny_hf_model(family).to(device)
    hf_model.tie_weights()  # moving tensors of another class takes tied ones apart
    model = probes.load_model(hf_model, tokenizer=tiny_tokenizer())
    ids, mask = padded([11, 5, 7], "right")
    batches = [{"input_ids": ids, "attention_mask": mask}]
    found: dict[str, list[float]] = {}
    entropies = probes.measure_entropy(model, batches)
    found["knowledge entropy"] = entropies.knowledge.per_layer.tolist()
    found["attention entropy"] = entropies.attention.per_layer.tolist()
    found["next-token entropy"] = [entropies.next_token.mean]
    patterns = probes.capture(model, batches[0], [probes.Site.ATTENTION_PATTERN])
    found["patterns"] = [float(one.double().square().sum()) for one in patterns.values()]
    joined = ids[:1].repeat(1, 2)
    segments = torch.arange(2).repeat_interleave(ids.shape[1])[None]
    packed = [{"input_ids": joined, "segment_ids": segments}]
    apart = probes.measure_entropy(model, packed, kinds=("attention",))
    found["attention entropy of packed rows"] = apart.attention.per_layer.tolist()
    items = [("w1 w2 w3", "w5"), ("w4", "w6 w7")]
    found["log-probabilities"] = probes.target_log_probs(model, items).tolist()
    lens = analysis.lens(model, [prompt for prompt, _ in items], ["w5", "w6"])
    found["lens"] = lens.log_prob.flatten().tolist()
    found["generated"] = probes.generate(model, ["w1 w2 w3", "w4"], max_new_tokens=5)
    edit = interventions.Resuscitation(entropies.mean_coefficients, 0.5, 2.0, site="down")
    with interventions.applied(model, edit, interventions.AttentionTemperature(1.5)):
        found["behind hooks"] = probes.target_log_probs(model, items).tolist()
    interventions.patch_weights(model, edit)
    found["in weights"] = probes.target_log_probs(model, items).tolist()
    for precision in ("fp32", "bf16", "fp16"):
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder) / "run", model, settings=settings_of(steps=3, precision=precision))
            found[f"losses, {precision}"] = losses_of(Path(folder) / "run")
    return found


def of_commands(device: str) -> dict[str, list[float]]:
    """The losses of short runs of the training commands with `--device`."""
    from tests.training.loop_runs import losses_of
    from tests.training.remix.runs import remix_arguments
    from tests.training.small_runs import ckl_arguments, pretrain_arguments, write_texts
    from training import ckl, pretrain, remix

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, base = write_texts(folder), folder / "base"
        edit = ("--resuscitation-ratio", "0.5", "--resuscitation-factor", "2")
        for command, words, run_folder in (
            (pretrain, pretrain_arguments(texts, base), base),
            (ckl, ckl_arguments(texts, base, folder / "ckl", *edit), folder / "ckl"),
            (remix, remix_arguments(texts, base, folder / "remix"), folder / "remix" / "stage-B"),
        ):
            assert command.main([*words, "--device", device]) == 0, command.__name__
            found[f"losses, {command.__name__}"] = losses_of(run_folder)
    return found


def refusal(device: str) -> str:
    """What an operation on tensors of two devices answers; a plain number is of any."""
    torch.ones(3, device=device) + 2.0
    try:
        torch.ones(3, device=device) + torch.ones(3)
    except RuntimeError as error:
        return str(error)
    return ""


def answers(device: str) -> dict[str, dict[str, list[float]]]:
    return {
        asked: of_commands(device) if asked == COMMANDS else findings(asked, device)
        for asked in sys.argv[1:]
    }


if __name__ == "__main__":
    library = register()
    # Both within, where dropout draws alike.
    with _Factories():
        here, there, refused = answers("cpu"), answers(DEVICE), refusal(DEVICE)
    print(json.dumps({"cpu": here, "there": there, "two devices": refused}))
