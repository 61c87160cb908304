import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import build_llama

from rlaif.training.fused_lora import _LoraLinear, fuse_lora


def peft_model(**lora: Any) -> Any:
    """A float64 Llama whose adapter is not zero."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    model = get_peft_model(build_llama(torch.float64), config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def bfloat16_with_adapter() -> Any:
    """What peft makes of a bfloat16 model: an adapter of float32, here not zero."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(build_llama(torch.bfloat16), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def outcome(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.tensor([[1, 5, 7, 2, 9], [3, 3, 8, 4, 6]], device=model.device)
    logits = model(input_ids=ids).logits
    logits.pow(2).mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_fused_layers_give_what_peft_gives() -> None:
    plain = peft_model()
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 7 * len(fused.get_base_model().model.layers)
    (want, want_grads), (got, got_grads) = outcome(plain), outcome(fused)
    assert (got - want).abs().max() < 1e-12
    assert want_grads.keys() == got_grads.keys()
    for name, grad in want_grads.items():
        assert (got_grads[name] - grad).norm() <= 1e-10 * grad.norm(), name


def test_a_bfloat16_model_with_peft_adapters_of_float32_is_fused() -> None:
    """Within rounding of bfloat16, and the adapter learns in float32."""
    plain = bfloat16_with_adapter()
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 7 * len(fused.get_base_model().model.layers)
    (want, want_grads), (got, got_grads) = outcome(plain), outcome(fused)
    assert got.dtype == torch.bfloat16
    assert (got - want).norm() < 0.03 * want.norm()
    for name, grad in want_grads.items():
        assert got_grads[name].dtype == torch.float32
        assert (got_grads[name] - grad).norm() < 0.1 * grad.norm(), name
    layer = fused.get_base_model().model.layers[0].mlp.up_proj
    assert layer(torch.zeros(1, 32, dtype=torch.bfloat16)).grad_fn.name() == "_LoraLinearBackward"


def test_with_the_adapter_off_a_fused_model_is_its_base() -> None:
    plain = peft_model()
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    ids = torch.tensor([[1, 5, 7]])
    with plain.disable_adapter(), fused.disable_adapter():
        assert torch.equal(plain(input_ids=ids).logits, fused(input_ids=ids).logits)


@pytest.mark.parametrize("lora", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_layers_that_are_not_plain_keep_pefts_forward(lora: dict[str, Any]) -> None:
    assert fuse_lora(peft_model(**lora)) == 0


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_backward_is_the_derivative_of_the_forward(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int, grad: bool = True) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=grad)

    bias = tensor(4, grad=False) if with_bias else None
    inputs = (tensor(2, 3, 5), tensor(4, 5, grad=False), bias, tensor(2, 5), tensor(4, 2), 1.7)
    assert torch.autograd.gradcheck(_LoraLinear.apply, inputs)
