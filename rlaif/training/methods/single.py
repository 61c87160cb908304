"""SFT and reward models."""

from typing import Literal

from torch import Tensor

from rlaif.training.config.single import RewardConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored, row_metrics, token_metrics
from rlaif.training.objectives.reward import bradley_terry
from rlaif.training.objectives.sft import sft_loss


class SftMethod(Method):
    """SFT: every learned token of every row counts the same."""

    unit: Literal["rows", "tokens"] = "tokens"
    extras = ("entropy",)

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        losses = scored.layout.sums(sft_loss(scored.logps))
        return scored.side(losses, 0).sum() / counts.tokens, token_metrics(scored)


class RewardMethod(Method):
    """A reward model: the chosen answer's score above the rejected one's."""

    scores_answers = True

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        rewards = scored.outputs["rewards"]
        chosen, rejected = scored.side(rewards, 0), scored.side(rewards, 1)
        margin = scored.tensor([row.margin or 0.0 for row in scored.rows]) if self.config.use_margin else None
        losses = bradley_terry(chosen, rejected, margin_B=margin, centering=self.config.centering)
        difference = (chosen - rejected).detach()
        metrics = row_metrics(
            {
                "accuracy": (difference > 0).to(difference.dtype),
                "margin": difference,
                "mean_reward": (chosen + rejected).detach() / 2,
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
            }
        )
        return losses.sum() / counts.rows, metrics
