"""Matrix products in float32 on the CPU by the library that is fastest there.

torch computes them with MKL, which on processors not made by Intel keeps to AVX2: half the speed of oneDNN, which uses AVX-512
wherever the processor has it; and two thirds of a training step are such products. On Intel's MKL is the faster one: by a tenth
forward, and by up to a half backward, where weights are strided. Its rounding hangs on the number of threads, oneDNN's
does not.
"""

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@functools.cache
def uses_onednn() -> bool:
    """Whether this process's products go to oneDNN: where it is built in, switched on, and better than MKL may be."""
    backend: Any = torch.backends.mkldnn
    built_in = backend.is_available() and backend.enabled
    return bool(built_in and torch.backends.cpu.get_cpu_capability() == "AVX512" and not _is_by_intel())


def _is_by_intel() -> bool:
    """Whether the processor is Intel's; False where the system does not say."""
    with contextlib.suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N), without autograd; either may be strided."""
    if a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and uses_onednn() and a.numel() and b.numel():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
        return result
    return a @ b


class Linear(torch.autograd.Function):
    """x W^T + bias for x (..., in) and W (out, in), by `product` in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        result = product(rows, weight.t())
        if bias is not None:
            result += bias
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_rows, weight).view(*grad.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[1]:
            grad_weight = product(grad_rows.t(), rows)
        return grad_x, grad_weight, grad_rows.sum(0) if ctx.needs_input_grad[2] else None
