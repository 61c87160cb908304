"""One optimiser step of every variant against plain loops: each response by itself through the model's own logits, float64."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import build_llama, build_tokenizer

from rlaif.training.online.learning import SampledRow
from rlaif.training.online.prompts import prompt_rows
from rlaif.training.online.session import opened_trainer
from rlaif.training.policy import load_policy

VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "the first grpo, with a reference": {"normalization": "sequence", "beta": 0.1},
    "k2, weighed": {"beta": 0.1, "kl": "k2", "kl_ratio": True},
    "dr-grpo": {"advantage": "group-mean", "normalization": "constant"},
    "dapo": {"clip_high": 0.28, "overlong": "punish", "overlong_cache": 6, "normalization": "token"},
    "gspo": {"ratio": "sequence", "normalization": "sequence"},
    "cispo": {"surrogate": "cispo"},
    "sapo": {"surrogate": "sapo"},
    "two-sided and dual": {"ratio_cap": 2.0, "dual_clip": 3.0},
    "tempered": {"temperature": 1.7, "beta": 0.1},
    "rloo": {"method": "rloo"},
    "reinforce++": {"method": "reinforce++", "group_size": 2},
    "reinforce": {"surrogate": "none"},
}


@contextmanager
def trainer_of(config: Any) -> Iterator[Any]:
    policy = load_policy(config)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:  # so that policy and reference differ
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    with opened_trainer(config, policy, prompt_rows(config), []) as trainer:
        yield trainer


def plain_logps(model: Any, row: SampledRow, temperature: float, *, adapter: bool = True) -> torch.Tensor:
    """log softmax(logits / temperature) of the response's tokens, from the model's own forward on this one sequence."""
    ids = torch.tensor([[*row.prompt, *row.completions[0].ids]])
    if adapter:
        logits = model(input_ids=ids).logits
    else:
        with model.disable_adapter(), torch.no_grad():
            logits = model(input_ids=ids).logits
    logps = (logits[0, len(row.prompt) - 1 : -1] / temperature).log_softmax(-1)
    return logps.gather(1, ids[0, len(row.prompt) :, None])[:, 0]


def kl_of(kind: str, d: torch.Tensor) -> torch.Tensor:
    return {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[kind]


def plain_advantages(config: Any, rows: list[SampledRow], penalties: list[torch.Tensor]) -> list[torch.Tensor]:
    def punishment(length: int) -> float:
        late = length - (config.max_tokens - config.overlong_cache)
        return -min(1.0, max(0.0, late / config.overlong_cache)) if config.overlong == "punish" else 0.0

    totals = [(row.answer.reward or 0.0) + punishment(len(row.completions[0])) for row in rows]  # type: ignore[union-attr]
    if config.advantage == "whitened":
        returns = []
        for total, penalty in zip(totals, penalties, strict=True):
            rewards = -config.beta * penalty
            rewards[-1] += total
            returns.append(rewards.flip(0).cumsum(0).flip(0))
        flat = torch.cat(returns)
        return [(part - flat.mean()) / (flat.var(unbiased=True) + 1e-8).sqrt() for part in returns]
    if config.kl_in == "reward":
        totals = [total - config.beta * float(penalty.sum()) for total, penalty in zip(totals, penalties, strict=True)]
    found = []
    for row, total in zip(rows, totals, strict=True):
        group = [other for one, other in zip(rows, totals, strict=True) if one.group == row.group]
        mean = sum(group) / len(group)
        others = (sum(group) - total) / (len(group) - 1)
        value = total - (others if config.advantage == "leave-one-out" else mean)
        if config.advantage == "group-normalized":
            value /= math.sqrt(sum((x - mean) ** 2 for x in group) / (len(group) - 1)) + 1e-4
        found.append(torch.full((len(row.completions[0]),), value, dtype=torch.float64))
    return found


def plain_loss(config: Any, model: Any, rows: list[SampledRow]) -> torch.Tensor:
    """The first step of a rollout: the old policy is the policy, so every ratio is 1 but has a gradient."""
    logps = [plain_logps(model, row, config.temperature) for row in rows]
    reference = [plain_logps(model, row, config.temperature, adapter=False) for row in rows]
    penalties = [kl_of(config.kl, (a - b).detach()) for a, b in zip(logps, reference, strict=True)]
    advantages = plain_advantages(config, rows, penalties)
    total_tokens = sum(len(part) for part in logps)
    loss = torch.zeros((), dtype=torch.float64)
    for own, ref, advantage in zip(logps, reference, advantages, strict=True):
        log_ratio = own - own.detach()
        if config.ratio == "sequence":
            log_ratio = log_ratio.mean().expand_as(own)
        ratio = log_ratio.exp()
        if config.surrogate == "clip":
            part = -torch.minimum(ratio * advantage, ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantage)
        elif config.surrogate == "sapo":
            tau = torch.where(advantage > 0, *(torch.tensor(t, dtype=torch.float64) for t in config.sapo_temperatures))
            part = -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * advantage
        else:
            part = -own * advantage * (ratio.detach() if config.surrogate == "cispo" else 1)
        if config.beta and config.kl_in == "loss":
            part = part + config.beta * kl_of(config.kl, own - ref) * (ratio if config.kl_ratio else 1)
        divisor = {
            "token": total_tokens, "batch": total_tokens, "sequence": len(rows) * len(own),
            "constant": len(rows) * config.max_tokens,
        }[config.normalization]  # fmt: skip
        loss = loss + part.sum() / divisor
    return loss


@pytest.fixture(scope="module")
def exact_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exact") / "tiny"
    build_llama(torch.float64).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_what_plain_loops_say(online_config: Any, exact_model: Any, variant: str) -> None:
    """Packed prompt trees in several micro-batches, the hand-written head, old and reference log-probs by the same path:
    loss and gradients are those of the formulas."""
    settings = {"model": str(exact_model), "dtype": "float64", "micro_batch_tokens": 90, **VARIANTS[variant]}
    config = online_config(**settings)
    with trainer_of(config) as trainer:
        model = trainer.model
        found = trainer.training_step(model, {})
        rows = trainer.sampled
        own = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        model.eval()
        expected = plain_loss(config, model, rows)
        expected.backward()
        assert any(any(row.advantages) for row in rows)
        assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6)
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(own[name], weight.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_identical_responses_are_computed_once_and_count_each(online_config: Any, exact_model: Any) -> None:
    """At a temperature near 0 all responses to a prompt are the same: one branch of the tree, and as many rows as responses."""
    config = online_config(
        model=str(exact_model), dtype="float64", temperature=1e-4, advantage="group-mean", beta=0.1, epochs=1
    )
    with trainer_of(config) as trainer:
        trainer.training_step(trainer.model, {})
        assert len(trainer.sampled) == 12
        (step,) = [trainer._plan(range(len(trainer.rows)))]
        assert sum(len(batch.layout.sources) for batch in step.batches) == 4


def test_the_sampler_is_told_to_rest_although_the_journal_has_all(online_config: Any) -> None:
    """What it holds is the learner's after a rollout, in a run that was killed and goes on too."""
    with trainer_of(online_config()) as trainer:
        rests: list[int] = []

        async def rest() -> None:
            rests.append(1)

        trainer.rollouts.sampler.rest = rest
        first, again = trainer.rollouts.collect(0), trainer.rollouts.collect(0)
        assert first == again
        assert len(rests) == 2
