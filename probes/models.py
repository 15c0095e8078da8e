"""Models load hooked: `load_model` puts a `HookedModel` around a causal language model.

On the native backend the Hugging Face model keeps its keys, its attention implementation and its
ability to train and be saved; hooks come and go around it. The others run through a
TransformerLens bridge or an nnsight model, made here or handed over, and give the same captures.
"""

import copy
from typing import Any

import torch

from probes.backends.engine import Engine
from probes.backends.native import NativeEngine
from probes.checkpoint_files import refuse_unreadable
from probes.choices import Backend
from probes.hooked_model import HookedModel
from probes.loading import as_device, load_pretrained, text_tower
from probes.model_folder import copied


def load_model(
    source: Any,
    *,
    revision: str | None = None,
    tokenizer: Any | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    backend: Backend | str | None = None,
) -> HookedModel:
    """Load a causal language model, check that its architecture is understood, and wrap it.

    Args:
        source: hub id, folder, `.gguf` file or built-in model; or a `PreTrainedModel`, a
            TransformerLens `TransformerBridge` or an nnsight model in memory.
        revision: branch, tag or commit of a hub id; Pythia's `"step3000"`, say.
        tokenizer: used instead of the checkpoint's; needed for text with a model in memory.
        device: where to put the weights; None for CUDA where there is one, otherwise the CPU.
        dtype: `"float32"`, `"bfloat16"`, ...; None for the checkpoint's own.
        trust_remote_code: whether a checkpoint may bring its own modelling code.
        backend: what runs it; None for that of an object in memory, otherwise the native one. A
            `PreTrainedModel` in memory is copied for the others, which would rewrite it.

    Returns:
        The hooked model, in evaluation mode if it was loaded here.

    Raises:
        ValueError: it cannot be found or loaded, or its architecture is not understood.
    """
    asked = None if backend is None else _as_backend(backend)
    if not isinstance(source, str):
        _refuse_changes(revision=revision, device=device, dtype=dtype)
        return _wrap_in_memory(source, tokenizer, asked)
    target = as_device(device)
    hf_model, own_tokenizer = load_pretrained(
        source,
        revision=revision,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        with_tokenizer=tokenizer is None,
    )
    chosen = own_tokenizer if tokenizer is None else tokenizer
    engine = _engine_over(hf_model.to(target), chosen, asked or Backend.NATIVE)
    return HookedModel(engine, chosen, name=source, revision=revision)


def _as_backend(given: Backend | str) -> Backend:
    try:
        return Backend(given)
    except ValueError:
        known = ", ".join(Backend)
        raise ValueError(f"backend must be one of {known}, found {given!r}") from None


def _refuse_changes(**given: Any) -> None:
    if wrong := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"{', '.join(wrong)} cannot be set for a model in memory, which is wrapped as it is; "
            "change it before wrapping"
        )


def _wrap_in_memory(source: Any, tokenizer: Any, asked: Backend | None) -> HookedModel:
    engine, own_tokenizer = _engine_of(source, tokenizer, asked)
    if asked not in (None, engine.backend):
        raise ValueError(
            f"backend={str(asked)!r} was asked for a {type(source).__name__}, which runs on "
            f"{str(engine.backend)!r}; leave it out, or pass a name or a PreTrainedModel"
        )
    name = engine.config._name_or_path or type(source).__name__
    return HookedModel(engine, tokenizer or own_tokenizer, name=name, revision=None)


def _engine_of(source: Any, tokenizer: Any, asked: Backend | None) -> tuple[Engine, Any | None]:
    """What runs an object in memory, and the tokenizer that it brings."""
    from transformers import PreTrainedModel

    # Their packages are imported already if the object is one of theirs, and not for anything else.
    origin = {ancestor.__module__.split(".")[0] for ancestor in type(source).__mro__}
    if "peft" in origin:
        source = _inside_adapters(source)
    if isinstance(source, PreTrainedModel):
        refuse_unreadable(source)
        if text_tower(source.config) is not None:
            raise ValueError(
                f"{type(source).__name__} is a multimodal wrapper; save it and load the folder, of "
                "which the language model is then read"
            )
        if asked in (None, Backend.NATIVE):
            return NativeEngine(source), None
        return _engine_over(copied(source), tokenizer, asked), None
    if "transformer_lens" in origin and isinstance(
        getattr(source, "original_model", None), PreTrainedModel
    ):
        from probes.backends.transformer_lens import TransformerLensEngine

        refuse_unreadable(source.original_model)
        return TransformerLensEngine(source), source.tokenizer
    if "nnsight" in origin and isinstance(getattr(source, "_module", None), PreTrainedModel):
        from probes.backends.nnsight import NnsightEngine

        refuse_unreadable(source._module)
        return NnsightEngine(source), getattr(source, "tokenizer", None)
    raise ValueError(
        f"cannot load a {type(source).__name__}; pass a name, a path (as a string), or a "
        "transformers PreTrainedModel, alone or in a TransformerBridge or an nnsight model"
    )


def _inside_adapters(peft_model: Any) -> Any:
    """The Hugging Face model that peft has put adapters into."""
    if peft_model.active_peft_config.is_prompt_learning:
        raise ValueError(
            "the prompts of this PeftModel stand outside of the model, so hook points would not "
            "see them; adapters inside of it (LoRA and the like) are read, or merge them"
        )
    return peft_model.get_base_model()


def _engine_over(hf_model: Any, tokenizer: Any | None, backend: Backend) -> Engine:
    """An engine of a backend over a model that nothing else uses."""
    match backend:
        case Backend.NATIVE:
            return NativeEngine(hf_model)
        case Backend.TRANSFORMER_LENS:
            from probes.backends.transformer_lens import engine_over

            return engine_over(hf_model, copy.deepcopy(tokenizer))
        case Backend.NNSIGHT:
            from probes.backends.nnsight import NnsightEngine, nnsight_over

            return NnsightEngine(nnsight_over(hf_model, copy.deepcopy(tokenizer)))
