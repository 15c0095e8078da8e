"""Engine: a model made ready to be trained, by one process or by several, and its optimizer.

It keeps float32 weights and computes in the precision asked for: by autocast, or under FSDP by its
mixed-precision policy. Positions that predict no trained token are not unembedded. DDP averages
gradients; FSDP (`fully_shard`) also shards weights, gradients and optimizer state, block by block.
Hooks stay on the modules of the Hugging Face model. To observe the model, its weights are gathered
and compiled code is left alone (under FSDP they are in the precision that it computes in).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from probes.checking import all_finite, evaluating, refusing_failures, what_makes_finite
from probes.choices import Backend
from probes.hooked_model import HookedModel
from probes.hooks import where_it_began
from probes.model_folder import refuse_unordinary, tied_names
from probes.rotary import rope_border
from training.adapters import is_adapted, merged_weights
from training.batches import IGNORED, TrainingBatch
from training.choices import DecayGroup, Parallel, Precision, RateCount, ScheduleKind
from training.processes import Processes, own_device, random_states_kept, this_process
from training.settings import LoopSettings, OptimizerSettings

_PAD = -1
_COMPUTES_IN = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class Separation(Enum):
    """How a model learns where documents begin."""

    POSITIONS = auto()  # by positions that start again
    MASK = auto()  # by these and a mask for every query and key
    IMPOSSIBLE = auto()  # not in any way known here


def refuse_misfits(batch: TrainingBatch, model: HookedModel) -> None:
    """Make sure that a model has the tokens and the positions that a batch asks for."""
    ids, vocabulary = batch.input_ids, model.anatomy.n_tokens
    lowest, highest = map(int, ids.aminmax())
    if lowest < 0 or highest >= vocabulary:
        raise ValueError(
            f"token ids of a batch run from {lowest} to {highest}, but {model.name} has "
            f"{vocabulary} tokens; make the rows with its own tokenizer"
        )
    longest = model.n_positions
    if longest is not None and ids.shape[1] > longest:
        raise ValueError(
            f"rows have {ids.shape[1]} tokens, but {model.name} has positions for {longest}; use "
            "shorter rows"
        )


def forward_inputs(
    batch: TrainingBatch,
    separation: Separation,
    device: torch.device,
    rope_border: int | None = None,
) -> dict[str, Tensor]:
    """Keyword arguments for a forward pass."""
    inputs = {"input_ids": batch.input_ids}
    numbers = batch.segment_ids
    numbers = torch.zeros_like(batch.input_ids) if numbers is None else numbers
    documents = torch.where(batch.attention_mask == 1, numbers, _PAD)
    # Whether any token has another document, or pads, before it in its row.
    changes = documents[:, 1:] != documents[:, :-1]
    apart = bool((changes & (documents[:, 1:] != _PAD)).any())
    longer = rope_border is not None and documents.shape[1] > rope_border
    if apart or (longer and bool((documents == _PAD).any())):
        inputs["position_ids"] = positions_within(documents)
    if apart and separation is Separation.IMPOSSIBLE:
        raise ValueError(
            "this model does not keep the documents of a row apart; put one in a row, or leave "
            "out document masks"
        )
    if apart and separation is Separation.MASK:
        queries = rearrange(documents, "batch query -> batch 1 query 1")
        keys = rearrange(documents, "batch key -> batch 1 1 key")
        earlier = torch.ones(documents.shape[1], documents.shape[1]).tril().bool()
        inputs["attention_mask"] = (queries == keys) & earlier
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def separation_of(hf_model: Any) -> Separation:
    """How a model is to learn where documents begin, found out on a row of two."""
    device = next(hf_model.parameters()).device
    rows = torch.tensor([[1, 1, 1, 2], [2, 2, 1, 2]])
    documents = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    batch = TrainingBatch(rows, rows, torch.ones_like(rows), documents)
    for separation in (Separation.POSITIONS, Separation.MASK):
        inputs = forward_inputs(batch, separation, device)
        refusing = refusing_failures("it takes no such inputs")
        try:
            with evaluating(hf_model), torch.no_grad(), refusing:
                one, other = hf_model(**inputs, use_cache=False).logits[:, 2:]
        except ValueError:
            continue
        if not all_finite(torch.stack([one, other])):
            helps = what_makes_finite("it", hf_model.state_dict(), one.dtype)
            raise ValueError(f"the model's logits of a few tokens are not finite: {helps}")
        # Rounding is a millionth of their spread; what a document sees of another is far more.
        if torch.allclose(one, other, rtol=0.0, atol=1e-4 * float(one.std())):
            return separation
    return Separation.IMPOSSIBLE


def positions_within(documents: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
    """Positions that count from 0 in every document of a row."""
    here = torch.arange(documents.shape[1]).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return here - torch.where(begins, here, 0).cummax(dim=1).values


class Engine(AbstractContextManager["Engine"]):
    """Runs forward passes of a model in training; a context manager, which puts it back after.

    Under FSDP nothing can be put back: load the last checkpoint instead.
    """

    def __init__(self, model: HookedModel, settings: LoopSettings) -> None:
        self.here: Processes = this_process()
        self.device = model.device
        self._model, self._hf_model, self._settings = model, model.hf_model, settings
        self._separation = separation_of(self._hf_model)
        self._rope_border = rope_border(self._hf_model.config)
        self._computes_in = _COMPUTES_IN.get(Precision(settings.precision))
        self._summed_loss: Callable[[Tensor, Tensor], Tensor] = summed_cross_entropy
        self._token_losses: Callable[[Tensor, Tensor], Tensor] = token_cross_entropy
        with ExitStack() as stack:
            self._prepare(stack)
            self._forward = self._shared()
            self._cleanup = stack.pop_all()
        self.parameters = [p for p in self._hf_model.parameters() if p.requires_grad]

    def __exit__(self, *_exception: Any) -> None:
        self._cleanup.close()

    def loss(
        self, rows: TrainingBatch, *, sources: int = 0
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " source"] | None]:
        """The summed loss of trained tokens, each by its weight; that of each source without."""
        following = _following(rows.labels, IGNORED)
        # As numbers, and found on the CPU, so that no GPU is waited for.
        trained = (following != IGNORED).nonzero()[:, 0]
        inputs = forward_inputs(rows, self._separation, self.device, self._rope_border)
        with self._autocast(), self._unembedding_only(trained):
            # Flattened, not selected: the gradient of a selection is a copy as large as the logits.
            logits = self._forward(**inputs, use_cache=False).logits.flatten(0, 1)
        labels = following[trained].to(self.device)
        if rows.weights is None and not sources:
            return self._summed_loss(logits, labels), None
        losses = self._token_losses(logits, labels)
        total, apart = losses.sum(), None
        if rows.weights is not None:
            total = (losses * _following(rows.weights, 0)[trained].to(self.device)).sum()
        if sources:
            assert rows.sources is not None
            owner = _following(rows.sources, 0)[trained].to(self.device)
            apart = losses.new_zeros(sources).index_add(0, owner, losses.detach())
        return total, apart

    def where_loss_began(self, micro_batches: Sequence[TrainingBatch]) -> str:
        """The place where a loss that is not finite began, for a message."""
        if isinstance(self._hf_model, FSDPModule):
            return "a run that is not sharded says where it begins"
        for number, rows in enumerate(micro_batches):
            with self.observing():
                label = f"row {{}} of micro-batch {number}, token {{}}".format
                run, counted = partial(self.loss, rows), rows.attention_mask == 1
                if (began := where_it_began(self._model, run, counted, label)) is not None:
                    return began
        return "it begins at the logits or the loss itself"

    def where_gradient_began(self) -> str:
        """The place where a gradient that is not finite began, for a message."""
        # The backward pass comes by the last weights first.
        for name, weight in reversed(list(self._hf_model.named_parameters())):
            if weight.grad is not None and not all_finite(whole(weight.grad)):
                return f"it begins in the backward pass, at {name}"
        return "each weight's is finite, and too large to be squared"

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """Around one micro-batch; gradients are exchanged between processes after the last."""
        if isinstance(self._hf_model, FSDPModule):
            self._hf_model.set_requires_gradient_sync(is_last)
        waits = isinstance(self._forward, DistributedDataParallel) and not is_last
        with self._forward.no_sync() if waits else nullcontext():
            yield

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Around what observes the model: it finds whole weights, and leaves nothing behind."""
        shards = [part for part in self._hf_model.modules() if isinstance(part, FSDPModule)]
        # Compiled code would not notice hooks that are attached only now.
        eagerly = torch.compiler.set_stance("force_eager") if self._settings.compile else None
        with (
            random_states_kept(),
            self._model.evaluating(),
            torch.no_grad(),
            eagerly or nullcontext(),
        ):
            for part in shards:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            yield
            for part in shards:
                part.reshard()
                part.set_reshard_after_forward(part is not self._hf_model, recurse=False)

    def weights(self) -> dict[str, Tensor]:
        if is_adapted(self._hf_model):
            return {n: w.cpu() for n, w in merged_weights(self._hf_model).items()}
        tied = tied_names(self._hf_model)
        state = self._hf_model.state_dict()
        found = {name: whole(state[name]).cpu() for name in state if name not in tied}
        return {name: found[tied.get(name, name)] for name in state}

    def _prepare(self, stack: ExitStack) -> None:
        """Training mode, recomputation and compilation, to be undone at the end."""
        # Dropout and gradient checkpointing go by the mode of each module.
        for part in self._hf_model.modules():
            if not part.training:
                stack.callback(setattr, part, "training", False)
        self._hf_model.train()
        if self._settings.gradient_checkpointing:
            self._hf_model.activation_checkpointing_enable({"use_reentrant": False})
            stack.callback(self._hf_model.activation_checkpointing_disable)
        if self._settings.compile:
            self._summed_loss = torch.compile(summed_cross_entropy)
            self._token_losses = torch.compile(token_cross_entropy)
            for layer in self._model.anatomy.layers:
                layer.block.compile()
                stack.callback(setattr, layer.block, "_compiled_call_impl", None)

    def _shared(self) -> Any:
        """What to call for a forward pass: the model, shared with the other processes."""
        match Parallel(self._settings.parallel):
            case Parallel.NONE:
                return self._hf_model
            case Parallel.DDP:
                return DistributedDataParallel(
                    self._hf_model,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
            case Parallel.FSDP:
                self._shard()
                return self._hf_model

    def _shard(self) -> None:
        mesh = torch.distributed.init_device_mesh(self.device.type, (self.here.count,))
        policy = MixedPrecisionPolicy(param_dtype=self._computes_in, reduce_dtype=torch.float32)
        for layer in self._model.anatomy.layers:
            fully_shard(layer.block, mesh=mesh, mp_policy=policy)
        fully_shard(self._hf_model, mesh=mesh, mp_policy=policy)
        # Observers may call parts of the model; the root has to have been called before.
        with self._model.evaluating(), torch.no_grad():
            self._hf_model(torch.ones(1, 1, dtype=torch.long, device=self.device), use_cache=False)
        # It has kept its weights whole, and it is the shards that the optimizer is to have.
        self._hf_model.reshard()

    @contextmanager
    def _unembedding_only(self, positions: Int64[Tensor, " token"]) -> Iterator[None]:
        """Let a forward pass unembed some positions alone, counted row after row."""
        index = positions.to(self.device, non_blocking=True)

        def chosen(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (given[0].flatten(0, 1).index_select(0, index)[None], *given[1:])

        handle = self._hf_model.get_output_embeddings().register_forward_pre_hook(chosen)
        try:
            yield
        finally:
            handle.remove()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._computes_in is None or self._settings.parallel is Parallel.FSDP:
            return nullcontext()
        return torch.autocast(self.device.type, self._computes_in)


def summed_cross_entropy(
    logits: Float[Tensor, "token d_vocab"], labels: Int64[Tensor, " token"]
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of tokens, in float32, in nats."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def token_cross_entropy(
    logits: Float[Tensor, "token d_vocab"], labels: Int64[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """The cross-entropy of each token, in float32, in nats; see `summed_cross_entropy`."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _following(of_token: Tensor, last: int) -> Tensor:
    """What belongs to each token, at the position that predicts it, row after row."""
    return nn.functional.pad(of_token, (0, 1), value=last)[:, 1:].flatten()


def hold_in_float32(model: HookedModel) -> None:
    """Move a model's weights to this process's device, and to float32, in place."""
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"{model.name} runs on backend {str(model.backend)!r}, which cannot be trained; load "
            "it with backend='native'"
        )
    refuse_unordinary(model.hf_model, "a run could not be resumed from its checkpoints")
    model.hf_model.to(own_device(model.device), torch.float32)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, gathered; all processes call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model: first those that decay, then the others."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("every parameter of the model is frozen; let some require gradients")
    match DecayGroup(settings.decay):
        case DecayGroup.NONE:
            decaying: set[torch.Tensor] = set()
        case DecayGroup.ALL_MATRICES:
            decaying = {p for p in trainable if p.ndim >= 2}
        case DecayGroup.LINEAR_WEIGHTS:
            from transformers.pytorch_utils import Conv1D

            parts = list(module.modules())
            decaying = {part.weight for part in parts if isinstance(part, nn.Linear | Conv1D)}
            # An unembedding that is tied to the embedding is one.
            decaying -= {part.weight for part in parts if isinstance(part, nn.Embedding)}
    groups = [
        {"params": [p for p in trainable if p in decaying], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def learning_rate(update: int, settings: LoopSettings) -> float:
    """The learning rate of one update.

    Args:
        update: which, from 1 to the steps of the run.
        settings: the run's.

    Raises:
        ValueError: the run has no such update.
    """
    steps, schedule, warmup = settings.steps, settings.schedule, settings.warmup_updates
    if not 1 <= update <= steps:
        raise ValueError(f"update is {update!r}; give 1 to the {steps} of the run")
    peak, final = settings.optimizer.learning_rate, schedule.final_fraction
    point = update - 1 if schedule.count is RateCount.FROM_ZERO else update
    if point < warmup:
        return peak * (schedule.warmup_start + (1 - schedule.warmup_start) * point / warmup)
    along = (point - warmup) / (steps - warmup) if steps > warmup else 0.0
    match ScheduleKind(schedule.kind):
        case ScheduleKind.COSINE:
            return peak * (final + (1 - final) * (1 + math.cos(math.pi * along)) / 2)
        case ScheduleKind.LINEAR:
            return peak * (1 - (1 - final) * along)
        case ScheduleKind.CONSTANT:
            return peak
