"""Log-probs of completion tokens, computed inside the model's own forward and never holding all the logits.

The model's forward is patched on the instance: called with `completion_positions` and `targets` it returns the log-prob
of each target (and what else is asked for) instead of logits. Because it is still the model's forward, wrappers (PEFT,
DDP, FSDP) work around it.
"""

import contextlib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlaif.errors import TrainError
from rlaif.training.products import product
from rlaif.training.router import RECORD, router_loss
from rlaif.training.rows import Completion

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
"""How many logits may exist at once, by device type (2**23 in float32 are 32 MiB)."""


@dataclass(frozen=True)
class HeadShape:
    """What is done to the logits after the linear head: cap * tanh(scale * z / cap) / temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


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


@dataclass(frozen=True)
class Head:
    """A language-model head: weight (V, H), bias (V,) or None, and what is done to its logits."""

    weight: Tensor
    bias: Tensor | None = None
    shape: HeadShape = HeadShape()


EXTRAS = ("entropy", "collision")
"""What can be asked for beside log-probs: the entropy of each token's distribution in nats, and log sum_v p_v^2."""


def score_tokens(
    hidden_NH: Tensor,
    targets_N: Tensor,
    head: Head,
    *,
    extras: Sequence[str] = (),
    reference: tuple[Tensor, Head] | None = None,
    chunk_rows: int | None = None,
) -> dict[str, Tensor]:
    """What the head says of each target, each of shape (N,), in float32 (float64 if hidden is).

    logps: log softmax(head(hidden))[target], differentiable. correct: 1 where the target is the likeliest token.
    extras: see EXTRAS. reference: hidden states (N, H) and head of another model; then kl is KL(reference || policy)
    over the vocabulary, differentiable with respect to the policy.
    At most `chunk_rows` rows of logits exist at a time.
    """
    kind = hidden_NH.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden_NH, head = hidden_NH.to(dtype), _cast(head, dtype)
        reference = (reference[0].to(dtype), _cast(reference[1], dtype)) if reference is not None else None
    buffers = 1 + ("entropy" in extras) + 2 * (reference is not None)
    rows = chunk_rows or max(1, CHUNK_ELEMENTS.get(kind, 2**27) // (buffers * head.weight.shape[0]))
    with torch.autocast(kind, enabled=False):
        logps, kl, correct, entropy, collision = _ScoreTokens.apply(  # type: ignore[no-untyped-call]
            hidden_NH, targets_N, head.weight, head.bias, head.shape, tuple(extras), reference, rows
        )
    found = {"logps": logps, "kl": kl, "correct": correct, "entropy": entropy, "collision": collision}
    return {name: value for name, value in found.items() if value is not None}


def chunked_logps(
    hidden_NH: Tensor,
    targets_N: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None = None,
    shape: HeadShape | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """The log-probs of `score_tokens` alone, shape (N,)."""
    head = Head(weight_VH, bias_V, shape or HeadShape())
    return score_tokens(hidden_NH, targets_N, head, chunk_rows=chunk_rows)["logps"]


def _cast(head: Head, dtype: torch.dtype) -> Head:
    return Head(head.weight.to(dtype), head.bias.to(dtype) if head.bias is not None else None, head.shape)


def _logits(hidden: Tensor, head: Head) -> Tensor:
    """The final logits, (rows, V), in at least float32, to be overwritten."""
    logits = product(hidden, head.weight.t())
    if head.bias is not None:
        logits += head.bias
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if head.shape.scale != 1.0:
        logits *= head.shape.scale
    if head.shape.softcap is not None:
        logits.div_(head.shape.softcap).tanh_().mul_(head.shape.softcap)
    return logits.div_(head.shape.temperature) if head.shape.temperature != 1.0 else logits


class _Chunk:
    """The distributions of a few rows: values per row, and gradients with respect to the linear head's output.

    After `gradient` was called, `p` is overwritten.
    """

    def __init__(
        self,
        hidden: Tensor,
        targets: Tensor,
        head: Head,
        extras: Sequence[str],
        reference: tuple[Tensor, Head] | None,
    ) -> None:
        self.targets, self.shape = targets, head.shape
        logits = _logits(hidden, head)
        self.slope = None
        if head.shape.softcap is not None:
            self.slope = 1 - (logits * (head.shape.temperature / head.shape.softcap)).square_()
        target = logits.gather(1, targets[:, None]).squeeze(1)
        top = logits.amax(1)
        logits.sub_(top[:, None])
        keeps = "entropy" in extras or reference is not None
        weights = logits.exp() if keeps else logits.exp_()
        total = weights.sum(1)
        log_total = total.log()
        self.logps = target - top - log_total
        self.correct = (target >= top).to(self.logps.dtype)
        self.collision = torch.linalg.vecdot(weights, weights).log() - 2 * log_total if "collision" in extras else None
        self.entropy = log_total - torch.linalg.vecdot(weights, logits) / total if "entropy" in extras else None
        self.p = weights.div_(total[:, None])
        self.kl = self.q = None
        if reference is not None:
            log_q = _logits(*reference).log_softmax(1)
            self.q = log_q.exp()
            self.kl = torch.linalg.vecdot(self.q, log_q.sub_(logits.sub_(log_total[:, None])))

    def kl_gradient(self) -> Tensor:
        """d kl / d (head's output), shape (rows, V): p - q, through the soft-cap and the scale."""
        assert self.q is not None
        return self._through_shape(self.p - self.q)

    def gradient(self, of_logps: Tensor | None = None) -> Tensor:
        """(d logp / d (head's output)) * of_logps, shape (rows, V): onehot - p, through the soft-cap and the scale."""
        gradient = self.p.neg_()
        gradient.scatter_add_(1, self.targets[:, None], gradient.new_ones(len(self.targets), 1))
        if of_logps is not None:
            gradient.mul_(of_logps[:, None])
        return self._through_shape(gradient)

    def _through_shape(self, gradient: Tensor) -> Tensor:
        if self.slope is not None:
            gradient.mul_(self.slope)
        factor = self.shape.scale / self.shape.temperature
        return gradient.mul_(factor) if factor != 1.0 else gradient


def _part(reference: tuple[Tensor, Head] | None, rows: slice) -> tuple[Tensor, Head] | None:
    return (reference[0][rows], reference[1]) if reference is not None else None


class _ScoreTokens(torch.autograd.Function):
    """With a frozen head the gradients with respect to the hidden states, (onehot - p) @ W and (p - q) @ W, are made in
    the forward while a chunk's logits exist, so the backward needs none. With a trainable head the chunks are computed
    again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shape: HeadShape,
        extras: tuple[str, ...],
        reference: tuple[Tensor, Head] | None,
        rows: int,
    ) -> tuple[Tensor | None, ...]:
        head = Head(weight, bias, shape)
        wants_head = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        direct = ctx.needs_input_grad[0] and not wants_head
        direction = torch.empty_like(hidden) if direct else None
        kl_direction = torch.empty_like(hidden) if direct and reference is not None else None
        found: dict[str, list[Tensor]] = {"logps": [], "kl": [], "correct": [], "entropy": [], "collision": []}
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            chunk = _Chunk(hidden[part], targets[part], head, extras, _part(reference, part))
            for name, values in found.items():
                if (value := getattr(chunk, name)) is not None:
                    values.append(value)
            if kl_direction is not None:
                kl_direction[part] = product(chunk.kl_gradient().to(weight.dtype), weight)
            if direction is not None:
                direction[part] = product(chunk.gradient().to(weight.dtype), weight)
            del chunk  # before the next one's logits exist
        ctx.direct, ctx.shape, ctx.rows, ctx.reference = direct, shape, rows, reference
        if direction is not None:
            ctx.save_for_backward(direction, kl_direction)
        elif wants_head:
            ctx.save_for_backward(hidden, targets, weight, bias)
        if not len(hidden):
            none = hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
            found = {name: [none.clone()] for name in found}
        results = [torch.cat(values) if values else None for values in found.values()]
        ctx.mark_non_differentiable(*(value for value in results[2:] if value is not None))
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_logps: Tensor, of_kl: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        if ctx.direct:
            direction, kl_direction = ctx.saved_tensors
            total = of_logps[:, None] * direction
            if kl_direction is not None and of_kl is not None:
                total = total + of_kl[:, None] * kl_direction
            return total.to(direction.dtype), *[None] * 7
        hidden, targets, weight, bias = ctx.saved_tensors
        head = Head(weight, bias, ctx.shape)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            chunk = _Chunk(hidden[part], targets[part], head, (), _part(ctx.reference, part))
            kl_part = chunk.kl_gradient().mul_(of_kl[part, None]) if chunk.q is not None and of_kl is not None else None
            gradient = chunk.gradient(of_logps[part])
            gradient = (gradient + kl_part if kl_part is not None else gradient).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = product(gradient, weight)
            if grad_weight is not None:
                grad_weight.addmm_(gradient.T, hidden[part])
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        return grad_hidden, None, grad_weight, grad_bias, *[None] * 4


def patch_forward(model: Any) -> None:
    """Gives a causal language model's forward the keyword `completion_positions` and those that go with it.

    completion_positions: (N,) indexes into the flattened (rows * length) positions that predict `targets` (N,). With
    them the forward returns what `score_tokens` does (extras, reference: as there; the extra "hidden" is the hidden states
    there, (N, H), with gradient); with positions and no targets, only those, {"hidden": (N, H)}; without positions it is the
    model's own forward. routed: (rows * length,), True where a position is no padding; with it the result also has
    "router_loss", a scalar.
    Raises TrainError if the head is not one linear layer.
    """
    module = model.get_output_embeddings()
    if type(module) is not nn.Linear:
        raise TrainError(
            f"the language-model head is a {type(module).__name__}, and log-probs are computed from a plain linear one; "
            "leave lm_head out of lora.target_modules, and use a model with a linear head"
        )
    inner = model.base_model
    original = model.forward

    def forward(
        self: Any,
        *args: Any,
        completion_positions: Tensor | None = None,
        targets: Tensor | None = None,
        extras: Sequence[str] = (),
        reference: tuple[Tensor, Head] | None = None,
        routed: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if completion_positions is None:
            return original(*args, **kwargs)
        read = inner(*args, use_cache=False, **kwargs, **({} if routed is None else RECORD))
        hidden = read.last_hidden_state
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, completion_positions)
        if targets is None:
            return {"hidden": selected}
        scores = score_tokens(selected, targets, model_head(model), extras=extras, reference=reference)
        if "hidden" in extras:
            scores["hidden"] = selected
        return scores if routed is None else {**scores, "router_loss": router_loss(model.config, read, routed)}

    model.forward = types.MethodType(forward, model)
    model.unpatched_forward = original


@contextlib.contextmanager
def unpatched(model: Any) -> Iterator[None]:
    """Within it a patched model (or the base of an adapter) has the library's own forward, whose parameters `generate` looks
    at: whether it takes positions, and how many logits it is to compute."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    patched = inner.forward
    inner.forward = inner.unpatched_forward
    try:
        yield
    finally:
        inner.forward = patched


def patch_reward_forward(model: Any) -> None:
    """Gives a sequence classifier with one label the keyword `completion_ends`: (C,) indexes into the flattened
    positions of each completion's last token. With it the forward returns their scores, {"rewards": (C,)}, in at least
    float32; without it, it is the model's own. routed: as for `patch_forward`."""
    inner = model.base_model
    original = model.forward

    def forward(
        self: Any, *args: Any, completion_ends: Tensor | None = None, routed: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if completion_ends is None:
            return original(*args, **kwargs)
        given = {name: value for name, value in kwargs.items() if value is not None and name not in CLASSIFIER_KEYS}
        read = inner(*args, use_cache=False, **given, **({} if routed is None else RECORD))
        hidden = read.last_hidden_state
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, completion_ends)
        rewards = model.score(selected).squeeze(-1)
        scores = {"rewards": rewards.float() if rewards.dtype in (torch.float16, torch.bfloat16) else rewards}
        return scores if routed is None else {**scores, "router_loss": router_loss(model.config, read, routed)}

    model.forward = types.MethodType(forward, model)
    model.unpatched_forward = original


CLASSIFIER_KEYS = ("labels", "output_attentions", "output_hidden_states", "return_dict")
"""Keywords that peft passes to a sequence classifier and that its inner model does not take."""


def model_head(model: Any) -> Head:
    """The head of a causal language model, at the temperature that `set_temperature` gave it."""
    module = model.get_output_embeddings()
    shape = head_shape(model.config.get_text_config())
    return Head(module.weight, module.bias, replace(shape, temperature=temperature_of(model)))


def set_temperature(model: Any, temperature: float) -> None:
    """Makes the log-probs of a (patched) model those of its distribution at a temperature: what it samples from in online
    training."""
    model.logp_temperature = temperature


def temperature_of(model: Any) -> float:
    """The temperature of a model's log-probs, 1 unless it was set."""
    return float(getattr(model, "logp_temperature", 1.0))


INITIAL_ADAPTER = "initial"
"""The name of the frozen copy of an adapter that training started from."""


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Within it a PEFT model answers as it did before training: as its base, or with the adapter it started from. Any
    other model answers as itself."""
    if INITIAL_ADAPTER in getattr(model, "peft_config", {}):
        model.base_model.set_adapter(INITIAL_ADAPTER, inference_mode=True)
        try:
            yield
        finally:
            model.base_model.set_adapter("default")
    else:
        with model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext():
            yield


def own_reward(model: Any, prompt: tuple[int, ...], completion: Completion, device: torch.device) -> Tensor:
    """A reward model's score of one completion from its own forward, a scalar: the plain way."""
    ids = torch.tensor([prompt + completion.ids], device=device)
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0, 0]


def own_logps(model: Any, prompt: tuple[int, ...], completion: Completion, device: torch.device) -> Tensor:
    """Log-probs of one completion's learned tokens from the model's own logits, shape (n_learned,): the plain way."""
    ids = torch.tensor([prompt + completion.ids], device=device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature_of(model)
    logps = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
    return logps[torch.tensor(completion.learned, device=device)] if completion.learned is not None else logps
