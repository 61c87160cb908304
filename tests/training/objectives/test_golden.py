"""The objectives against numbers computed by published implementations, on the inputs in golden_objectives.json.

Rows 0..3 are chosen, 4..7 rejected. The implementations report means over the batch; TRL's `sft` is one over tokens.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from catalog import GOLDEN, Loss, with_divergence
from torch import Tensor

from rlaif.training.objectives import anchored, aot, dpo, ipo, kto, orpo, reward, simpo, tdpo
from rlaif.training.objectives.pairs import Pairs
from rlaif.training.objectives.sft import sft_loss
from rlaif.training.objectives.weighting import ld_token_weights

TRL, MITCHELL, OPENRLHF, TDPO, MINIMIND = (
    GOLDEN[name] for name in ("trl_1.16.0", "eric-mitchell/dpo@f8b8c0f", "OpenRLHF@3c3be62", "TDPO@2a736ec", "minimind")
)
LENGTHS = torch.tensor(GOLDEN["inputs"]["lens"], dtype=torch.float64)


def log_probs(key: str) -> Tensor:
    """(8, 6), 0 at padding."""
    return torch.tensor(GOLDEN["inputs"][key], dtype=torch.float64)


def golden_pairs(weights: Tensor | float = 1.0) -> Pairs:
    policy, reference = ((log_probs(key) * weights).sum(1) for key in ("policy_logps", "ref_logps"))
    return Pairs(*policy.chunk(2), *reference.chunk(2), *LENGTHS.chunk(2))


def without_reference(pairs: Pairs) -> Pairs:
    return replace(
        pairs, reference_chosen=torch.zeros_like(pairs.chosen), reference_rejected=torch.zeros_like(pairs.chosen)
    )


def sft(pairs: Pairs) -> Tensor:
    """The mean over the tokens of all chosen completions."""
    tokens = log_probs("policy_logps")[:4]
    return sft_loss(tokens[torch.arange(6) < LENGTHS[:4, None]]).mean()


def length_desensitised(pairs: Pairs) -> Tensor:
    shorter = torch.minimum(pairs.chosen_tokens, pairs.rejected_tokens).repeat(2)[:, None]
    return dpo.sigmoid(golden_pairs(ld_token_weights(torch.arange(6).expand(8, 6), shorter, 0.5)), beta=0.1)


sigmoid = partial(dpo.sigmoid, beta=0.1)
bco_pair = partial(anchored.bco_pair, beta=0.1)

GOLDEN_LOSSES: list[tuple[dict[str, float], str, Loss]] = [
    (TRL, "dpo/sigmoid beta=.1", sigmoid),
    (TRL, "dpo/hinge beta=.1", partial(dpo.hinge, beta=0.1)),
    (TRL, "dpo/ipo beta=.1", partial(ipo.ipo, beta=0.1)),
    (TRL, "dpo/nca_pair beta=.1", partial(anchored.nca_pair, beta=0.1)),
    (TRL, "dpo/bco_pair beta=.1", bco_pair),
    (TRL, "dpo/sppo_hard beta=.1", partial(ipo.sppo_hard, beta=0.1)),
    (TRL, "dpo/apo_zero beta=.1", partial(anchored.apo_zero, beta=0.1)),
    (TRL, "dpo/apo_down beta=.1", partial(anchored.apo_down, beta=0.1)),
    (TRL, "dpo/discopop beta=.1", partial(dpo.discopop, beta=0.1, tau=0.05)),
    (TRL, "dpo/sft beta=.1", sft),
    (TRL, "dpo/sigmoid_norm beta=.1", partial(dpo.sigmoid_norm, beta=0.1)),
    (TRL, "dpo/aot beta=.1", partial(aot.aot, beta=0.1)),
    (TRL, "dpo/aot_unpaired beta=.1", partial(aot.aot_unpaired, beta=0.1)),
    (TRL, "dpo/aot ls=.1", partial(aot.aot, beta=0.1, label_smoothing=0.1)),
    (TRL, "dpo/robust beta=.1 eps=.1", partial(dpo.robust, beta=0.1, label_smoothing=0.1)),
    (TRL, "dpo/exo_pair beta=.1 eps=1e-3", partial(dpo.exo_pair, beta=0.1, label_smoothing=1e-3)),
    (TRL, "dpo/sigmoid f=forward_kl (alpha .5)", with_divergence("forward_kl")),
    (TRL, "dpo/sigmoid f=js_divergence (alpha .5)", with_divergence("js_divergence")),
    (TRL, "dpo/sigmoid f=alpha_divergence (alpha .5)", with_divergence("alpha_divergence", 0.5)),
    (TRL, "dpo/sigmoid ld_alpha=.5", length_desensitised),
    (TRL, "dpo/mpo [sigmoid .8,bco_pair .2,sft 1]", lambda p: 0.8 * sigmoid(p) + 0.2 * bco_pair(p) + sft(p)),
    (TRL, "dpo/rpo [sigmoid 1,sft 1]", lambda p: sigmoid(p) + sft(p)),
    (TRL, "simpo beta=2 gamma=.5 (cpo_alpha=0)", partial(simpo.simpo, beta=2.0, gamma=0.5)),
    (TRL, "cpo sigmoid beta=.1 (nll not included)", partial(simpo.cpo, beta=0.1)),
    (TRL, "cpo hinge beta=.1", partial(simpo.cpo_hinge, beta=0.1)),
    (TRL, "orpo -mean(beta*logsigmoid(log_odds)) beta=.1 (nll not included)", partial(orpo.orpo, beta=0.1)),
    (MITCHELL, "dpo beta=.1", sigmoid),
    (MITCHELL, "cdpo eps=.1", partial(dpo.sigmoid, beta=0.1, label_smoothing=0.1)),
    (MITCHELL, "ipo (SUM logps) beta=.1", partial(ipo.ipo, beta=0.1, average=False)),
    (MITCHELL, "reference_free", lambda pairs: sigmoid(without_reference(pairs))),
    (MINIMIND, "train_dpo.dpo_loss beta=.15", partial(dpo.sigmoid, beta=0.15)),
]


@pytest.mark.parametrize(("source", "key", "loss"), GOLDEN_LOSSES, ids=[key for _, key, _ in GOLDEN_LOSSES])
def test_paired_losses_are_those_of_published_implementations(source: dict[str, float], key: str, loss: Loss) -> None:
    assert loss(golden_pairs()).mean().item() == pytest.approx(source[key], rel=1e-5)


@pytest.mark.parametrize(
    ("key", "desirable_weight"),
    [
        ("kto beta=.1 (KL logps = rows rolled by +1)", 1.0),
        ("kto dw=1.33 uw=1.0 beta=.1 (KL logps = rows rolled by +1)", 1.33),
    ],
)
def test_kto_is_that_of_trl(key: str, desirable_weight: float) -> None:
    """The KL completions are the batch itself, rolled by one row: their mean log-ratio is that of the batch."""
    logratio, desirable = unpaired()
    z = logratio.roll(1).mean().clamp(min=0)
    losses = kto.kto(logratio, desirable, z, beta=0.1, desirable_weight=desirable_weight)
    assert z.item() == pytest.approx(TRL[key]["kl"], rel=1e-5)
    assert losses.mean().item() == pytest.approx(TRL[key]["loss"], rel=1e-5)


def test_apo_zero_unpaired_is_that_of_trl() -> None:
    """This loss has no KL: the rolled rows of the golden number are the completions themselves, under labels that
    stayed where they were (0.52512; 0.48769 would be that of rows that were not rolled)."""
    logratio, desirable = unpaired()
    golden = TRL["apo_zero_unpaired beta=.1 (KL logps = rows rolled by +1)"]["loss"]
    losses = kto.apo_zero_unpaired(logratio.roll(1), desirable, beta=0.1)
    assert losses.mean().item() == pytest.approx(golden, rel=1e-5)


def unpaired() -> tuple[Tensor, Tensor]:
    logratio = (log_probs("policy_logps") - log_probs("ref_logps")).sum(1)
    return logratio, torch.tensor(GOLDEN["inputs"]["kto_labels"]).bool()


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("tdpo1 beta=.1", partial(tdpo.tdpo1, beta=0.1)),
        ("tdpo2 beta=.1 alpha=.5", partial(tdpo.tdpo2, beta=0.1, alpha=0.5)),
    ],
)
def test_tdpo_is_that_of_its_authors(key: str, loss: Callable[..., Tensor]) -> None:
    """From full logits, (8, 7, 7): position t predicts label t + 1, and -100 is no completion token."""
    inputs = GOLDEN["tdpo_inputs"]
    policy, reference = (
        torch.tensor(inputs[name], dtype=torch.float64)[:, :-1].log_softmax(-1) for name in ("logits", "ref_logits")
    )
    labels = torch.tensor(inputs["labels"])[:, 1:]
    mask = labels != -100
    picked = labels.clamp(min=0)[..., None]
    sums, reference_sums = ((logps.gather(-1, picked)[..., 0] * mask).sum(1) for logps in (policy, reference))
    kl = ((reference.exp() * (reference - policy)).sum(-1) * mask).sum(1)
    pairs = Pairs(*sums.chunk(2), *reference_sums.chunk(2), *mask.sum(1).double().chunk(2))
    assert loss(pairs, *kl.chunk(2)).mean().item() == pytest.approx(TDPO[key], rel=1e-5)


def test_the_reward_model_s_loss_is_that_of_openrlhf() -> None:
    chosen, rejected = torch.tensor(GOLDEN["inputs"]["scores"], dtype=torch.float64).chunk(2)
    plain, margin = OPENRLHF["rm pairwise / margin .5"]
    assert reward.bradley_terry(chosen, rejected).mean().item() == pytest.approx(plain, rel=1e-5)
    losses = reward.bradley_terry(chosen, rejected, margin_B=torch.full_like(chosen, 0.5))
    assert losses.mean().item() == pytest.approx(margin, rel=1e-5)
