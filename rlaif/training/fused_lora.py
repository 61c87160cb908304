"""LoRA layers in one autograd step: peft's result, without its temporaries of the layer's full width.

peft computes base(x) + B(A(x)) * scaling as three operations, each of which writes (and, going back, reads) a tensor as
wide as the layer. Here the low-rank product is added in place, forward and backward. peft keeps the adapter of a bfloat16
model in float32 and multiplies in float32; here its weights stay float32, but products are in the layer's own dtype, as
under autocast.
"""

from typing import Any

import torch
from torch import Tensor

from rlaif.training.products import product


def fuse_lora(model: Any) -> int:
    """Replaces the forward of every plain LoRA layer of a peft model; returns how many there are.

    Layers with dropout, DoRA, several active adapters or a quantised base keep peft's own forward, as do all layers while
    the adapter is off.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.forward = _forward(layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    (name, *others) = layer.active_adapters
    return (
        not others
        and type(layer.base_layer) is torch.nn.Linear
        and not layer.base_layer.weight.requires_grad
        and name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and layer.lora_A[name].weight.dtype in (layer.base_layer.weight.dtype, torch.float32)
    )


def _forward(layer: Any) -> Any:
    (name,) = layer.active_adapters
    base, a, b, scaling = layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
    own_forward = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        other = layer.disable_adapters or layer.merged or layer.active_adapters != [name]
        if other or args or kwargs or x.dtype != base.weight.dtype:
            return own_forward(x, *args, **kwargs)
        return _LoraLinear.apply(x, base.weight, base.bias, a.weight, b.weight, scaling)  # type: ignore[no-untyped-call]

    return forward


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling (x A^T) B^T, for a frozen W (out, in) and trained A (r, in) and B (out, r), in W's dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low_rank = product(rows, a.to(weight.dtype).t())
        result = product(rows, weight.t())
        if bias is not None:
            result += bias
        result.addmm_(low_rank, b.to(weight.dtype).t(), alpha=scaling)
        ctx.save_for_backward(rows, weight, a, b, low_rank)
        ctx.scaling = scaling
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low_rank = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_low_rank = product(grad_rows, b.to(weight.dtype)).mul_(ctx.scaling)
        grad_a = product(grad_low_rank.t(), rows).to(a.dtype)
        grad_b = product(low_rank.t(), grad_rows).to(b.dtype).mul_(ctx.scaling).t()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_rows, weight)
            grad_x.addmm_(grad_low_rank, a.to(weight.dtype))
            grad_x = grad_x.view(*grad.shape[:-1], weight.shape[1])
        return grad_x, None, None, grad_a, grad_b, None
