"""Attention over prompt trees on CUDA: flex attention (arXiv 2412.05496), whose block masks say what is never computed.

On the CPU the tests compare torch's unfused version and its C++ kernels with dense masks, on a GPU its CUDA kernels. A run
compares its first log-probs with those of ordinary attention, and goes back through two micro-batches, before it trains with
them (forward.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from rlaif.training.batches import PADDING, Batch

NAME = "rlaif_flex"
"""Under which transformers knows this attention."""
BLOCK = 128
"""Positions per side of a block."""
LARGEST = torch.iinfo(torch.int32).max
SMALLEST_HEAD = 16
"""Numbers per attention head that its CUDA kernels take at least."""


def takes_flex_attention(model: Any) -> bool:
    """Whether flex attention is at hand and transformers uses it for models of this kind."""
    from transformers.utils import is_torch_flex_attn_available

    return bool(model._supports_flex_attn and is_torch_flex_attn_available())


def without_kernels(config: Any, dtype: torch.dtype) -> str | None:
    """Why there are no CUDA kernels for a model, or None if there are: to find out by compiling takes torch 10 s."""
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if size < SMALLEST_HEAD:
        return f"it takes no attention heads of less than {SMALLEST_HEAD} numbers, and these have {size}"
    return "it does not compute in float64" if dtype == torch.float64 else None


def is_soft_capped(config: Any) -> bool:
    """Whether attention scores are capped, as in Gemma 2; transformers' SDPA leaves that out."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def use_flex_attention(model: Any) -> None:
    """Makes a model attend this way wherever it is given a `block_mask`, and with SDPA where it is not (with flex
    attention too if its scores are capped)."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _ordinary_mask)
    model.set_attn_implementation(NAME)


def _ordinary_mask(*args: Any, config: Any, **kwargs: Any) -> Any:
    """The mask that transformers makes where none is given ready-made."""
    from transformers.masking_utils import flex_attention_mask, sdpa_mask

    return (flex_attention_mask if is_soft_capped(config) else sdpa_mask)(*args, config=config, **kwargs)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    """Attention as transformers calls it: query (R, heads, L, D), key and value with as many or fewer heads."""
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # which casts for SDPA, but not for flex attention
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)


def block_mask(batch: Batch, window: int | None) -> BlockMask:
    """What `tree_mask` shows of a micro-batch, within `window` tokens along the path: as a function of two positions, and
    as the lists of blocks in which anything, and in which everything is seen.

    The blocks come from bounds on each block's positions and not from `create_block_mask`, which makes the whole (R, L, L)
    mask first unless it is compiled: a mask of 65,536 positions would take 4 GiB.
    """
    length = batch.input_ids.shape[1]
    tree, branch, position = (item.to(torch.int32) for item in (batch.tree, batch.branch, batch.position_ids))
    # A tensor, so that kernels are compiled once for layers with and without a window.
    reach = torch.full((), LARGEST if window is None else window, dtype=torch.int32, device=tree.device)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_tree = tree[row, query] == tree[row, key]
        on_path = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
        near = position[row, query] - position[row, key] < reach
        return same_tree & on_path & near & (query >= key)

    partial, full = blocks(batch, window)
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def blocks(batch: Batch, window: int | None, size: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Where queries (third axis) see some (first result) or all (second) of the keys (fourth axis), by blocks of `size`
    positions, both of shape (R, 1, B, B) and never both true.

    Exact but for the window, where blocks may be called partly seen of which nothing, or everything is. Relies on the
    order of a row: trees one after the other, in each the prompt, then branch after branch, padding last.
    """
    # Padding counts as one last tree, as in tree_mask. The last block is filled up with copies of the last position.
    tree = _cut(batch.tree.masked_fill(batch.tree == PADDING, LARGEST), size)
    branch, position = _cut(batch.branch, size), _cut(batch.position_ids, size)
    first_tree, last_tree, first_branch, last_branch = tree[..., 0], tree[..., -1], branch[..., 0], branch[..., -1]
    # A key block before a query block shares no tree with it but its own last one, the query block's first.
    meets = _pairs(first_tree) == _pairs(last_tree, keys=True)
    on_prompt = ((tree == last_tree[..., None]) & (branch == 0)).any(-1)
    seen = meets & (_pairs(on_prompt, keys=True) | (_pairs(first_branch) == _pairs(last_branch, keys=True)))
    # All of it is seen where both are of that tree alone, and its keys are of one path that all queries are on.
    one_tree = first_tree == last_tree
    one_path = one_tree & ((branch == 0) | (branch == last_branch[..., None])).all(-1)
    end = _pairs(last_branch, keys=True)
    on_path = (end == 0) | ((_pairs(first_branch) == end) & (_pairs(last_branch) == end))
    full = meets & _pairs(one_tree) & _pairs(one_path, keys=True) & on_path
    if window is not None:
        earliest, latest = position.amin(-1), position.amax(-1)
        seen &= _pairs(earliest) - _pairs(latest, keys=True) < window
        full &= _pairs(latest) - _pairs(earliest, keys=True) < window
    if batch.input_ids.shape[1] % size:
        full[:, -1] = False  # not all of its queries exist
    count = tree.shape[1]
    before = torch.ones(count, count, dtype=torch.bool, device=tree.device).tril(-1)
    full &= before
    on_diagonal = torch.eye(count, dtype=torch.bool, device=tree.device)
    return (((seen & before) | on_diagonal) & ~full)[:, None], full[:, None]


def _cut(values_RL: Tensor, size: int) -> Tensor:
    """Values in blocks, shape (R, B, size), the last one filled up with the last value."""
    missing = -values_RL.shape[1] % size
    filled = torch.cat([values_RL, values_RL[:, -1:].expand(-1, missing)], 1)
    return filled.reshape(len(filled), -1, size)


def _pairs(values_RB: Tensor, keys: bool = False) -> Tensor:
    """A value per block, to be compared for all pairs (R, queries, keys)."""
    return values_RB[:, None] if keys else values_RB[:, :, None]


def _listed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks are true for each query block (R, 1, B), and which, these first (R, 1, B, B)."""
    order = torch.argsort(mask.to(torch.int32), dim=-1, descending=True, stable=True)
    return mask.sum(-1, dtype=torch.int32), order.to(torch.int32)
