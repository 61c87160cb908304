"""Methods over pairs: DPO with its list of losses, and those without a reference."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlaif.training.config.paired import AlphapoConfig, CpoConfig, DpoConfig, OrpoConfig, RainbowConfig, SimpoConfig
from rlaif.training.config.terms import COUPLED, AnyTerm, DiscopopTerm, DpopTerm, IpoTerm, RdpoTerm
from rlaif.training.methods.base import (
    Counts,
    Method,
    Metrics,
    Scored,
    chosen_nll,
    pairs_of,
    row_metrics,
    token_metrics,
)
from rlaif.training.objectives import anchored, aot, divergence, dpo, ipo, orpo, rainbow, simpo, weighting
from rlaif.training.objectives.pairs import Pairs

PairLoss = Callable[[Pairs], Tensor]
"""The loss of each pair, shape (B,)."""


def term_loss(term: AnyTerm, pairs: Pairs, beta: float, smoothing: float, flips: Tensor | None) -> Tensor:
    """The loss of each pair by one term of DPO's list. flips: each pair's own probability of a wrong label, if used."""
    own = flips if flips is not None else smoothing
    if isinstance(term, IpoTerm):
        return ipo.ipo(pairs, beta=beta, average=term.average, label_smoothing=own)
    if isinstance(term, DiscopopTerm):
        return dpo.discopop(pairs, beta=beta, tau=term.tau)
    if isinstance(term, RdpoTerm):
        return dpo.rdpo(pairs, beta=beta, alpha=term.alpha)
    if isinstance(term, DpopTerm):
        return dpo.dpop(pairs, beta=beta, penalty=term.penalty)
    losses: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: dpo.sigmoid(pairs, beta=beta, label_smoothing=own),
        "robust": lambda: dpo.robust(pairs, beta=beta, label_smoothing=own),
        "hinge": lambda: dpo.hinge(pairs, beta=beta),
        "exo_pair": lambda: dpo.exo_pair(pairs, beta=beta, label_smoothing=smoothing),
        "nca_pair": lambda: anchored.nca_pair(pairs, beta=beta),
        "bco_pair": lambda: anchored.bco_pair(pairs, beta=beta),
        "sppo_hard": lambda: ipo.sppo_hard(pairs, beta=beta),
        "aot": lambda: aot.aot(pairs, beta=beta, label_smoothing=smoothing),
        "aot_unpaired": lambda: aot.aot_unpaired(pairs, beta=beta, label_smoothing=smoothing),
        "apo_zero": lambda: anchored.apo_zero(pairs, beta=beta),
        "apo_down": lambda: anchored.apo_down(pairs, beta=beta),
        "sigmoid_norm": lambda: dpo.sigmoid_norm(pairs, beta=beta),
    }
    return losses[term.name]()


class DpoMethod(Method):
    """The weighted sum of DPO's losses."""

    def __init__(self, config: DpoConfig) -> None:
        self.config = config
        self.couples = any(term.name in COUPLED for term in config.loss)
        self.extras = ("collision",) if config.weighting == "wpo" else ()

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        config = self.config
        pairs = pairs_of(
            scored, self._token_weights(scored),
            transform=divergence.transform(config.divergence, config.divergence_alpha),
        )  # fmt: skip
        flips = None
        if config.use_confidence:
            flips = weighting.flip_probability(scored.tensor([row.confidence or 0.0 for row in scored.rows]))
        weights = self._pair_weights(scored)
        total = scored.logps.new_zeros(())
        metrics = row_metrics(dpo.preference_metrics(pairs_of(scored), config.beta)) | token_metrics(scored)
        for term in config.loss:
            if term.name == "sft":
                nll = chosen_nll(scored).sum()
                total = total + term.weight * nll / counts.tokens
                metrics["nll_loss"] = (nll.detach(), float(Counts.of(scored.rows).tokens))
            else:
                losses = term_loss(term, pairs, config.beta, config.label_smoothing, flips)
                total = total + term.weight * (losses * weights).sum() / counts.rows
        if flips is not None:
            metrics["label_flip"] = (flips.sum(), float(len(flips)))
        return total, metrics

    def _token_weights(self, scored: Scored) -> Tensor | None:
        """LD-DPO: of the tokens beyond the length of the pair's shorter answer."""
        if self.config.ld_alpha is None:
            return None
        layout = scored.layout
        lengths = layout.lengths()
        shorter = lengths.clone()
        for chosen, rejected in layout.members.tolist():
            shorter[chosen] = shorter[rejected] = min(lengths[chosen], lengths[rejected])
        return weighting.ld_token_weights(layout.position, shorter[layout.completion], self.config.ld_alpha)

    def _pair_weights(self, scored: Scored) -> Tensor | float:
        """WPO: how likely the policy is to write both answers, per token."""
        if self.config.weighting == "none":
            return 1.0
        lengths = scored.layout.lengths().to(scored.logps.dtype)
        means = scored.layout.sums((scored.logps - scored.outputs["collision"]).detach()) / lengths
        return weighting.wpo_weight(scored.side(means, 0), scored.side(means, 1))


class PairMethod(Method):
    """One loss over pairs and, with a weight, the likelihood of the chosen answer."""

    def __init__(self, pair_loss: PairLoss, beta: float, sft_weight: float = 0.0, *, means: bool = False) -> None:
        self.pair_loss, self.beta, self.sft_weight, self.by_means = pair_loss, beta, sft_weight, means

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        pairs = pairs_of(scored)
        total = self.pair_loss(pairs).sum() / counts.rows
        shown = dpo.preference_metrics(_per_token(pairs) if self.by_means else pairs, self.beta)
        metrics = row_metrics({**shown, **self.more(pairs)}) | token_metrics(scored)
        if self.sft_weight:
            nll = chosen_nll(scored).sum()
            total = total + self.sft_weight * nll / counts.tokens
            metrics["nll_loss"] = (nll.detach(), float(Counts.of(scored.rows).tokens))
        return total, metrics

    def more(self, pairs: Pairs) -> dict[str, Tensor]:
        """Metrics of the method's own, each (P,)."""
        return {}


class OrpoMethod(PairMethod):
    """ORPO: the odds ratio and the chosen answer's likelihood."""

    def __init__(self, config: OrpoConfig) -> None:
        super().__init__(lambda pairs: orpo.orpo(pairs, beta=config.beta), config.beta, 1.0, means=True)

    def more(self, pairs: Pairs) -> dict[str, Tensor]:
        odds = orpo.log_odds(pairs).detach()
        return {"log_odds_chosen": odds, "log_odds_ratio": torch.nn.functional.logsigmoid(odds)}


def _per_token(pairs: Pairs) -> Pairs:
    """The pairs with means in place of sums: the rewards of methods that average over tokens."""
    return Pairs(
        chosen=pairs.chosen_mean,
        rejected=pairs.rejected_mean,
        reference_chosen=pairs.reference_chosen_mean,
        reference_rejected=pairs.reference_rejected_mean,
        chosen_tokens=torch.ones_like(pairs.chosen_tokens),
        rejected_tokens=torch.ones_like(pairs.rejected_tokens),
    )


def simpo_method(config: SimpoConfig) -> PairMethod:
    """SimPO."""
    gamma = config.gamma_beta_ratio * config.beta
    return PairMethod(
        lambda pairs: simpo.simpo(pairs, beta=config.beta, gamma=gamma, label_smoothing=config.label_smoothing),
        config.beta, config.sft_weight, means=True,
    )  # fmt: skip


def alphapo_method(config: AlphapoConfig) -> PairMethod:
    """AlphaPO."""
    gamma = config.gamma_beta_ratio * config.beta
    return PairMethod(
        lambda pairs: simpo.alphapo(pairs, beta=config.beta, gamma=gamma, alpha=config.alpha),
        config.beta, config.sft_weight, means=True,
    )  # fmt: skip


def cpo_method(config: CpoConfig) -> PairMethod:
    """CPO."""

    def pair_loss(pairs: Pairs) -> Tensor:
        if config.loss == "hinge":
            return simpo.cpo_hinge(pairs, beta=config.beta)
        return simpo.cpo(pairs, beta=config.beta, label_smoothing=config.label_smoothing)

    return PairMethod(pair_loss, config.beta, config.sft_weight)


def rainbow_method(config: RainbowConfig) -> PairMethod:
    """RainbowPO."""

    def pair_loss(pairs: Pairs) -> Tensor:
        return rainbow.rainbowpo(
            pairs, beta=config.beta, alpha=config.alpha, home_advantage=config.home_advantage
        )  # fmt: skip

    return PairMethod(pair_loss, config.beta, means=True)
