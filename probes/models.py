"""Load a causal language model by name or from memory, and put a `HookedModel` around it.

A name is, in this order: a built-in asset, a `.gguf` file, a folder, a hub id. Weights are read
from safetensors only (a pickle can run code), and `trust_remote_code` is off unless asked for.

On the native backend the Hugging Face model keeps its keys, its attention implementation and its
ability to train and be saved; hooks come and go around it. The others run through a
TransformerLens bridge or an nnsight model, made here or handed over, and give the same captures.
"""

import copy
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from probes.assets import AssetKind, asset_names, cached_gguf, fetch, nearest_names
from probes.backends.engine import Engine, NativeEngine
from probes.checking import as_device
from probes.checkpoint_files import (
    RefusedCheckpoint,
    has_tokenizer,
    load_whole,
    quiet_transformers,
    refuse_quantised,
    refuse_two_sets,
    refuse_unreadable,
    what_is_wrong,
)
from probes.choices import Backend, as_choice
from probes.hooked_model import HookedModel
from probes.model_folder import copied
from probes.refusals import tokenizer as a_tokenizer

_WRAPPERS = ("gemma3", "mistral3", "qwen2_vl", "qwen2_5_vl")
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_PATIENCE = 10  # seconds to wait for the hub to say whether it is there


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

    A model in memory stays the caller's own, with its weights as they are. Two things are done to
    it: rotary frequencies (or sinusoids) that a cast in memory has rounded are put back to the
    float32 that a reload has, with a warning; and where frequencies depend on a sequence's length
    (`longrope`, `dynamic`), its rotary modules get a hook that gives every sequence its own.

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
    asked = None if backend is None else as_choice(Backend, backend, "backend")
    if refused := a_tokenizer(tokenizer):
        raise ValueError(f"tokenizer is {refused}")
    if isinstance(source, Path):
        source = str(source)
    if not isinstance(source, str):
        given = {"revision": revision, "device": device, "dtype": dtype}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{', '.join(wrong)} cannot be set for a model in memory, which is wrapped as it "
                "is; change it before wrapping"
            )
        return _wrapped(source, tokenizer, asked)
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


def load_pretrained(
    name: str,
    *,
    revision: str | None,
    dtype: str | torch.dtype | None,
    trust_remote_code: bool,
    with_tokenizer: bool = True,
) -> tuple[Any, Any | None]:
    """Load a causal language model and its tokenizer by name, on the CPU."""
    where, is_local = where_it_is(name)
    if is_local and revision is not None:
        raise ValueError(
            f"{name!r} is local and has no revisions, found revision={revision!r}; leave it out"
        )
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, found {dtype!r}")
        dtype = getattr(torch, dtype)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with quiet_transformers(), _in_one_line(name, where, is_local, revision):
        from transformers.utils.peft_utils import find_adapter_config_file

        if not is_local:
            _ask_the_hub_once(where, revision)
        # With peft transformers would load the base model and the adapter, without it the base.
        if find_adapter_config_file(where, revision=revision) is not None:
            raise ValueError("an adapter is no model by itself")
        hf_model = _pretrained_model(name, where, dtype or "auto", options)
        return hf_model, _tokenizer(where, options) if with_tokenizer else None


def where_it_is(name: str) -> tuple[str, bool]:
    """What to hand to `from_pretrained`, and whether it is on this machine."""
    if name in asset_names(AssetKind.MODEL):
        return str(fetch(name)), True
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ValueError(f"there is no file {name!r}; check the path of the .gguf model")
        return str(cached_gguf(path)), True
    if path.is_dir():
        if not (path / "config.json").is_file():
            adapter = (path / "adapter_config.json").is_file()
            found = what_is_wrong(path) if adapter else "pass a folder that save_pretrained wrote"
            raise ValueError(f"folder {name!r} holds no config.json; {found}")
        refuse_two_sets(path)
        return str(path), True
    beside_others = "/" in name and path.parent.is_dir()
    is_path = beside_others or path.is_absolute() or name.startswith((".", "~"))
    if is_path or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None:
        raise ValueError(
            f"{name!r} is no folder, no .gguf file, no hub id and none of the built-in models "
            f"({', '.join(asset_names(AssetKind.MODEL))}); check the spelling"
        )
    return name, False


def _ask_the_hub_once(name: str, revision: str | None) -> None:
    """Fail at once where nothing is cached and the hub is out of reach, not after many tries."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE or _local_folder(name, revision) is not None:
        return
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except HfHubHTTPError:
        return  # it answers, and transformers will say what is wrong
    except Exception as error:  # of whatever library it uses for the network
        raise OSError(f"nothing is cached, and the hub cannot be reached ({error})") from error


def _pretrained_model(name: str, where: str, dtype: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(where, **options)
    refuse_quantised(config, repr(name))
    if config.model_type not in _WRAPPERS:
        tower = {"config": config}
    else:
        tower = _text_tower(config)
        family, inside = config.model_type, tower["config"].model_type
        print(f"{name} is a {family}: its language model ({inside}) is loaded", file=sys.stderr)
    hf_model = load_whole(
        AutoModelForCausalLM,
        where,
        name=repr(name),
        dtype=dtype,
        use_safetensors=True,
        **options,
        **tower,
    )
    hf_model.config.return_dict = True  # everything here reads outputs by their names
    return hf_model.eval()


def _text_tower(config: Any) -> dict[str, Any]:
    """How to read the language model out of a multimodal wrapper's weights."""
    from transformers import Qwen2Config

    own = config.get_text_config()
    if config.model_type.startswith("qwen2"):
        known = Qwen2Config().to_dict().keys() - {"model_type", "transformers_version"}
        values = {name: value for name, value in own.to_dict().items() if name in known}
        rope = values["rope_parameters"]
        values["rope_parameters"] = {k: v for k, v in rope.items() if k != "mrope_section"}
        own = Qwen2Config(**values)
    # The wrapper's settings hold for the language model in it.
    own.tie_word_embeddings = config.tie_word_embeddings
    own.dtype = config.dtype
    return {
        "config": own,
        "key_mapping": {
            r"^(model\.)?language_model\.lm_head\.": "lm_head.",
            r"^(model\.)?language_model\.(model\.)?": "model.",
        },
        "left_out": r"(model\.)?(visual|vision_tower|multi_modal_projector)\.",
    }


def _tokenizer(where: str, options: dict[str, Any]) -> Any | None:
    from transformers import AutoTokenizer

    # A checkpoint of weights alone serves everything that takes token ids. transformers raises for
    # some families without tokenizer files, and makes up an empty tokenizer for others.
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:  # of the library in Rust, bare
        folder = _local_folder(where, options["revision"])
        if folder is None or not has_tokenizer(folder):
            return None
        raise ValueError(
            f"its tokenizer cannot be read ({' '.join(str(error).split())[:150]}); restore its "
            "files, or pass tokenizer="
        ) from error
    return tokenizer if tokenizer.vocab_size else None


def _local_folder(where: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if Path(where).is_dir():
        return Path(where)
    for member in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(where, member, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


@contextmanager
def _in_one_line(name: str, where: str, is_local: bool, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except RefusedCheckpoint:
        raise
    except (
        *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError),
        *(SafetensorError, StrictDataclassError),
    ) as error:
        raise ValueError(_why_not(name, where, is_local, revision, error)) from error


def _why_not(name: str, where: str, is_local: bool, revision: str | None, error: Exception) -> str:
    text = " ".join(str(error).split())
    folder = _local_folder(where, revision)
    wrong = None if folder is None else what_is_wrong(folder)
    from_hub = not is_local and isinstance(error, OSError)
    if wrong is not None and not from_hub:
        made = is_local and Path(where) != Path(name).expanduser()
        again = f"; what was made of it lies in {where}: remove that" if made else ""
        return f"{name!r} could not be loaded: {wrong}{again}"
    of_revision = ("is not a valid git identifier", "offline", "cached")
    if not is_local and revision is not None and any(word in text for word in of_revision):
        return f"{name!r} has no revision {revision!r}; {_known_revisions(name)}"
    if from_hub:
        # What lies in the cache may be incomplete because the hub cannot be reached.
        found = "" if wrong is None else f" ({wrong})"
        return (
            f"{name!r} could not be loaded from the hub or its local cache{found}; check the id "
            "and the network, or pass a folder or a built-in model "
            f"({nearest_names(name, asset_names(AssetKind.MODEL))})"
        )
    if isinstance(error, LookupError):
        text = f"config.json names {text}, which transformers does not know"
    return f"{name!r} could not be loaded: {text[:300]}"


def _known_revisions(repo_id: str) -> str:
    from huggingface_hub import HfApi, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        refs = HfApi().list_repo_refs(repo_id)
        return f"the hub has {', '.join(sorted(ref.name for ref in (*refs.branches, *refs.tags)))}"
    except Exception:  # of whatever library it uses for the network
        pass
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    names = sorted(n for r in repos if r.repo_id == repo_id for n in r.refs)
    return f"the hub cannot be asked; its local cache has {', '.join(names) or 'none'}"


def _wrapped(source: Any, tokenizer: Any, asked: Backend | None) -> HookedModel:
    engine, own_tokenizer = _engine_of(source, tokenizer, asked)
    if asked not in (None, engine.backend):
        raise ValueError(
            f"backend={str(asked)!r} was asked for a {type(source).__name__}, which runs on "
            f"{str(engine.backend)!r}; leave it out, or pass a name or a PreTrainedModel"
        )
    name = engine.config._name_or_path or type(source).__name__
    return HookedModel(engine, tokenizer or own_tokenizer, name=name, revision=None)


def _engine_of(source: Any, tokenizer: Any, asked: Backend | None) -> tuple[Engine, Any | None]:
    from transformers import PreTrainedModel

    # Their packages are imported already if the object is one of theirs, and not for anything else.
    origin = {ancestor.__module__.split(".")[0] for ancestor in type(source).__mro__}
    if "peft" in origin:
        if source.active_peft_config.is_prompt_learning:
            raise ValueError(
                "the prompts of this PeftModel stand outside of the model, so hook points would "
                "not see them; adapters inside of it (LoRA and the like) are read, or merge them"
            )
        source = source.get_base_model()
    if isinstance(source, PreTrainedModel):
        refuse_unreadable(source)
        if source.config.model_type in _WRAPPERS:
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


def _engine_over(hf_model: Any, tokenizer: Any | None, backend: Backend) -> Engine:
    match backend:
        case Backend.NATIVE:
            return NativeEngine(hf_model)
        case Backend.TRANSFORMER_LENS:
            from probes.backends.transformer_lens import engine_over

            return engine_over(hf_model, copy.deepcopy(tokenizer))
        case Backend.NNSIGHT:
            from probes.backends.nnsight import NnsightEngine, nnsight_over

            return NnsightEngine(nnsight_over(hf_model, copy.deepcopy(tokenizer)))
