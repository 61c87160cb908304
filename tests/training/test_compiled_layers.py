"""Compiled layers: the trajectory of layers that are not, and weights of the same names."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import build_llama

from rlaif.errors import ConfigError, TrainError
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.compiled_layers import VARIANTS, compile_layers
from rlaif.training.policy import load_policy


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test compiles is no other's."""
    before = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.config.recompile_limit = before
    torch._dynamo.reset()


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether layers are traced by torch.compile (and run as graphs, without kernels, which take long to generate), or
    run as they are in the library."""
    traced = functools.partialmethod(torch.nn.Module.compile, backend="eager")

    def switch(on: bool) -> None:
        monkeypatch.setattr(torch.nn.Module, "compile", traced if on else lambda layer, **keys: None)

    return switch


@pytest.fixture
def run(train_config: Any, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Trains two steps in float64; gives the lines of metrics.jsonl."""

    def make(name: str, **changes: Any) -> list[dict[str, float]]:
        settings = {"dtype": "float64", "trainer": {"max_steps": 2}, "output": tmp_path / name, **changes}
        config = train_config(**settings)
        train(config)
        return read_metrics(config.output / "metrics.jsonl")

    return make


def assert_same(one: list[dict[str, float]], other: list[dict[str, float]], rel: float = 1e-9) -> None:
    """All metrics, but the accuracy of margins that are zero but for rounding."""
    for left, right in zip(one, other, strict=True):
        for name, value in left.items():
            if not (name.endswith("accuracies") and abs(left.get("rewards/margins", 1.0)) < 1e-9):
                assert right[name] == pytest.approx(value, rel=rel, abs=rel), name


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


CASES: dict[str, dict[str, Any]] = {
    "all rows at once": {"loss": "aot"},
    "checkpointing": {"gradient_checkpointing": True},
    "all weights": {"full": True, "learning_rate": 1e-3},
    "reward model": {"method": "rm"},
    "held out": {"validation": 0.3, "eval_steps": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_is_that_of_the_same_layers_not_compiled(
    run: Any, compiling: Any, tmp_path: Path, case: str
) -> None:
    compiling(False)
    plain = run("plain", compile=True, **CASES[case])
    assert compiled_graphs() == 0
    compiling(True)
    assert_same(plain, run("compiled", compile=True, **CASES[case]))
    assert 0 < compiled_graphs() < 12  # of 2 layers, one compilation serves both
    assert not torch._dynamo.utils.counters["graph_break"]
    (name,) = [path.name for path in (tmp_path / "plain").glob("*model.safetensors")]
    saved = [load_file(tmp_path / folder / name) for folder in ("plain", "compiled")]
    torch.testing.assert_close(saved[1], saved[0], rtol=1e-7, atol=1e-9)  # of the same names


def test_going_on_with_an_adapter(run: Any, compiling: Any, tmp_path: Path) -> None:
    """The reference is the adapter that training started from, another than the one that is trained."""
    run("first", method="sft")
    settings = {"compile": True, "init_adapter": tmp_path / "first", "lora": {"r": 4, "alpha": 8}}
    compiling(False)
    plain = run("plain", **settings)
    compiling(True)
    assert_same(plain, run("compiled", **settings))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_trajectory_of_kernels(run: Any) -> None:
    """With the kernels that torch generates, as the layers are without compile. The library's norms, which the compiled
    layers keep, are in float32 whatever the dtype."""
    settings = {"micro_batch_tokens": 10_000, "save_steps": 100}
    assert_same(run("plain", **settings), run("compiled", compile=True, **settings), rel=1e-4)
    assert compiled_graphs() > 0


def test_the_layers_are_the_librarys_and_their_names_stay(train_config: Any) -> None:
    model = load_policy(train_config(compile=True)).model
    assert not [name for name in model.state_dict() if "_orig_mod" in name]
    assert not [name for name, module in model.named_modules() if "forward" in vars(module) and "layers." in name]
    assert torch._dynamo.config.recompile_limit == VARIANTS


def test_what_is_impossible_is_refused(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="compile is impossible with quantize"):
        train_config(compile=True, quantize="4bit")
    for key in ("torch_compile", "torch_compile_backend", "torch_compile_mode"):
        with pytest.raises(ConfigError, match=f"trainer.{key} can not be set here: use the key 'compile'"):
            train(train_config(trainer={key: True}))
    monkeypatch.setattr("rlaif.training.sharding.requested", lambda: object())
    monkeypatch.setattr("rlaif.training.policy.load_model", None)  # before a model is loaded
    with pytest.raises(TrainError, match="compile: layers whose weights are spread over devices can not be compiled"):
        train(train_config(compile=True))


def test_a_model_without_known_layers_and_a_missing_compiler_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainError, match="no decoder layers are known in a Linear; leave compile out"):
        compile_layers(torch.nn.Linear(2, 2))

    def fails(*args: Any) -> Any:
        raise RuntimeError("no compiler\nanywhere")

    broken = functools.partialmethod(torch.nn.Module.compile, backend=fails)
    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    with pytest.raises(TrainError, match=r"compile: impossible here \(.*no compiler anywhere.*\); leave"):
        compile_layers(build_llama())
