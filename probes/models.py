"""Models load hooked: `load_model` puts a `HookedModel` around an untouched Hugging Face model.

The Hugging Face model keeps its keys, its attention implementation and its ability to train and be
saved; hooks come and go around it. Any forward pass of it, ours or the user's, runs through
whatever is attached at the time.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                # doctest: +SKIP
    >>> logits, cache = model.run_with_cache("The capital of France is")     # doctest: +SKIP
    >>> cache["blocks.3.mlp.hook_post"].shape                                # doctest: +SKIP
    torch.Size([1, 5, 1536])
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.architectures import Anatomy, Architecture, locate
from probes.attach import HookFunction, attached
from probes.captured import Captured
from probes.corpus.token_batch import TokenBatch, as_token_batch
from probes.loading import as_device, load_pretrained
from probes.self_check import check_model
from probes.sites import HookPoint, Site, hook_name, parse_hook_point

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


def load_model(
    source: Any,
    *,
    revision: str | None = None,
    tokenizer: Any | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> "HookedModel":
    """Load a causal language model, check that its architecture is understood, and wrap it.

    Args:
        source: hub id, folder, `.gguf` file or built-in model, or a `PreTrainedModel` in memory,
            which is wrapped as it is.
        revision: branch, tag or commit of a hub id; Pythia's `"step3000"`, say.
        tokenizer: used instead of the checkpoint's; needed for text with a model in memory.
        device: where to put the weights; None for CUDA where there is one, otherwise the CPU.
        dtype: `"float32"`, `"bfloat16"`, ...; None for the checkpoint's own.
        trust_remote_code: whether a checkpoint may bring its own modelling code.

    Returns:
        The hooked model, in evaluation mode if it was loaded here.

    Raises:
        ValueError: it cannot be found or loaded, or its architecture is not understood.
    """
    if not isinstance(source, str):
        return _wrap_in_memory(source, tokenizer, revision, device, dtype)
    target = as_device(device)
    hf_model, own_tokenizer = load_pretrained(
        source, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
    )
    chosen = own_tokenizer if tokenizer is None else tokenizer
    return HookedModel(hf_model.to(target), chosen, name=source, revision=revision)


def _wrap_in_memory(
    source: Any, tokenizer: Any, revision: Any, device: Any, dtype: Any
) -> "HookedModel":
    from transformers import PreTrainedModel

    if not isinstance(source, PreTrainedModel):
        raise ValueError(
            f"cannot load a {type(source).__name__}; pass a name, a path (as a string) "
            "or a transformers PreTrainedModel"
        )
    given = {"revision": revision, "device": device, "dtype": dtype}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"{', '.join(wrong)} cannot be set for a model in memory, which is wrapped as it is; "
            "change it before wrapping"
        )
    name = source.config._name_or_path or type(source).__name__
    return HookedModel(source, tokenizer, name=name, revision=None)


class HookedModel:
    """A Hugging Face causal language model whose hook points can be read and edited.

    Attributes:
        hf_model: the `PreTrainedModel`, never altered by anything here.
        tokenizer: its tokenizer, or None.
        name: what it was loaded as.
        revision: the hub revision it was loaded at, or None.
        anatomy: where its parts are.
    """

    def __init__(
        self, hf_model: Any, tokenizer: Any | None, *, name: str, revision: str | None
    ) -> None:
        self.hf_model = hf_model
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.anatomy: Anatomy = locate(hf_model)
        with self.evaluating():
            check_model(hf_model, self.anatomy)

    def __repr__(self) -> str:
        at = f" at {self.revision}" if self.revision else ""
        return (
            f"HookedModel({self.name}{at}: {self.architecture.family}, {self.n_layers} layers, "
            f"d_model {self.d_model}, d_mlp {self.d_mlp}, {self.dtype}, {self.device})"
        )

    @property
    def architecture(self) -> Architecture:
        """The row of the architecture table that describes the model."""
        return self.anatomy.architecture

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return self.anatomy.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.layers[0].memory_vectors.shape[1]

    @property
    def d_mlp(self) -> int:
        """Number of memory vectors in a block."""
        return self.anatomy.d_mlp

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return self.anatomy.unembed.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the token embedding lies, and token ids must go."""
        return self.anatomy.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return self.anatomy.layers[0].down.weight.dtype

    def content_hash(self) -> str:
        """SHA-256 over the names and values of all parameters and buffers, as they are now."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.hf_model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def to_tokens(self, text: str | Sequence[str]) -> Int[Tensor, "batch pos"]:
        """Token ids of one text, or of several of the same length in tokens; no token is added.

        Raises:
            ValueError: there is no tokenizer, or the texts differ in length.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer; pass token ids, or load with one")
        texts = [text] if isinstance(text, str) else list(text)
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"texts have {[len(row) for row in rows]} tokens; pass one text, texts of one "
                "length, or a padded batch with its attention_mask"
            )
        return torch.tensor(rows, device=self.device)

    def hook_point(self, name: str | tuple[Site | str, int | None]) -> HookPoint:
        """The hook point of a TransformerLens name or a `(site, layer)` pair, checked.

        Raises:
            ValueError: the model has no such hook point.
        """
        if isinstance(name, str):
            point = parse_hook_point(name, gated=self.architecture.gated)
        else:
            point = HookPoint(Site(name[0]), name[1])
        if point.layer is not None and not 0 <= point.layer < self.n_layers:
            raise ValueError(
                f"layer {point.layer} does not exist; {self.name} has layers 0 to "
                f"{self.n_layers - 1}"
            )
        return point

    def hook_names(self) -> list[str]:
        """TransformerLens names of all hook points of this model."""
        return [hook_name(point, gated=self.architecture.gated) for point in self._all_points()]

    def hooks(
        self, hooks: Sequence[tuple[str | tuple[Site | str, int | None], HookFunction]]
    ) -> AbstractContextManager[None]:
        """Attach functions for the length of a `with` block.

        Args:
            hooks: pairs of hook point (or TransformerLens name) and `fn(tensor, point)`, which
                returns a replacement, or None to leave the tensor alone.

        Raises:
            ValueError: the model has no such hook point.
        """
        pairs = [(self.hook_point(name), function) for name, function in hooks]
        return attached(self.hf_model, self.anatomy, pairs)

    def run_with_cache(
        self,
        tokens: Int[Tensor, "batch pos"] | str | Sequence[str],
        names_filter: NamesFilter = None,
        *,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], Captured]:
        """Logits of one batch, and the tensors at some hook points.

        Args:
            tokens: token ids, or text (no token is added to it).
            names_filter: TransformerLens name, list of names, or predicate over names; None keeps
                everything, which takes far more memory than the model itself: prefer a filter.
            attention_mask: 0 on pads; None where there are none.
            device: where to keep the tensors; None for where they are.

        Returns:
            Logits, and the captured tensors, detached.

        Raises:
            ValueError: a name does not exist, or the filter selects nothing.
        """
        ids = tokens if isinstance(tokens, Tensor) else self.to_tokens(tokens)
        batch = {"input_ids": ids}
        if attention_mask is not None:
            batch["attention_mask"] = attention_mask
        points = self._filtered(names_filter)
        kept: dict[HookPoint, Tensor] = {}

        def keep(tensor: Tensor, point: HookPoint) -> None:
            kept[point] = tensor.detach() if device is None else tensor.detach().to(device)

        with self.evaluating(), self.hooks([(point, keep) for point in points]):
            logits = self.logits(as_token_batch(batch))
        return logits, Captured({p: kept[p] for p in points}, gated=self.architecture.gated)

    def trunk(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block; the unembedding is not computed."""
        return self.anatomy.trunk(**self._inputs(batch), use_cache=False).last_hidden_state

    def logits(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's own logits."""
        return self.hf_model(**self._inputs(batch), use_cache=False).logits

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode (no dropout) for the length of a `with` block."""
        training = [module for module in self.hf_model.modules() if module.training]
        self.hf_model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _inputs(self, batch: TokenBatch) -> Mapping[str, Tensor]:
        ids = batch.input_ids.to(self.device)
        self._check_ids(ids)
        if bool(batch.attention_mask.all()):
            return {"input_ids": ids}
        mask = batch.attention_mask.to(self.device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if not bool(mask[:, 0].all()) and self._takes_position_ids():
            # Left padding: learned positions would otherwise count the pads.
            inputs["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp_min(0)
        return inputs

    def _check_ids(self, ids: Int[Tensor, "batch pos"]) -> None:
        largest = int(ids.max())
        if largest >= self.anatomy.embed.weight.shape[0] or int(ids.min()) < 0:
            raise ValueError(
                f"token ids run from {int(ids.min())} to {largest}, but {self.name} has "
                f"{self.anatomy.embed.weight.shape[0]} tokens; use the model's own tokenizer"
            )
        longest = getattr(self.hf_model.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] > longest:
            raise ValueError(
                f"rows have {ids.shape[1]} tokens, but {self.name} has positions for {longest}; "
                "use a shorter sequence length"
            )

    def _takes_position_ids(self) -> bool:
        return "position_ids" in inspect.signature(self.anatomy.trunk.forward).parameters

    def _all_points(self) -> list[HookPoint]:
        absent = set()
        if not self.architecture.gated:
            absent.add(Site.MLP_GATE)
        if self.architecture.mid is None:
            absent.add(Site.RESID_MID)
        in_layers = [site for site in Site if site.per_layer and site not in absent]
        return [
            HookPoint(Site.EMBED, None),
            *(HookPoint(site, layer) for layer in range(self.n_layers) for site in in_layers),
            HookPoint(Site.FINAL_NORM, None),
            HookPoint(Site.LOGITS, None),
        ]

    def _filtered(self, names_filter: NamesFilter) -> list[HookPoint]:
        if names_filter is None:
            return self._all_points()
        if isinstance(names_filter, str):
            return [self.hook_point(names_filter)]
        if not callable(names_filter):
            return [self.hook_point(name) for name in names_filter]
        gated = self.architecture.gated
        points = [p for p in self._all_points() if names_filter(hook_name(p, gated=gated))]
        if not points:
            raise ValueError(
                "names_filter selects no hook point; model.hook_names() lists the "
                f"{len(self.hook_names())} there are"
            )
        return points
