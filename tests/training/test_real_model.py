"""On SmolLM2-135M in float32: trees against the plain computation, log-probs, loss and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.models import load_model, load_tokenizer
from rlaif.training.batches import plan_step
from rlaif.training.formats import Example
from rlaif.training.forward import batch_logps
from rlaif.training.logps import own_logps, patch_forward
from rlaif.training.masks import attention_plan
from rlaif.training.rows import Row, tokenize
from rlaif.types import Message

pytestmark = pytest.mark.model

ANSWERS = [
    ("Name a colour.", "Blue is a colour.", "I would rather not say."),
    ("Name a colour.", "Red.", "Blue is a colour."),
    ("What is the capital of France? Answer in one word.", "Paris", "The capital of France is the city of Lyon."),
]


@pytest.fixture(scope="module")
def policy(real_model_folder: Path) -> Any:
    """With a LoRA adapter whose B is not zero, so that the gradients of A and B both count."""
    from peft import LoraConfig, get_peft_model

    model = load_model(str(real_model_folder), "float32", "cpu")
    patch_forward(model)
    torch.manual_seed(0)
    policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    return policy.eval()


@pytest.fixture(scope="module")
def real_rows(real_model_folder: Path) -> list[Row]:
    examples = [
        Example(str(number), (Message(role="user", content=prompt),),
                tuple((Message(role="assistant", content=text),) for text in answers), (False, False))
        for number, (prompt, *answers) in enumerate(ANSWERS)
    ]  # fmt: skip
    return tokenize(iter(examples), load_tokenizer(str(real_model_folder)), 200, "raise").rows


def gradients(policy: Any, loss: Tensor) -> Tensor:
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, weights)])


def pair_losses(sums: list[Tensor]) -> Tensor:
    """DPO loss of chosen, rejected, chosen, rejected ... against a reference of -20 each."""
    chosen, rejected = torch.stack(sums[::2]), torch.stack(sums[1::2])
    reference = torch.full_like(chosen, -20.0)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected - reference + reference)).mean()


def test_trees_equal_plain_rows(policy: Any, real_rows: list[Row]) -> None:
    plan = attention_plan(policy.config)
    (batch,) = plan_step(real_rows, range(3), 10_000)
    logps = batch_logps(policy, batch, plan)
    tree_sums = batch.layout.sums(logps)
    tree_loss = pair_losses([tree_sums[side] for members in [dict(zip(batch.layout.rows, batch.layout.members, strict=True))]
                             for row in range(3) for side in members[row]])  # fmt: skip
    plain_sums = []
    for row in real_rows:
        for completion in row.completions:
            tokens = torch.tensor([row.prompt + completion.ids])
            logits = policy(input_ids=tokens).logits[0, len(row.prompt) - 1 : -1]
            plain_sums.append(logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None]).sum())
    plain_loss = pair_losses(plain_sums)
    assert tree_loss.item() == pytest.approx(plain_loss.item(), abs=1e-4)
    for number, (row, side) in enumerate(batch.layout.sources):
        own = own_logps(policy, real_rows[row].prompt, real_rows[row].completions[side], logps.device)
        torch.testing.assert_close(logps[batch.layout.completion == number].detach(), own, rtol=0, atol=1e-4)
    expected = gradients(policy, plain_loss)
    difference = (gradients(policy, tree_loss) - expected).norm() / expected.norm()
    assert difference < 1e-4
