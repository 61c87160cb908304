"""The trainer of an online run with all that it needs: who samples, who rewards, the reference."""

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rlaif.chat import stop_token_ids
from rlaif.errors import TrainError
from rlaif.models import adapter_base, load_tokenizer
from rlaif.progress import say
from rlaif.training.arguments import training_arguments
from rlaif.training.checkpoints import METRICS_FILE
from rlaif.training.checks import split
from rlaif.training.config.fresh_pairs import NashMdConfig
from rlaif.training.config.online import OnlineConfig
from rlaif.training.forward import checked_plan
from rlaif.training.logps import adapter_off, own_logps
from rlaif.training.online.background import Background
from rlaif.training.online.critic import open_critic
from rlaif.training.online.decode import Decoder, MixtureDecoder
from rlaif.training.online.judges import reward_sources, tell_of_judges
from rlaif.training.online.learners import learner_of
from rlaif.training.online.local import LocalSampler
from rlaif.training.online.policy_engine import PolicyEngine
from rlaif.training.online.prompts import PromptRows
from rlaif.training.online.rollouts import Rollouts
from rlaif.training.online.samples import Sampler
from rlaif.training.online.server import ServerSampler, ServerSettings, Vllm
from rlaif.training.online.trainer import OnlineTrainer
from rlaif.training.online.vllm_calls import VllmServer
from rlaif.training.online.vllm_here import AdaptersHere
from rlaif.training.online.vllm_weights import WeightsHere, WeightsServer
from rlaif.training.policy import Policy, save_weights
from rlaif.training.ranks import on_first, rank, world_size
from rlaif.training.reference import FrozenModel, Reference
from rlaif.training.refusals import memory_errors
from rlaif.training.rows import Completion, Row
from rlaif.training.session import autocast, live_reference, plan_with, plan_with_reference, token_budget
from rlaif.training.sharding import is_spread
from rlaif.training.trainer import Work


@contextmanager
def opened_trainer(
    config: OnlineConfig, policy: Policy, rows: PromptRows, callbacks: list[TrainerCallback]
) -> Iterator[OnlineTrainer]:
    """The trainer of an online run with its rollouts open, its reference ready."""
    arguments = training_arguments(config, config.output / "checkpoints", autocast=policy.autocast)
    trained, held_out = split(rows.rows, config)
    arguments.max_steps = config.total_steps(len(trained))
    every = config.steps_of_rollout
    arguments.save_steps = -(-config.save_steps // every) * every  # checkpoints fall between rollouts
    device, budget = arguments.device, token_budget(config, arguments.device)
    if is_spread(policy.model):
        raise TrainError(
            "the policy's weights are spread over processes (FSDP2 or ZeRO-3), and no process can sample with its part of "
            "them; train the adapter with whole weights in each process (accelerate launch without FSDP)"
        )
    tokenizer = load_tokenizer(config.model)
    stops = stop_token_ids(tokenizer, policy.model.generation_config)
    with memory_errors(f"lower micro_batch_tokens (now {budget})"), autocast(policy, device):
        sample = _probe_rows(rows.rows, trained[: config.batch_size])
        plan = checked_plan(policy.model, sample, policy.plan, device)
        if plan.is_plain:
            say(f"prompts are computed once per response, not shared: {plan.plain_because}")
        reference = live_reference(config, sample, policy, plan, device)
        plan = plan_with_reference(plan, reference)
        critic = open_critic(config, policy, sample, plan, device)
        if critic is not None:
            plan = plan_with(plan, critic.plan, "the critic")

    turn = threading.Lock()
    judging = PolicyEngine(policy.model, tokenizer, config.model, turn, lambda: autocast(policy, device))
    sources, watch = reward_sources(config, judging)
    tell_of_judges(config, sources, watch)
    sampler = _sampler(config, policy, reference, device, turn, stops, rows.rows[trained[0]].prompt)

    def decode(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode([token for token in ids if token not in stops], skip_special_tokens=True)
        return text.strip()

    background = Background()
    rollouts = Rollouts(config, rows, trained, sampler, decode, sources, background, watch)
    learner = learner_of(config, rollouts, corrects=sampler.corrects)
    work = Work(
        rows=rows.rows, trained=trained, held_out=held_out, method=learner.method, reference=reference, plan=plan,
        budget=budget, metrics_path=config.output / METRICS_FILE, keep_checkpoints=config.keep_checkpoints,
        eval_steps=config.eval_steps, router_loss=config.router_loss,
    )  # fmt: skip
    with background:
        rollouts.open()
        try:
            yield OnlineTrainer(policy.model, arguments, work, callbacks, config, rollouts, learner, critic)
        finally:
            rollouts.close()


def _sampler(
    config: OnlineConfig,
    policy: Policy,
    reference: Reference | None,
    device: Any,
    turn: AbstractContextManager[Any],
    stops: set[int],
    probe: tuple[int, ...],
) -> Sampler:
    """Who samples. turn: of those who use the policy's model. stops: tokens that end a response. probe: a prompt by which an
    adapter that vLLM was given is checked."""
    if config.rollouts.engine != "transformers":
        return _server_sampler(config, policy, device, stops, probe)

    def decoder(model: Any, context: Callable[[], AbstractContextManager[Any]]) -> Decoder:
        return Decoder(
            model, stops, temperature=config.temperature, max_tokens=config.max_tokens, most_rows=config.generate_rows,
            context=context,
        )  # fmt: skip

    own = decoder(policy.model, lambda: autocast(policy, device))
    if not config.opponents:
        return LocalSampler(own, turn=turn)
    if isinstance(reference, FrozenModel):
        other = decoder(reference.model, lambda: autocast(policy, device))
    else:
        other = decoder(policy.model, lambda: _without_adapter(policy, device))
    if isinstance(config, NashMdConfig):
        other = MixtureDecoder(own, other, share=config.mixture)
    return LocalSampler(own, other, turn)


@contextmanager
def _without_adapter(policy: Policy, device: Any) -> Iterator[None]:
    """Within it the policy is what it was as training started."""
    with autocast(policy, device), adapter_off(policy.model):
        yield


def _server_sampler(
    config: OnlineConfig, policy: Policy, device: Any, stops: set[int], probe: tuple[int, ...]
) -> ServerSampler:
    narrow = _computes_in(policy) not in (torch.float32, torch.float64)
    given = config.rollouts.tolerance
    settings = ServerSettings(
        folder=config.output / ("weights" if config.full else "adapters"),
        attempt=on_first(lambda: secrets.token_hex(3)),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        concurrency=config.rollouts.concurrency,
        tolerance=given if isinstance(given, float) else (0.3 if narrow else 0.01),
    )
    vllm = _vllm(config, policy)

    def save(folder: Path) -> None:
        if config.full:
            save_weights(policy, folder)
        else:  # peft would else ask the hub, at each step, whether the base's vocabulary is still as large
            policy.model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)

    def score(prompt: tuple[int, ...], ids: tuple[int, ...]) -> list[float]:
        was_training = policy.model.training
        policy.model.eval()
        try:
            with autocast(policy, device):
                found: list[float] = own_logps(policy.model, prompt, Completion(ids), device).tolist()
        finally:
            policy.model.train(was_training)
        return found

    return ServerSampler(settings, vllm, stops, probe, save=save, score=score, loads=rank() == 0)


def _vllm(config: OnlineConfig, policy: Policy) -> Vllm:
    """Whom the policy is given to after each step. Raises TrainError for vLLM in several processes."""
    rollouts = config.rollouts
    if rollouts.engine == "server":
        server = WeightsServer if config.full else VllmServer
        key_env = rollouts.api_key_env
        return server(rollouts.base_url or "", os.environ.get(key_env, ""), key_env, config.patience_minutes)
    if world_size() > 1:
        raise TrainError(
            "rollouts.engine: vllm is for a run in one process; with several, start vLLM as a server, and use "
            "rollouts.engine: server"
        )
    shape: dict[str, Any] = {
        "dtype": str(_computes_in(policy)).removeprefix("torch."), "max_model_len": config.max_length,
        "gpu_memory": rollouts.gpu_memory, "engine_args": rollouts.engine_args,
    }  # fmt: skip
    if config.full:
        return WeightsHere(adapter_base(policy.base) or policy.base, **shape)
    return AdaptersHere(policy.base, rank=policy.model.peft_config["default"].r, **shape)


def _computes_in(policy: Policy) -> torch.dtype:
    """The number format of the policy's forward."""
    found: torch.dtype = torch.bfloat16 if policy.autocast else next(policy.model.parameters()).dtype
    return found


def _probe_rows(prompts: Sequence[Row], indexes: Sequence[int]) -> list[Row]:
    """Rows to check the model's forward on: prompts cut in two, the second half as completions."""
    rows = []
    for index in indexes:
        ids = prompts[index].prompt
        middle = max(1, len(ids) // 2)
        ends = (ids[middle:] or ids[-1:], ids[: max(1, len(ids) - middle)])
        rows.append(Row(prompts[index].id, ids[:middle], tuple(Completion(end) for end in ends)))
    return rows
