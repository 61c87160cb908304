"""The objectives of the online methods against numbers computed by published implementations.

Inputs are eight rows of up to six tokens in golden_objectives.json, padded there and packed here. The implementations
compute in float32, so 1e-5 relative is what their numbers are good for.
"""

from typing import Any

import pytest
import torch
from catalog import GOLDEN
from packed import Tokens, loss_of, rows_of, step_of
from torch import Tensor

from rlaif.training.objectives import advantages as adv
from rlaif.training.objectives.policy_gradient import StepSize, kl_estimate, surrogate, token_weights
from rlaif.training.objectives.spo import GlobalTracker
from rlaif.training.objectives.value import value_loss

INPUTS, TRL, OPENRLHF, VERL, MINIMIND = (
    GOLDEN[name] for name in ("inputs", "trl_1.16.0", "OpenRLHF@3c3be62", "verl@1dda039", "minimind")
)
LENGTHS = tuple(INPUTS["lens"])
ROW = rows_of(LENGTHS)
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
SCORES = torch.tensor(INPUTS["scores"], dtype=torch.float64)
GROUPS = torch.tensor(INPUTS["groups"])
FIRST = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)[:-1]])


def packed(matrix: list[list[float]]) -> Tensor:
    return torch.tensor(matrix, dtype=torch.float64)[MASK]


TOKENS = Tokens(
    ROW,
    *(packed(INPUTS[name]) for name in ("policy_logps", "old_logps", "ref_logps")),
    torch.tensor(INPUTS["advantages"], dtype=torch.float64)[ROW],
    LENGTHS,
)

SURROGATES: dict[str, dict[str, Any]] = {
    "grpo/grpo {}": {"unit": "sequence"},
    "grpo/bnpo {}": {"unit": "token"},
    "grpo/dapo {'eps_hi': 0.28}": {"unit": "batch", "epsilon_high": 0.28},
    "grpo/dr_grpo {'maxlen': 16}": {"unit": "constant"},
    "grpo/cispo {'eps_hi': 5.0}": {"kind": "cispo", "unit": "batch", "cispo_cap": 5.0},
    "grpo/sapo {}": {"kind": "sapo", "unit": "sequence"},
}
GOLDEN_LOSSES = [
    *((TRL, f"{name} beta=0", settings) for name, settings in SURROGATES.items()),
    *(
        (TRL, f"{name} beta=.04 k3 bias_corr=False", {**settings, "beta": 0.04})
        for name, settings in SURROGATES.items()
    ),
    (
        TRL,
        "gspo level=sequence eps=3e-4/4e-4",
        {"unit": "sequence", "level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    ),
    (TRL, "grpo two-sided delta=2", {"unit": "sequence", "ratio_cap": 2.0}),
    (OPENRLHF, "ppo clip .2 token-mean", {"unit": "token"}),
    (OPENRLHF, "ppo clip .2 seq-mean", {"unit": "sequence"}),
    (OPENRLHF, "ppo dual_clip 3", {"unit": "token", "dual_clip": 3.0}),
]


@pytest.mark.parametrize(("source", "key", "settings"), GOLDEN_LOSSES, ids=[key for _, key, _ in GOLDEN_LOSSES])
def test_policy_losses_are_those_of_published_implementations(
    source: dict[str, float], key: str, settings: dict[str, Any]
) -> None:
    assert loss_of(TOKENS, **settings).item() == pytest.approx(source[key], rel=1e-5)


ADVANTAGES: dict[str, Tensor] = {
    "grpo adv": adv.group_normalized(SCORES, GROUPS, epsilon=1e-6),
    "dr_grpo adv (no std)": adv.group_mean_only(SCORES, GROUPS),
    "rloo adv": adv.leave_one_out(SCORES, GROUPS),
    "opo adv": adv.opo(SCORES, torch.tensor(LENGTHS), GROUPS),
    "rf++-baseline adv": adv.reinforce_pp_baseline(SCORES, GROUPS, ROW)[FIRST],
    "rf++ adv gamma=1": adv.reinforce_pp(SCORES, ROW, gamma=1.0)[FIRST],
}
"""Per-token advantages are the same at each token of a row here; the golden file has one for each row."""


@pytest.mark.parametrize("key", ADVANTAGES)
def test_advantages_are_those_of_verl(key: str) -> None:
    assert ADVANTAGES[key].tolist() == pytest.approx(VERL[key], rel=1e-5)


def test_gae_is_that_of_openrlhf_and_whitened_that_of_verl() -> None:
    advantages, returns = golden_gae()
    golden = OPENRLHF["gae gamma=1 lam=.95 (rewards on last token, values=old_values)"]
    assert advantages.tolist() == pytest.approx(packed(golden["adv"]).tolist(), rel=1e-5)
    assert returns.tolist() == pytest.approx(packed(golden["returns"]).tolist(), rel=1e-5)
    assert adv.whitened(advantages).tolist() == pytest.approx(packed(VERL["gae whitened"]).tolist(), rel=1e-5)


def golden_gae() -> tuple[Tensor, Tensor]:
    rewards = adv.token_rewards(SCORES, ROW)
    return adv.gae(rewards, packed(INPUTS["old_values"]), ROW, gamma=1.0, lam=0.95)


@pytest.mark.parametrize(("key", "clip"), [("value_loss clip .2", 0.2), ("value_loss noclip", None)])
def test_the_critic_s_loss_is_that_of_openrlhf(key: str, clip: float | None) -> None:
    losses = value_loss(packed(INPUTS["values"]), packed(INPUTS["old_values"]), golden_gae()[1], clip=clip)
    weights = token_weights(ROW, 8, "token", step_of(TOKENS), dtype=torch.float64)
    assert (losses * weights).sum().item() == pytest.approx(OPENRLHF[key], rel=1e-5)


def minimind_tracker() -> GlobalTracker:
    """The trace of three updates, each checked on the way."""
    tracker = GlobalTracker()
    for update in MINIMIND["spo tracker (101d7df^), three updates"]:
        mean_logp = TOKENS.logps[torch.isin(ROW, torch.tensor(update["rows"]))].mean().item()
        assert tracker.p == pytest.approx(update["baseline_before"], rel=1e-5)
        assert tracker.rho(mean_logp) == pytest.approx(update["rho"], rel=1e-5)
        tracker = tracker.update(update["rewards"], mean_logp)
        assert (tracker.alpha, tracker.beta) == pytest.approx((update["alpha"], update["beta"]), rel=1e-5)
    return tracker


def test_the_global_tracker_and_the_loss_of_spo_are_minimind_s() -> None:
    """The loss is of all eight rows, with the baseline after the three updates."""
    advantages = minimind_tracker().advantages(SCORES)[ROW]
    losses = surrogate(TOKENS.logps, torch.zeros(len(ROW)), advantages, "none")
    losses = losses + 0.02 * kl_estimate(TOKENS.logps, TOKENS.reference, "k3")
    weights = token_weights(ROW, 8, "sequence", StepSize(rows=8, tokens=len(ROW)), dtype=torch.float64)
    golden = MINIMIND["spo loss beta=.02 with that baseline"]
    assert (losses * weights).sum().item() == pytest.approx(golden, rel=1e-5)


def test_every_online_number_of_the_file_is_used() -> None:
    """What is not in the lists above by name is checked by the tests that follow them."""
    here = {key for _, key, _ in GOLDEN_LOSSES} | ADVANTAGES.keys()
    named = {"gae whitened", "gae gamma=1 lam=.95 (rewards on last token, values=old_values)"}
    named |= {"value_loss clip .2", "value_loss noclip", "rm pairwise / margin .5"}
    online = {key for key in TRL if key.startswith(("grpo", "gspo"))} | OPENRLHF.keys() | VERL.keys()
    assert online == here | named
