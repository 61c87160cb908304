"""What a paired objective sees: the log-probs of a batch of preference pairs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """B pairs. Every tensor has shape (B,); log-probs are sums over the tokens of a completion, at most 0.

    With l the log-prob of a completion under the policy and l_ref under the reference, r = l - l_ref is its log-ratio;
    w and l as indices mean chosen (won) and rejected (lost).
    """

    chosen: Tensor
    """Log-probs of the chosen completions under the policy."""
    rejected: Tensor
    """Log-probs of the rejected completions under the policy."""
    reference_chosen: Tensor
    """Log-probs of the chosen completions under the reference; zeros where there is no reference."""
    reference_rejected: Tensor
    """Log-probs of the rejected completions under the reference; zeros where there is no reference."""
    chosen_tokens: Tensor
    """How many tokens each chosen completion has: floats, at least 1."""
    rejected_tokens: Tensor
    """How many tokens each rejected completion has: floats, at least 1."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the log-ratios of whole completions (see divergence.py); None leaves them as they are."""

    @property
    def chosen_logratio(self) -> Tensor:
        """r_w, transformed."""
        return self._transformed(self.chosen - self.reference_chosen)

    @property
    def rejected_logratio(self) -> Tensor:
        """r_l, transformed."""
        return self._transformed(self.rejected - self.reference_rejected)

    @property
    def margin(self) -> Tensor:
        """D = r_w - r_l. 0 where the policy is the reference; swapping chosen and rejected negates it."""
        return self.chosen_logratio - self.rejected_logratio

    @property
    def chosen_mean_logratio(self) -> Tensor:
        """r_w per token, never transformed."""
        return (self.chosen - self.reference_chosen) / self.chosen_tokens

    @property
    def rejected_mean_logratio(self) -> Tensor:
        """r_l per token, never transformed."""
        return (self.rejected - self.reference_rejected) / self.rejected_tokens

    @property
    def mean_margin(self) -> Tensor:
        """The difference of the log-ratios per token."""
        return self.chosen_mean_logratio - self.rejected_mean_logratio

    @property
    def chosen_mean(self) -> Tensor:
        """Log-prob per token of the chosen completion under the policy."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """Log-prob per token of the rejected completion under the policy."""
        return self.rejected / self.rejected_tokens

    @property
    def reference_chosen_mean(self) -> Tensor:
        """Log-prob per token of the chosen completion under the reference."""
        return self.reference_chosen / self.chosen_tokens

    @property
    def reference_rejected_mean(self) -> Tensor:
        """Log-prob per token of the rejected completion under the reference."""
        return self.reference_rejected / self.rejected_tokens

    def _transformed(self, logratio: Tensor) -> Tensor:
        return logratio if self.transform is None else self.transform(logratio)
