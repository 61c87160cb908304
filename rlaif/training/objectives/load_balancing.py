"""The load-balancing loss of mixture-of-experts models (Fedus et al. 2021, Switch Transformer, arXiv 2101.03961)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def load_balancing(logits: Sequence[Tensor], is_read_N: Tensor, top_k: int) -> Tensor:
    """How unevenly the routers spread positions over E experts, a scalar, in at least float32.

    logits: of each of L layers, the router's (N, E). is_read_N: True (or 1) where a position is no padding.
    top_k: the experts that each position is sent to.

        loss = E sum_i f_i P_i           (equation 4; alpha, its weight, is the caller's)
        f_i = mean of [i is among a position's top_k]     (equation 5)
        P_i = mean of softmax(logits)_i                   (equation 6)

    The means are over the positions of all layers together, as in transformers. f is a count and has no gradient: it
    says how strongly each P_i is pushed down. Known case: if all experts are equally likely, P_i = 1 / E, and the loss
    is sum_i f_i = top_k, its least value where f follows P (the paper's has top_k = 1); everything sent to the same
    top_k experts with certainty gives E.
    The loss is a product of two means, so that of a batch is not the mean of its parts' losses.
    """
    n_experts = logits[0].shape[-1]
    kept = is_read_N.to(torch.promote_types(logits[0].dtype, torch.float32))
    sent, probability = kept.new_zeros(n_experts), kept.new_zeros(n_experts)
    for layer in logits:
        p = layer.to(kept.dtype).softmax(-1)
        probability = probability + kept @ p
        chosen = p.detach().topk(top_k, dim=-1).indices
        sent.index_add_(0, chosen.flatten(), kept.repeat_interleave(top_k))
    count = len(logits) * kept.sum()
    return n_experts * (sent / count) @ (probability / count)
