"""Attention over prompt trees on the CPU, block by block: what the mask would hide is never computed.

A tree has three kinds of blocks: the prompt sees itself, every branch sees the whole prompt, and a branch sees itself.
The two blocks of a branch are joined by their log-sum-exps, as in flash attention (Dao et al. 2022, arXiv 2205.14135,
section 3.1), whose kernels compute the blocks, forward and backward.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rlaif.training.batches import PADDING, Batch

NAME = "rlaif_tree"
"""Under which transformers knows this attention."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def use_tree_attention(model: Any) -> None:
    """Makes a model attend this way wherever it is given `segments` as its mask, and as before where it is not."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def segments(batch: Batch) -> Tensor:
    """The (tree, branch) of every position as one integer mask of four axes, shape (R, 1, L, 2), which models hand on to
    their attention as it is."""
    mask = torch.stack([batch.tree, batch.branch], dim=-1)[:, None].to(torch.int32)
    mask.tree_blocks = list(blocks(mask))  # type: ignore[attr-defined]
    return mask


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query (R, heads, L, D), key and value with as many or fewer heads."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    if torch.is_autocast_enabled("cpu"):  # which casts for SDPA only
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    output: Tensor = _TreeAttention.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


def blocks(mask: Tensor) -> Iterator[tuple[int, int, int, list[tuple[int, int]]]]:
    """Each tree of the rows of `segments`: its row, where its prompt starts and ends, and its branches' (start, end)."""
    for row, positions in enumerate(mask[:, 0].tolist()):
        starts = [i for i, item in enumerate(positions) if i == 0 or item != positions[i - 1]] + [len(positions)]
        spans = [(tuple(positions[a]), a, b) for a, b in pairwise(starts)]
        at = 0
        while at < len(spans):
            (tree, _), start, end = spans[at]
            at += 1
            branches = []
            while at < len(spans) and spans[at][0][0] == tree:
                branches.append(spans[at][1:])
                at += 1
            if tree != PADDING:
                yield row, start, end, branches


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        output = torch.zeros_like(query)
        log_sums = query.new_zeros(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))
        layout = mask.tree_blocks if hasattr(mask, "tree_blocks") else list(blocks(mask))
        for row, start, end, branches in layout:
            q, k, v = (item[row : row + 1] for item in (query, key, value))
            prompt, after = slice(start, end), slice(end, branches[-1][1] if branches else end)
            output[row : row + 1, :, prompt], log_sums[row : row + 1, :, prompt] = _forward(
                q[:, :, prompt], k[:, :, prompt], v[:, :, prompt], 0.0, True, scale=scale
            )
            if not branches:
                continue
            above, above_log = _forward(q[:, :, after], k[:, :, prompt], v[:, :, prompt], 0.0, False, scale=scale)
            for first, last in branches:
                own = slice(first, last)
                within = slice(first - end, last - end)
                part, part_log = _forward(q[:, :, own], k[:, :, own], v[:, :, own], 0.0, True, scale=scale)
                log_sum = torch.logaddexp(above_log[:, :, within], part_log)
                part.mul_((part_log - log_sum).exp_()[..., None])
                part.addcmul_(above[:, :, within], (above_log[:, :, within] - log_sum).exp_()[..., None])
                output[row : row + 1, :, own], log_sums[row : row + 1, :, own] = part, log_sum
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sums = ctx.saved_tensors
        grads = [torch.zeros_like(item) for item in (query, key, value)]

        def add(row: int, of: slice, to: slice, is_causal: bool) -> None:
            """Adds the gradients of one block, from queries `of` to keys `to`."""
            one = slice(row, row + 1)
            found = _backward(
                grad[one, :, of], query[one, :, of], key[one, :, to], value[one, :, to], output[one, :, of],
                log_sums[one, :, of], 0.0, is_causal, scale=ctx.scale,
            )  # fmt: skip
            for total, part, place in zip(grads, found, (of, to, to), strict=True):
                total[one, :, place] += part

        for row, start, end, branches in ctx.layout:
            prompt = slice(start, end)
            add(row, prompt, prompt, True)
            if branches:
                add(row, slice(end, branches[-1][1]), prompt, False)
            for first, last in branches:
                add(row, slice(first, last), slice(first, last), True)
        return *grads, None, None
