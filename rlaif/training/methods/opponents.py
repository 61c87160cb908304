"""Methods that answer against an opponent: XPO and Nash-MD."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from rlaif.training.config.fresh_pairs import NashMdConfig, XpoConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored, row_metrics, token_metrics
from rlaif.training.methods.paired import DpoMethod
from rlaif.training.objectives.opponents import exploration, nash_md

if TYPE_CHECKING:
    from rlaif.training.online.learning import SampledRow


class XpoMethod(DpoMethod):
    """DPO, and the log-prob of the reference's response."""

    config: XpoConfig

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(scored, counts)
        rows = cast("Sequence[SampledRow]", scored.rows)
        logps_C = scored.layout.sums(scored.logps)
        theirs_P = torch.where(
            scored.tensor([row.opponent == 0 for row in rows]) > 0, scored.side(logps_C, 0), scored.side(logps_C, 1)
        )
        more_P = exploration(theirs_P, alpha=self.config.alpha)
        wins = scored.tensor([row.opponent == 1 for row in rows])
        shown = row_metrics({"wins": wins, "logps/reference_response": theirs_P.detach()})
        return loss + more_P.sum() / counts.rows, {**metrics, **shown}


class NashMdMethod(Method):
    """The log-prob of each response by how likely it is preferred."""

    extras = ("entropy",)

    def __init__(self, config: NashMdConfig) -> None:
        self.config = config

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        assert scored.reference is not None
        rows = cast("Sequence[SampledRow]", scored.rows)
        layout = scored.layout
        policy_P, reference_P = (scored.side(layout.sums(values), 0) for values in (scored.logps, scored.reference))
        preference_P = scored.tensor([row.preference for row in rows])
        losses_P = nash_md(policy_P, reference_P, preference_P, beta=self.config.beta)
        tokens = float(Counts.of(scored.rows).tokens)
        metrics = row_metrics({"preference": preference_P}) | token_metrics(scored)
        metrics["kl"] = ((policy_P - reference_P).detach().double().sum(), tokens)
        return losses_P.sum() / counts.rows, metrics
