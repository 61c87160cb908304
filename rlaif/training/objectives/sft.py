"""Supervised fine-tuning: the negative log-likelihood of the completion's tokens."""

from torch import Tensor


def sft_loss(logps: Tensor) -> Tensor:
    """The loss of each token, shape (N,), from the log-probs of the completion tokens, shape (N,).

    loss_t = -log p(y_t | x, y_<t). Averaged over the tokens of the whole optimiser step (not over rows), so that every
    token weighs the same. Known case: a uniform policy over V tokens has loss ln V at every token.
    """
    return -logps
