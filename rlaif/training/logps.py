"""Log-probs of completion tokens, computed inside the model's own forward and never holding all the logits.

The model's forward is patched on the instance: called with `completion_positions` and `targets` it returns the log-prob
of each target instead of logits. Because it is still the model's forward, wrappers (PEFT, DDP, FSDP) work around it.
"""

import contextlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlaif.errors import TrainError

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
"""How many logits may exist at once, by device type (2**23 in float32 are 32 MiB)."""


@dataclass(frozen=True)
class HeadShape:
    """What the model does to its logits after the linear head: cap * tanh(scale * z / cap)."""

    scale: float = 1.0
    softcap: float | None = None


def head_shape(config: Any) -> HeadShape:
    """The scale and soft-cap of a model's configuration.

    Gemma 2 and 3: final_logit_softcapping; Cohere: logit_scale multiplies; Granite: logits_scaling divides;
    Falcon-H1: lm_head_multiplier multiplies.
    """
    scale = 1.0
    if getattr(config, "logit_scale", None) is not None:
        scale *= float(config.logit_scale)
    if getattr(config, "logits_scaling", None) is not None:
        scale /= float(config.logits_scaling)
    if getattr(config, "lm_head_multiplier", None) is not None:
        scale *= float(config.lm_head_multiplier)
    softcap = getattr(config, "final_logit_softcapping", None)
    return HeadShape(scale, float(softcap) if softcap is not None else None)


def chunked_logps(
    hidden_NH: Tensor,
    targets_N: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None = None,
    shape: HeadShape | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """log softmax(head(hidden))[target], shape (N,), in float32 (float64 if hidden is), differentiable.

    At most `chunk_rows` rows of logits exist at a time. Equals the plain log-softmax of the head's logits.
    """
    kind = hidden_NH.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden_NH, weight_VH = hidden_NH.to(dtype), weight_VH.to(dtype)
        bias_V = bias_V.to(dtype) if bias_V is not None else None
    rows = chunk_rows or max(1, CHUNK_ELEMENTS.get(kind, 2**27) // weight_VH.shape[0])
    with torch.autocast(kind, enabled=False):
        logps: Tensor = _ChunkedLogps.apply(  # type: ignore[no-untyped-call]
            hidden_NH, targets_N, weight_VH, bias_V, shape or HeadShape(), rows
        )
    return logps


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: HeadShape) -> Tensor:
    """A fresh (rows, V) tensor of the model's final logits in at least float32; it may be overwritten."""
    logits = hidden @ weight.T
    if bias is not None:
        logits += bias
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if shape.scale != 1.0:
        logits *= shape.scale
    if shape.softcap is not None:
        logits.div_(shape.softcap).tanh_().mul_(shape.softcap)
    return logits


def _logit_gradient(logits: Tensor, log_total: Tensor, targets: Tensor, shape: HeadShape) -> Tensor:
    """d logp / d (linear head's output), shape (rows, V): (onehot - softmax) through the soft-cap and the scale."""
    slope = 1 - (logits / shape.softcap).square_() if shape.softcap is not None else None
    gradient = logits.sub_(log_total[:, None]).exp_().neg_()
    gradient.scatter_add_(1, targets[:, None], gradient.new_ones(len(targets), 1))
    if slope is not None:
        gradient *= slope
    if shape.scale != 1.0:
        gradient *= shape.scale
    return gradient


class _ChunkedLogps(torch.autograd.Function):
    """With a frozen head the gradient with respect to the hidden states, (onehot - p) @ W, is made in the forward while
    a chunk's logits exist, so the backward needs none. With a trainable head the chunks are computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shape: HeadShape,
        rows: int,
    ) -> Tensor:
        wants_head = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        direct = ctx.needs_input_grad[0] and not wants_head
        direction = torch.empty_like(hidden) if direct else None
        pieces = []
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, shape)
            log_total = torch.logsumexp(logits, dim=1)
            pieces.append(logits.gather(1, targets[part, None]).squeeze(1) - log_total)
            if direction is not None:
                gradient = _logit_gradient(logits, log_total, targets[part], shape)
                direction[part] = gradient.to(weight.dtype) @ weight
        ctx.direct, ctx.shape, ctx.rows = direct, shape, rows
        if direction is not None:
            ctx.save_for_backward(direction)
        elif wants_head:
            ctx.save_for_backward(hidden, targets, weight, bias)
        return torch.cat(pieces) if pieces else hidden.new_zeros(0, dtype=_result_dtype(hidden))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.direct:
            (direction,) = ctx.saved_tensors
            return (grad[:, None] * direction).to(direction.dtype), None, None, None, None, None
        hidden, targets, weight, bias = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = _logits(hidden[part], weight, bias, ctx.shape)
            log_total = torch.logsumexp(logits, dim=1)
            gradient = _logit_gradient(logits, log_total, targets[part], ctx.shape).mul_(grad[part, None])
            gradient = gradient.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = gradient @ weight
            if grad_weight is not None:
                grad_weight.addmm_(gradient.T, hidden[part])
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        return grad_hidden, None, grad_weight, grad_bias, None, None


def _result_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def patch_forward(model: Any) -> None:
    """Gives a causal language model's forward the keywords `completion_positions` and `targets`.

    Called with them it returns log-probs, shape (N,); without them it is the model's own forward.
    completion_positions: (N,) indexes into the flattened (rows * length) positions that predict `targets` (N,).
    Raises TrainError if the head is not one linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise TrainError(
            f"the language-model head is a {type(head).__name__}, and log-probs are computed from a plain linear one; "
            "leave lm_head out of lora.target_modules, and use a model with a linear head"
        )
    inner = model.base_model
    shape = head_shape(model.config.get_text_config())
    original = model.forward

    def forward(
        self: Any, *args: Any, completion_positions: Tensor | None = None, targets: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if completion_positions is None or targets is None:
            return original(*args, **kwargs)
        hidden = inner(*args, use_cache=False, **kwargs).last_hidden_state
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, completion_positions)
        return chunked_logps(selected, targets, head.weight, head.bias, shape)

    model.forward = types.MethodType(forward, model)
    model.unpatched_forward = original


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Within it a PEFT model answers as its base; any other model as itself."""
    with model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext():
        yield


def own_logps(model: Any, prompt: list[int], completion: list[int], device: torch.device) -> Tensor:
    """Per-token log-probs of one completion from the model's own logits, shape (len(completion),): the plain way."""
    ids = torch.tensor([prompt + completion], device=device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
