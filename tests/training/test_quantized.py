"""QLoRA: layers of 4 and 8 bits compute alike wherever they are asked, and their adapters are worth something after."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_llama, build_tokenizer
from torch import Tensor

from rlaif.errors import ConfigError, EngineError
from rlaif.models import load_model
from rlaif.training import parse_config, train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.merge import merge
from rlaif.training.quantized import compute_alike

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'rlaif-toolkit[quantize]'",
)
LN2 = math.log(2)
BITS = ("4bit", "8bit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama, as large as blocks of 4-bit weights need."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    build_llama(torch.float32, hidden_size=64, intermediate_size=128).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(train_config: Any, folder: Path, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Trains two steps of the tiny model; gives the lines of metrics.jsonl."""

    def make(name: str, **changes: Any) -> list[dict[str, float]]:
        config = train_config(
            **{"model": str(folder), "output": tmp_path / name, "trainer": {"max_steps": 2}, **changes}
        )
        train(config)
        return read_metrics(config.output / "metrics.jsonl")

    return make


def assert_same(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    for left, right in zip(one, other, strict=True):
        for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
            assert right[name] == pytest.approx(left[name], rel=2e-3), name


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_every_way_to_compute_a_run_is_the_same_run(run: Any, bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first step's loss is ln 2 with every reference; trees, micro-batches and checkpointing change nothing; and the
    weights are not those of the whole model."""
    usual = run("usual", quantize=bits)
    assert "not shared" not in capsys.readouterr().err
    assert usual[0]["loss"] == pytest.approx(LN2, rel=1e-6)
    assert usual[1]["loss"] < usual[0]["loss"]
    assert usual[0]["logps/chosen"] != pytest.approx(run("whole")[0]["logps/chosen"], rel=1e-5)
    for name, keys in {
        "cached": {"reference": "cached"},
        "copy": {"reference": "copy"},
        "rows": {"micro_batch_tokens": 1},
        "checkpointing": {"gradient_checkpointing": True},
    }.items():
        lines = run(name, quantize=bits, **keys)
        assert lines[0]["loss"] == pytest.approx(LN2, rel=1e-6)
        assert_same(usual, lines)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_a_reward_model_of_few_bits_learns(run: Any, bits: str) -> None:
    lines = run("rm", method="rm", quantize=bits, batch_size=11, epochs=3, trainer={})
    assert lines[2]["loss"] < lines[0]["loss"]


def multiplied_out(layer: Any) -> Tensor:
    """The weight that a quantised layer stands for, (out, in)."""
    from bitsandbytes.functional import dequantize_4bit

    if type(layer).__name__ == "Linear4bit":
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    codes = layer.state.CB if layer.weight.CB is None else layer.weight.CB
    scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return codes.float() * scales[:, None] / 127


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_logits_and_gradients_are_those_of_the_weights_multiplied_out(folder: Path, bits: Any) -> None:
    """Also after an evaluation without gradient, and whatever else is in the batch."""
    few, plain = load_model(str(folder), quantize=bits), load_model(str(folder))
    assert compute_alike(few) == 14
    for name, layer in few.named_modules():
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            plain.get_submodule(name).weight.data = multiplied_out(layer)
    ids = torch.tensor([[1, 5, 7, 2, 9], [3, 3, 8, 4, 6]])
    with torch.no_grad():
        alone = few(input_ids=ids[:1]).logits
    results = []
    for model in (few, plain):
        model.train()
        embedded = model.model.embed_tokens(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits
        results.append((logits, *torch.autograd.grad(logits.square().mean(), embedded)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0][0][:1], alone, rtol=1e-4, atol=1e-5)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_the_adapter_loads_onto_either_base_and_merges_into_the_whole_one(
    run: Any, folder: Path, tmp_path: Path, bits: Any
) -> None:
    """On the base of few bits it is the policy that training left; merged, it is the whole base and its product."""
    from safetensors.torch import load_file

    run("first", quantize=bits, trainer={"max_steps": 6})
    settings = json.loads((tmp_path / "first/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder)
    merged, base = load_model(str(merge(tmp_path / "first", tmp_path / "merged"))), load_model(str(folder))
    adapter = load_file(tmp_path / "first/adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_"
    product = adapter[f"{name}B.weight"] @ adapter[f"{name}A.weight"] * 2.0
    up = base.model.layers[1].mlp.up_proj.weight
    torch.testing.assert_close(merged.model.layers[1].mlp.up_proj.weight, up + product, rtol=1e-5, atol=1e-6)
    on = run("on", quantize=bits, init_adapter=tmp_path / "first")
    few = run("few", quantize=bits)
    assert on[0]["loss"] == pytest.approx(LN2, rel=1e-6)
    assert on[0]["logps/chosen"] - on[0]["logps/rejected"] > few[0]["logps/chosen"] - few[0]["logps/rejected"] + 5
    whole = run("whole", model=str(tmp_path / "merged"), reference_model=str(folder))
    assert whole[0]["rewards/margins"] > 0.5


def test_without_bitsandbytes_the_command_to_install_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else own(name))
    with pytest.raises(EngineError, match=r"^quantize: bitsandbytes .*pip install 'rlaif-toolkit\[quantize\]'$"):
        load_model(str(folder), quantize="4bit")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dtype": "float64"}, "quantize is impossible with dtype: float64"),
        ({"reference_sync": {}}, "reference_sync is impossible with quantize"),
    ],
)
def test_what_few_bits_can_not_do_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"method": "dpo", "model": "m", "data": "d", "output": "o", "quantize": "8bit", **keys})
