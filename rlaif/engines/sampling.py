"""Temperature and nucleus sampling in which every row has its own random stream."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

NUCLEUS_CANDIDATES = 512
"""Tokens looked at first for the nucleus; the whole vocabulary is sorted only for rows whose nucleus is larger."""


class SeededSampling(LogitsProcessor):
    """Draws each row's next token by inverse transform from one uniform number of that row's own stream.

    Leaves the drawn token as the only finite logit, so greedy decoding returns it.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._streams = [np.random.default_rng(seed) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: [rows, V] logits. Returns the same shape."""
        uniforms = torch.tensor([stream.random() for stream in self._streams], device=scores.device)
        tokens = draw(scores.float() / self._temperature, uniforms, self._top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def draw(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> torch.Tensor:
    """One token id a row: [rows] from logits [rows, V] and uniforms [rows] in [0, 1).

    The nucleus is the smallest set of most probable tokens whose probability reaches `top_p` (Holtzman et al. 2020, eq. 2-3).
    """
    probabilities = logits.softmax(-1)
    if top_p >= 1:
        cumulative = probabilities.cumsum(-1)
        target = uniforms.to(cumulative.dtype) * cumulative[:, -1]
        return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    candidates = min(NUCLEUS_CANDIDATES, logits.shape[1])
    top, ids = probabilities.topk(candidates, -1)
    if bool((top.sum(-1) < top_p).any()):
        top, ids = probabilities.sort(-1, descending=True)
    cumulative = top.cumsum(-1)
    inside = (cumulative - top) < top_p
    kept = (top * inside).cumsum(-1)
    target = uniforms.to(kept.dtype) * kept[:, -1]
    last = inside.sum(-1) - 1
    place = torch.minimum(torch.searchsorted(kept, target[:, None], right=True)[:, 0], last)
    return ids.gather(1, place[:, None])[:, 0]
