"""What every method is given and gives back.

A method turns what the model says of a micro-batch into its share of the step's loss. Shares and sums, not means: they
are divided by counts of the whole optimiser step, so micro-batches and devices change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlaif.training.batches import Layout
from rlaif.training.objectives.pairs import Pairs
from rlaif.training.rows import Row

Metrics = dict[str, tuple[Tensor, float]]
"""Name to (sum, count): a metric is the sum over the count, over all micro-batches, devices and steps since a log."""


@dataclass(frozen=True)
class Counts:
    """Of the whole optimiser step, over all devices. tokens: the learned tokens of each row's first completion."""

    rows: int
    tokens: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Counts":
        return cls(len(rows), sum(row.completions[0].n_learned for row in rows))


@dataclass(frozen=True)
class Scored:
    """P data rows and what the model says of them.

    outputs: what `score_tokens` gives, each (N,), or {"rewards": (C,)}. reference: log-probs (N,) where there is one.
    router_loss: how evenly its routers spread what it read, a scalar, where that is asked for; no method's business.
    """

    layout: Layout
    rows: tuple[Row, ...]
    outputs: dict[str, Tensor]
    reference: Tensor | None = None
    router_loss: Tensor | None = None

    @property
    def logps(self) -> Tensor:
        return self.outputs["logps"]

    def side(self, values_C: Tensor, side: int) -> Tensor:
        """Of each data row, the value of one of its completions, shape (P,)."""
        return values_C[self.layout.members[:, side]]

    def tensor(self, values: Sequence[float | bool]) -> Tensor:
        """One number per data row, like the log-probs."""
        like = next(iter(self.outputs.values()))
        return torch.tensor([float(value) for value in values], dtype=like.dtype, device=like.device)


class Method:
    """A method with its objective. Subclasses give `loss`, and say with these what they need."""

    unit: Literal["rows", "tokens"] = "rows"
    """What the logged loss is weighted by."""
    couples = False
    """Whether the loss of one row depends on the others of its step."""
    extras: tuple[str, ...] = ()
    """What to ask `score_tokens` for."""
    needs_distribution = False
    """Whether the reference's whole distribution is needed at every token."""
    scores_answers = False
    """Whether the model is a reward model."""

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the step's loss (scalar, with gradient), and its metrics."""
        raise NotImplementedError

    def side_rows(self, rows: Sequence[Row], step: int) -> list[Row]:
        """Rows whose log-probs, without gradient, are needed before the step."""
        return []

    def take_side(self, logratio_sum: float, count: float) -> None:
        """Told the sum of the log-ratios of the side rows' completions over all devices, and their count."""

    def observe(self, scored: Scored) -> None:
        """Called once before each training step of a method that couples, with the rows of all devices."""

    def means(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics that follow from the means of the others."""
        return metrics

    def state(self) -> dict[str, Any]:
        """What a checkpoint must carry, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""


def pairs_of(scored: Scored, token_weights: Tensor | None = None, **settings: Any) -> Pairs:
    """The chosen (first) and rejected completions of each row as Pairs. token_weights: (N,), of each token's log-prob."""
    layout = scored.layout
    weights = token_weights if token_weights is not None else 1.0
    policy = layout.sums(scored.logps * weights)
    reference = layout.sums(scored.reference * weights) if scored.reference is not None else torch.zeros_like(policy)
    lengths = layout.lengths().to(policy.dtype)
    return Pairs(
        chosen=scored.side(policy, 0),
        rejected=scored.side(policy, 1),
        reference_chosen=scored.side(reference, 0),
        reference_rejected=scored.side(reference, 1),
        chosen_tokens=scored.side(lengths, 0),
        rejected_tokens=scored.side(lengths, 1),
        **settings,
    )


def chosen_nll(scored: Scored) -> Tensor:
    """The negative log-likelihood of each row's first completion, shape (P,)."""
    return -scored.side(scored.layout.sums(scored.logps), 0)


def row_metrics(values: dict[str, Tensor]) -> Metrics:
    """Metrics that are means over data rows, from values of shape (P,)."""
    return {name: (value.detach().sum(), float(len(value))) for name, value in values.items()}


def token_metrics(scored: Scored) -> Metrics:
    """How often the learned token is the likeliest one, and the entropy where it was asked for."""
    outputs = {"correct": "mean_token_accuracy", "entropy": "entropy"}
    return {
        metric: (scored.outputs[name].sum(), float(len(scored.outputs[name])))
        for name, metric in outputs.items()
        if name in scored.outputs
    }
