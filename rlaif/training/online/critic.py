"""PPO's critic: what is to be expected of a response before each of its tokens, in the unit of the rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlaif.errors import TrainError
from rlaif.models import is_reward_model, load_tokenizer, mark_reward_tokenizer
from rlaif.progress import say
from rlaif.training.batches import Batch
from rlaif.training.config import TrainConfig
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.policy_gradient import PpoConfig
from rlaif.training.config.single import RewardConfig
from rlaif.training.forward import batch_hidden, batch_values, checked_plan
from rlaif.training.masks import AttentionPlan
from rlaif.training.policy import Policy, check_same_tokens, load_policy, save_policy
from rlaif.training.ranks import rank, world_size
from rlaif.training.rows import Row
from rlaif.training.sharding import zero_stage

CRITIC_FILE = "critic.safetensors"
CRITIC_FOLDER = "critic"


class Critic:
    """Values of tokens. module: what is learnt; it is no part of the policy's module, so that whoever wraps or saves that
    one need not know of it."""

    reads_policy: bool
    """Whether it computes from the policy's hidden states."""

    def __init__(self, module: nn.Module, plan: AttentionPlan) -> None:
        self.module, self.plan = module, plan

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learnt of it."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def values(self, batch: Batch, hidden_NH: Tensor | None) -> Tensor:
        """The value of the text before each learned token of a micro-batch, (N,), in at least float32.

        hidden_NH: the policy's hidden states that predict these tokens, if it reads them.
        """
        raise NotImplementedError

    def rollout_values(self, policy: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
        """The same from the policy itself, without gradient. plan: the policy's."""
        with torch.no_grad():
            return self.values(batch, batch_hidden(policy, batch, plan) if self.reads_policy else None)

    def forget_gradients(self) -> None:
        """Before a step: the trainer does so for the policy only."""
        self.module.train()
        for parameter in self.parameters:
            parameter.grad = None

    def exchange_gradients(self) -> None:
        """After a step's last micro-batch: the mean over processes, as the wrapper of the policy makes it."""
        if world_size() == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()

    def save(self, folder: Path) -> None:
        """Writes what is learnt into a checkpoint, in the first process."""
        from safetensors.torch import save_file

        if rank() == 0:
            save_file({name: weight.detach().contiguous() for name, weight in self._learnt()}, folder / CRITIC_FILE)

    def load(self, folder: Path) -> None:
        """Takes what a checkpoint holds."""
        from safetensors.torch import load_file

        saved = load_file(folder / CRITIC_FILE)
        with torch.no_grad():
            for name, weight in self._learnt():
                weight.copy_(saved[name])

    def _learnt(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in self.module.named_parameters() if weight.requires_grad]

    def save_result(self, folder: Path, config: TrainConfig) -> None:
        """Writes what another run can use, in a run folder, in the first process."""


class HeadCritic(Critic):
    """One linear layer on the policy's hidden states, which begins at 0."""

    reads_policy = True

    def __init__(self, policy: Policy, plan: AttentionPlan, device: torch.device) -> None:
        weights = next(parameter for parameter in policy.model.parameters() if parameter.is_floating_point())
        dtype = torch.promote_types(weights.dtype, torch.float32)
        head = nn.Linear(policy.model.config.get_text_config().hidden_size, 1, device=device, dtype=dtype)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        super().__init__(head, plan)

    def values(self, batch: Batch, hidden_NH: Tensor | None) -> Tensor:
        assert hidden_NH is not None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            values: Tensor = self.module(hidden_NH.to(next(self.module.parameters()).dtype))
        return values.squeeze(-1)


class ModelCritic(Critic):
    """A model of its own: a reward model, read before each token."""

    reads_policy = False

    def __init__(self, own: Policy, plan: AttentionPlan) -> None:
        super().__init__(own.model, plan)
        self.own = own

    def values(self, batch: Batch, hidden_NH: Tensor | None) -> Tensor:
        return batch_values(self.module, batch, self.plan)

    def save_result(self, folder: Path, config: TrainConfig) -> None:
        if rank() == 0:
            tokenizer = load_tokenizer(config.model)
            mark_reward_tokenizer(tokenizer)
            save_policy(self.own, folder / CRITIC_FOLDER, tokenizer)


def open_critic(
    config: OnlineConfig, policy: Policy, rows: Sequence[Row], plan: AttentionPlan, device: torch.device
) -> Critic | None:
    """The critic of a configuration, None for methods without one. rows: some to check it on; plan: the policy's.

    Raises TrainError for a critic_model whose tokens are not the policy's.
    """
    if not isinstance(config, PpoConfig):
        return None
    if zero_stage():
        raise TrainError(
            "ppo: DeepSpeed's optimizer takes no critic beside the policy; train with whole weights in each process "
            "(accelerate launch without DeepSpeed)"
        )
    if config.critic == "head":
        return HeadCritic(policy, plan, device)
    name = config.critic_model or policy.base
    if config.critic_model:
        check_same_tokens("critic_model", name, config.model, "and the critic reads the policy's tokens")
    settings = RewardConfig(
        model=name, data=config.data, output=config.output / CRITIC_FOLDER, full=config.full, lora=config.lora,
        quantize=config.quantize, dtype=config.dtype, seed=config.seed, compile=config.compile,
    )  # fmt: skip
    knows = is_reward_model(name)
    say(f"the critic is a second model in memory: {name}" + ("" if knows else ", with values of 0 to begin with"))
    own = load_policy(settings)
    if not knows:
        head = own.model.get_base_model().score if hasattr(own.model, "peft_config") else own.model.score
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    if config.gradient_checkpointing:
        own.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return ModelCritic(own, checked_plan(own.model, rows, own.plan, device, rewards=True))
