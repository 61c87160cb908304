"""Training on CUDA: kernels against dense masks and float64, whole runs against the same runs on the CPU.

Run by `make test-gpu`. Models have heads of 16 and 64, which flex attention takes. float32 without TF32 must give the CPU's
numbers to 1e-3 of a run's metrics, bfloat16 those of float32 to a few of its roundings.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_flex_attention import build_gemma2
from test_fused_lora import bfloat16_with_adapter
from test_fused_lora import outcome as lora_outcome
from tiny import build_gemma3, build_llama, build_tokenizer, random_row, write_pairs
from torch import Tensor

from rlaif.models import load_model
from rlaif.training.batches import Batch, plan_step
from rlaif.training.checkpoints import MARKER, read_metrics
from rlaif.training.forward import batch_logps, checked_plan
from rlaif.training.fused_lora import fuse_lora
from rlaif.training.logps import chunked_logps, own_logps, patch_forward
from rlaif.training.masks import AttentionPlan, use_dense_attention
from rlaif.training.policy import fast_plan
from rlaif.training.rows import Row

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; run: make test-gpu")
DEVICE = torch.device("cuda")
SETTINGS: dict[str, Any] = {"max_position_embeddings": 2048, "initializer_range": 0.1}
MODELS: dict[str, Any] = {
    "llama 16": (build_llama, {"head_dim": 16}),
    "llama 64": (build_llama, {"head_dim": 64}),
    "gemma3 sliding": (build_gemma3, {"head_dim": 64, "sliding_window": 70}),
    "gemma2 soft-capped": (build_gemma2, {"head_dim": 64, "sliding_window": 70}),
}


def long_rows() -> list[Row]:
    """Pairs of 130 to 600 tokens, so that rows have several blocks and some of them are left out."""
    generator = torch.Generator().manual_seed(0)
    return [random_row(generator, str(i), 60 + 37 * i, 40 + 30 * i, 30 + 50 * i) for i in range(5)]


def outcome(model: Any, plan: AttentionPlan, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """The log-probs of all learned tokens, by their place, and the gradient of their sum of squares."""
    model.zero_grad()
    found = {}
    for batch in batches:
        logps = batch_logps(model, batch.to(DEVICE), plan)
        logps.square().sum().backward()
        layout = batch.layout
        for value, completion, place in zip(logps.tolist(), layout.completion, layout.position, strict=True):
            found[*layout.sources[int(completion)], int(place)] = value
    gradient = torch.cat([weight.grad.flatten().float() for weight in model.parameters()])
    return torch.tensor([found[place] for place in sorted(found)]), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_flex_attention_equals_dense_masks_and_plain_rows(name: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    build, settings = MODELS[name]
    model, rows = build(dtype, **SETTINGS, **settings).to(DEVICE).eval(), long_rows()
    patch_forward(model)
    dense = use_dense_attention(model)
    expected = [outcome(model, dense, plan_step(rows, range(5), 300, plain=plain)) for plain in (False, True)]
    plan = checked_plan(model, rows, fast_plan(model, "cuda"), DEVICE)
    assert plan.flex
    logps_atol, gradient_rtol = (2e-5, 1e-5) if dtype == torch.float32 else (0.1, 0.05)
    for budget in (300, 10_000):
        logps, gradient = outcome(model, plan, plan_step(rows, range(5), budget, long_rows=True))
        for other_logps, other_gradient in expected:
            torch.testing.assert_close(logps, other_logps, rtol=0, atol=logps_atol)
            assert (gradient - other_gradient).norm() < gradient_rtol * other_gradient.norm()


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_chunked_log_probs_equal_those_of_all_logits_at_once(
    dtype: torch.dtype, rtol: float, trains_head: bool
) -> None:
    """All logits at once are computed in float64, from the same rounded numbers."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 32, dtype=torch.float64, generator=generator).to(dtype) for n in (70, 900))
    targets, slopes = torch.randint(900, (70,), generator=generator), torch.linspace(-1, 2, 70, dtype=torch.float64)
    found, wanted = [], []
    for place, kind, results in ((DEVICE, dtype, found), (torch.device("cpu"), torch.float64, wanted)):
        inputs = [hidden.to(place, kind).requires_grad_(), weight.to(place, kind).requires_grad_(trains_head)]
        if results is found:
            logps = chunked_logps(inputs[0], targets.to(place), inputs[1], chunk_rows=32)
        else:
            logps = (inputs[0] @ inputs[1].T).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        trained = [item for item in inputs if item.requires_grad]
        results += [logps, *torch.autograd.grad(logps, trained, slopes.to(place, logps.dtype))]
    for own, exact in zip(found, wanted, strict=True):
        assert (own.double().cpu() - exact).norm() <= rtol * exact.norm()


def test_fused_lora_layers_give_what_peft_gives_in_bfloat16() -> None:
    plain, fused = bfloat16_with_adapter().to(DEVICE), bfloat16_with_adapter().to(DEVICE)
    assert fuse_lora(fused) == 14
    (want, want_gradients), (got, gradients) = lora_outcome(plain), lora_outcome(fused)
    assert (got - want).norm() < 0.03 * want.norm()
    for name, gradient in want_gradients.items():
        assert (gradients[name] - gradient).norm() < 0.1 * gradient.norm(), name


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama with heads of 16."""
    folder = tmp_path_factory.mktemp("model") / "wide"
    build_llama(torch.float32, head_dim=16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def command(wide_folder: Path, tmp_path: Path) -> Any:
    """Starts `rlaif train` in a process of its own, on CUDA or with the GPU hidden."""
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)

    def start(method: str, name: str, *flags: str, device: str = "cuda") -> subprocess.Popen[str]:
        settings = ["--batch-size", "4", "--epochs", "2", "--lr", "1e-3", "--save-steps", "1", *flags]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        where = ["-m", str(wide_folder), "--data", str(pairs), "-o", str(tmp_path / name)]
        line = [sys.executable, "-m", "rlaif", "train", method, *where, *settings]
        return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def metrics(process: subprocess.Popen[str], folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a finished run."""
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "flex attention is not used" not in told
    return read_metrics(folder / "metrics.jsonl")


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]], rel: float = 1e-3) -> None:
    """All metrics, but the accuracy of margins that are zero but for rounding."""
    for left, right in zip(one, other, strict=True):
        for name, value in left.items():
            if not (name.endswith("accuracies") and abs(left.get("rewards/margins", 1.0)) < 1e-4):
                assert right[name] == pytest.approx(value, rel=rel, abs=rel), name


@pytest.mark.parametrize("method", ["dpo", "kto", "sft", "orpo", "simpo", "rm"])
def test_a_run_in_float32_is_that_of_the_cpu(command: Any, tmp_path: Path, method: str) -> None:
    flags = ["--set", "dtype=float32"]
    found, expected = command(method, "gpu", *flags), command(method, "cpu", *flags, device="cpu")
    assert_same(metrics(found, tmp_path / "gpu"), metrics(expected, tmp_path / "cpu"))


def test_all_weights_in_float32_are_trained_as_on_the_cpu(command: Any, tmp_path: Path) -> None:
    flags = ["--full", "--set", "dtype=float32"]
    found, expected = command("dpo", "gpu", *flags), command("dpo", "cpu", *flags, device="cpu")
    assert_same(metrics(found, tmp_path / "gpu"), metrics(expected, tmp_path / "cpu"))


@pytest.mark.parametrize("flags", [[], ["--full"], ["--set", "gradient_checkpointing=true"], ["--set", "loss=aot"]])
def test_a_run_in_bfloat16_starts_at_ln_2_and_learns(command: Any, tmp_path: Path, flags: list[str]) -> None:
    lines = metrics(command("dpo", "run", *flags), tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=5e-3)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["rewards/margins"] > 0


def test_gradient_checkpointing_changes_nothing(command: Any, tmp_path: Path) -> None:
    flags = ["--set", "dtype=float32"]
    plain = command("dpo", "plain", *flags)
    checkpointed = command("dpo", "checkpointed", *flags, "--set", "gradient_checkpointing=true")
    assert_same(metrics(plain, tmp_path / "plain"), metrics(checkpointed, tmp_path / "checkpointed"), 1e-5)


def test_a_killed_run_continues_and_its_adapter_loads(command: Any, tmp_path: Path, wide_folder: Path) -> None:
    """As the whole run, with adapter dropout, so that the random numbers of the device matter."""
    flags = ["--set", "dtype=float32", "--set", "lora.dropout=0.2"]
    whole = metrics(command("dpo", "whole", *flags), tmp_path / "whole")
    killed = command("dpo", "killed", *flags)
    for _ in range(3000):
        if killed.poll() is not None or (tmp_path / "killed/checkpoints/checkpoint-3" / MARKER).is_file():
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not json.loads((tmp_path / "killed/manifest.json").read_text())["finished"]
    assert_same(whole, metrics(command("dpo", "killed", *flags), tmp_path / "killed"), 1e-5)
    policy, base = (load_model(str(folder), "float32") for folder in (tmp_path / "killed", wide_folder))
    row = random_row(torch.Generator().manual_seed(0), "a", 5, 7)
    logps = [own_logps(model, row.prompt, row.completions[0], DEVICE) for model in (policy, base)]
    assert (logps[0] - logps[1]).abs().max() > 1e-3
