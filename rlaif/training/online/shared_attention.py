"""Attention of rows that go on from shared prompts, one token a row: a prompt's keys and values are read once for all rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from rlaif.training import flex_attention, tree_attention
from rlaif.training.masks import AttentionPlan

NAME = "rlaif_shared"
"""Under which transformers knows this attention."""


def takes_shared_prompts(model: Any, plan: AttentionPlan) -> bool:
    """Whether a model's layers attend as this module computes: softmax attention, with or without a window and a cap on scores,
    by a function that transformers lets be replaced."""
    known = (tree_attention.NAME, flex_attention.NAME, "sdpa")
    capped = flex_attention.is_soft_capped(model.config)
    return not plan.is_plain and (capped or model.config._attn_implementation in known)


@contextmanager
def sharing(model: Any) -> Iterator[None]:
    """Within it a model attends this way: its masks must come from `Prompts.mark`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@dataclass(frozen=True)
class Prompts:
    """Which rows go on from which prompt.

    cache: of `SharedLayer`s. place: of each of R rows in a grid of prompts by `most` rows, (R,), None where rows fill it in
    order.
    """

    cache: Cache
    count: int
    most: int
    place: Tensor | None

    @classmethod
    def of(cls, cache: Cache, owners: list[int], device: torch.device) -> "Prompts":
        """owners: the prompt of each row, 0, 1, ... in ascending order, none left out."""
        count = owners[-1] + 1
        sizes = [owners.count(prompt) for prompt in range(count)]
        most = max(sizes)
        if min(sizes) == most:
            return cls(cache, count, most, None)
        places = [prompt * most + index for prompt, size in enumerate(sizes) for index in range(size)]
        return cls(cache, count, most, torch.tensor(places, device=device))

    def mark(self, mask: Tensor) -> Tensor:
        """The mask, by which attention finds what rows share. mask: (R or 1, 1, 1, L + added), True where a place is seen."""
        mask.prompts = self  # type: ignore[attr-defined]
        return mask

    def gathered(self, rows: Tensor) -> Tensor:
        """(R, heads, group, D) by prompt: (P, heads, most * group, D), with zeros where a prompt has less rows."""
        if self.place is not None:
            rows = rows.new_zeros(self.count * self.most, *rows.shape[1:]).index_copy_(0, self.place, rows)
        return rows.reshape(self.count, self.most, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)

    def scattered(self, by_prompt: Tensor) -> Tensor:
        """The other way."""
        count, heads, rows, width = by_prompt.shape
        grid = by_prompt.view(count, heads, self.most, rows // self.most, width).transpose(1, 2).flatten(0, 1)
        return grid if self.place is None else grid.index_select(0, self.place)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query (R, heads, 1, D); key and value (R, as many or fewer heads, added, D). Keys and
    values of a group of heads are read once for all of them."""
    prompts: Prompts = attention_mask.prompts
    layer: Any = prompts.cache.layers[module.layer_idx]
    prompt_key, prompt_value = layer.prompts
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1]) * scale  # (R, key heads, group, D)
    to_prompt = prompts.scattered(torch.matmul(prompts.gathered(grouped), prompt_key.transpose(2, 3)))
    scores = torch.cat([to_prompt, torch.matmul(grouped, key.transpose(2, 3))], -1)
    if softcap is not None:
        scores = (scores / softcap).tanh_().mul_(softcap)
    weights = _softmax(scores.masked_fill_(~attention_mask, -torch.inf)).to(value.dtype)
    length = prompt_key.shape[2]
    output = torch.matmul(weights[..., length:], value)
    output += prompts.scattered(torch.matmul(prompts.gathered(weights[..., :length]), prompt_value))
    return output.flatten(1, 2)[:, None], None


def _softmax(scores: Tensor) -> Tensor:
    """In at least float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
