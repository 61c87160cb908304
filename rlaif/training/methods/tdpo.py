"""Token-level DPO: pairs, and the divergence from the reference at every token."""

from torch import Tensor

from rlaif.training.config.paired import TdpoConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored, pairs_of, row_metrics, token_metrics
from rlaif.training.objectives.dpo import preference_metrics
from rlaif.training.objectives.tdpo import tdpo1, tdpo2


class TdpoMethod(Method):
    """TDPO 1 or 2."""

    needs_distribution = True

    def __init__(self, config: TdpoConfig) -> None:
        self.config = config

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        config = self.config
        pairs = pairs_of(scored)
        kl = scored.layout.sums(scored.outputs["kl"])
        chosen_kl, rejected_kl = scored.side(kl, 0), scored.side(kl, 1)
        if config.version == 1:
            losses = tdpo1(pairs, chosen_kl, rejected_kl, beta=config.beta)
        else:
            losses = tdpo2(pairs, chosen_kl, rejected_kl, beta=config.beta, alpha=config.alpha)
        divergences = {"kl/chosen": chosen_kl, "kl/rejected": rejected_kl, "kl/margin": rejected_kl - chosen_kl}
        metrics = row_metrics({**preference_metrics(pairs, config.beta), **divergences}) | token_metrics(scored)
        return losses.sum() / counts.rows, metrics
