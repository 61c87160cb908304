"""Methods over single answers labelled desirable or undesirable: KTO, BCO and unpaired APO."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.training.config.unpaired import ApoUnpairedConfig, BcoConfig, KtoConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored, token_metrics
from rlaif.training.objectives import kto
from rlaif.training.objectives.weighting import confidence_weight
from rlaif.training.rows import Row


class UnpairedMethod(Method):
    """What they share: log-ratios, labels and metrics by class."""

    def __init__(self, config: KtoConfig | BcoConfig | ApoUnpairedConfig) -> None:
        self.beta = config.beta
        self.weights = {
            "desirable_weight": config.desirable_weight, "undesirable_weight": config.undesirable_weight,
        }  # fmt: skip

    def losses(self, logratio_P: Tensor, desirable_P: Tensor) -> Tensor:
        """The loss of each answer, shape (P,)."""
        raise NotImplementedError

    def row_weights(self, scored: Scored) -> Tensor | float:
        """The weight of each answer beside that of its class."""
        return 1.0

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        logratio, desirable = self.logratios(scored)
        losses = self.losses(logratio, desirable) * self.row_weights(scored)
        metrics = token_metrics(scored)
        policy = scored.side(scored.layout.sums(scored.logps.detach()), 0)
        for name, mask in (("chosen", desirable), ("rejected", ~desirable)):
            count = float(mask.sum())
            metrics[f"rewards/{name}"] = (self.beta * logratio.detach()[mask].sum(), count)
            metrics[f"logps/{name}"] = (policy[mask].sum(), count)
        return losses.sum() / counts.rows, metrics

    def logratios(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """l - l_ref of each answer, and whether it is desirable, both (P,)."""
        assert scored.reference is not None
        logratio = scored.side(scored.layout.sums(scored.logps - scored.reference), 0)
        return logratio, scored.tensor([bool(row.label) for row in scored.rows]) > 0

    def means(self, metrics: dict[str, float]) -> dict[str, float]:
        if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
            margins = metrics["rewards/chosen"] - metrics["rewards/rejected"]
            return {**metrics, "rewards/margins": margins}
        return metrics


class KtoMethod(UnpairedMethod):
    """KTO: answers against a baseline z, the policy's divergence from the reference on mismatched answers.

    z is computed once a step, without gradient, over the rows of all devices.
    """

    def __init__(self, config: KtoConfig) -> None:
        super().__init__(config)
        self.use_confidence, self.seed, self.max_length = config.use_confidence, config.seed, config.max_length
        self.z = 0.0

    def side_rows(self, rows: Sequence[Row], step: int) -> list[Row]:
        order = random.Random(f"{self.seed}:{step}")
        mismatched = [
            Row(f"{row.id}/kl", row.prompt, (other.completions[0],)) for row, other in rotated(rows, order)
        ]  # fmt: skip
        return [row for row in mismatched if len(row.prompt) + len(row.completions[0]) <= self.max_length]

    def take_side(self, logratio_sum: float, count: float) -> None:
        self.z = max(0.0, logratio_sum / count) if count else 0.0

    def losses(self, logratio_P: Tensor, desirable_P: Tensor) -> Tensor:
        return kto.kto(logratio_P, desirable_P, logratio_P.new_tensor(self.z), beta=self.beta, **self.weights)

    def row_weights(self, scored: Scored) -> Tensor | float:
        if not self.use_confidence:
            return 1.0
        return confidence_weight(scored.tensor([row.confidence or 0.0 for row in scored.rows]))

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(scored, counts)
        return loss, {**metrics, "kl": (torch.tensor(self.z) * len(scored.rows), float(len(scored.rows)))}


def rotated(rows: Sequence[Row], order: random.Random) -> list[tuple[Row, Row]]:
    """Each row with another one of a different prompt: the rows, in random order but grouped by prompt, and the same
    rotated by a random offset that leads out of every group.

    Where one prompt has more than half of the rows, the rows of the others serve it in turn. With one prompt only
    there is no pair.
    """
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in order.sample(list(rows), len(rows)):
        groups.setdefault(row.prompt, []).append(row)
    if len(groups) < 2:
        return []
    grouped = sorted(groups.values(), key=len, reverse=True)
    largest = grouped[0]
    others = [row for group in grouped[1:] for row in group]
    if len(largest) > len(others):
        pairs = [(row, others[number % len(others)]) for number, row in enumerate(largest)]
        return pairs + list(zip(others, largest, strict=False))
    line = largest + others
    offset = order.randint(len(largest), len(line) - len(largest))
    return list(zip(line, line[offset:] + line[:offset], strict=True))


class BcoMethod(UnpairedMethod):
    """BCO: answers against the running mean of all rewards so far."""

    couples = True

    def __init__(self, config: BcoConfig) -> None:
        super().__init__(config)
        self.delta, self.count = 0.0, 0

    def observe(self, scored: Scored) -> None:
        rewards = self.beta * self.logratios(scored)[0].detach()
        self.count += len(rewards)
        self.delta += (rewards.sum().item() - len(rewards) * self.delta) / self.count

    def losses(self, logratio_P: Tensor, desirable_P: Tensor) -> Tensor:
        return kto.bco(logratio_P, desirable_P, logratio_P.new_tensor(self.delta), beta=self.beta, **self.weights)

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(scored, counts)
        return loss, {**metrics, "delta": (torch.tensor(self.delta), 1.0)}

    def state(self) -> dict[str, Any]:
        return {"delta": self.delta, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.delta, self.count = state["delta"], state["count"]


class ApoUnpairedMethod(UnpairedMethod):
    """APO-zero of single answers."""

    def losses(self, logratio_P: Tensor, desirable_P: Tensor) -> Tensor:
        return kto.apo_zero_unpaired(logratio_P, desirable_P, beta=self.beta, **self.weights)
