"""Layers of 4 or 8 bits (bitsandbytes) that say the same of a token whoever asks and whatever is read beside it.

bitsandbytes computes otherwise in evaluation than in training: on a CPU, 4-bit layers round activations to bfloat16 and
give no gradient after that; 8-bit layers (LLM.int8) round activations to 8 bits, in columns chosen by the largest number
of the whole batch. The reference would not be the policy then, nor a packed answer the answer alone. Here the frozen
weights are always multiplied out, and activations are not rounded: QLoRA's own arithmetic (arXiv 2305.14314, equation 5).
"""

import types
from typing import Any

import torch
from torch import Tensor


def compute_alike(model: Any) -> int:
    """Makes every quantised layer of a model compute alike in training and evaluation; returns how many there are."""
    count = 0
    for layer in model.modules():
        kind = type(layer).__name__
        if kind == "Linear4bit":
            layer.train()
            layer.train = types.MethodType(_stay, layer)
        elif kind == "Linear8bitLt":
            layer.forward = types.MethodType(_forward_8bit, layer)
        count += kind in ("Linear4bit", "Linear8bitLt")
    return count


def _stay(layer: Any, mode: bool = True) -> Any:
    return layer


def _forward_8bit(layer: Any, x: Tensor) -> Tensor:
    if layer.weight.CB is not None:
        layer.init_8bit_state()
    result: Tensor = _Linear8bit.apply(x, layer.state.CB, layer.state.SCB)  # type: ignore[no-untyped-call]
    return result if layer.bias is None else result + layer.bias.to(result.dtype)


class _Linear8bit(torch.autograd.Function):
    """x W^T for a frozen W = codes * scales / 127: codes (out, in) of 8 bits, scales (out,) the largest of each row. W is
    multiplied out again in the backward, so that only the codes are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return x @ _multiplied_out(codes, scales, x.dtype).t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return grad @ _multiplied_out(codes, scales, grad.dtype), None, None


def _multiplied_out(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype).mul_((scales / 127).to(dtype)[:, None])
