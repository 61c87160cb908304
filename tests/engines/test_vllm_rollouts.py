"""Online runs whose rollouts vLLM's real server answers, or vLLM in the run: the adapter or the weights of each step, kills,
and servers that do not fit.

What the server does wrong is scripted in tests/training/online/test_server_rollouts.py and test_server_weights.py.
"""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killing
import pytest
from vllm_server import start_server, stopping, wait_until_ready

MODEL = Path(os.environ.get("RLAIF_MODEL") or Path(__file__).parents[2] / ".cache/models/SmolLM2-135M-Instruct")
missing = importlib.util.find_spec("vllm") is None or not MODEL.is_dir()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(missing, reason="needs vLLM and the chat model (make test-vllm)"),
]
STEPS = 6
TOLERANCE = 1e-2
FORMS = {"adapter": [], "weights": ["--full", "--lr", "1e-4"]}
"""Options of a run that trains an adapter, or all weights."""
LONG = "Here are the notes of a long day at the harbour: " + "ships, ropes, rain and gulls; " * 20
"""More than the 128 tokens of a block of vLLM's prefix cache on the CPU, which keys it by the adapter's name."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    process, base_url = start_server(
        str(MODEL), log, "--enable-lora", variables={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    )
    with stopping(process):
        wait_until_ready(process, base_url, log)
        yield base_url


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of `rlaif`, for a run of 6 steps of 2 prompts with 3 responses each, that moves log-probs by more than the tolerance."""
    marks = ("[A-F]", "[G-M]", "[N-T]", "[xyzv]", "[,;]", "ing")
    checks = "".join(f"  - check: regex\n    pattern: '{mark}'\n" for mark in marks)
    (tmp_path / "letters.yaml").write_text(f"kind: program\ndescription: Letters.\nscore: mean\nchecks:\n{checks}")
    prompts = [f"{LONG} What is line {number} about?" for number in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    given = ["-m", MODEL, "--data", tmp_path / "prompts.jsonl", "--reward", tmp_path / "letters.yaml"]
    given += ["-o", tmp_path / "run", "--group-size", 3, "--batch-size", 2, "--max-tokens", 8, "--lr", 1e-3]
    given += ["--dtype", "float32", "--save-steps", 1, "--set", f"trainer.max_steps={STEPS}"]
    return ["train", "grpo", *map(str, given), "--set", "trainer.warmup_steps=0"]


def by(url: str, **more: Any) -> list[str]:
    return ["--set", "rollouts=" + json.dumps({"engine": "server", "base_url": url, **more})]


def rlaif(*command: str, code: str = "from rlaif.cli import main; main()") -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *command], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def adapters(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models", timeout=30) as reply:
        names = [model["id"] for model in json.load(reply)["data"]]
    return [name for name in names if name.startswith("rlaif-")]


def served_logps(url: str, name: str, prompt: tuple[int, ...], ids: tuple[int, ...]) -> list[float]:
    """What an adapter says of given tokens, by another way than the rollouts': as parts of a prompt."""
    body = {"model": name, "prompt": [*prompt, *ids], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        positions = json.load(reply)["choices"][0]["prompt_logprobs"][len(prompt) :]
    return [position[str(token)]["logprob"] for position, token in zip(positions, ids, strict=True)]


def test_the_adapter_that_answers_is_the_one_just_trained(
    url: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step, of the same eight tokens: the server's log-probs are the trainer's to 1e-2, and further than that from
    those of the adapter before, which shows that a stale one would be seen."""
    from typer.testing import CliRunner

    from rlaif.cli import app
    from rlaif.training.checkpoints import read_metrics
    from rlaif.training.online import session
    from rlaif.training.online.server import ServerSampler

    ids = tuple(range(500, 508))
    found: list[tuple[list[float], list[float]]] = []

    class Watched(ServerSampler):
        async def refresh(self, step: int) -> None:
            await super().refresh(step)
            (name,) = adapters(url)
            assert name.endswith(f"-{step}")
            assert [path.name for path in self.settings.folder.iterdir()] == [name]
            found.append((served_logps(url, name, self.probe, ids), list(self._score(self.probe, ids))))

    monkeypatch.setattr(session, "ServerSampler", Watched)
    done = CliRunner().invoke(app, [*arguments, *by(url)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(found) == STEPS
    for there, here in found:
        assert there == pytest.approx(here, abs=TOLERANCE)
    for (before, _), (after, _) in itertools.pairwise(found):
        assert max(abs(new - old) for new, old in zip(after, before, strict=True)) > 2 * TOLERANCE
    assert not adapters(url)
    assert not (tmp_path / "run/adapters").exists()
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert max(line["sampling/policy_gap"] for line in lines) < TOLERANCE
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < TOLERANCE


KILLED = killing.AT_STEP_2 + "from rlaif.cli import main\nmain()\n"


def test_a_killed_run_goes_on_although_its_adapter_is_still_loaded(
    url: str, arguments: list[str], tmp_path: Path
) -> None:
    command = [one.replace(f"max_steps={STEPS}", "max_steps=4") for one in arguments] + by(url)
    assert rlaif(*command, code=KILLED).returncode == -signal.SIGKILL
    (left,) = adapters(url)
    assert left.endswith("-2")
    done = rlaif(*command)
    assert done.returncode == 0, done.stderr
    assert "continuing from step 2" in done.stderr
    assert not adapters(url)
    assert not (tmp_path / "run/adapters").exists()


def test_a_server_of_another_base_model_is_one_message(url: str, arguments: list[str], tmp_path: Path) -> None:
    """The same shapes, and one layer's weights half as large: only what it says can tell."""
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"] *= 0.5
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    done = rlaif(*(str(other) if one == str(MODEL) else one for one in arguments), *by(url))
    assert done.returncode == 2, done.stderr
    assert "answers with other log-probs" in done.stderr
    assert "must serve the model that is trained" in done.stderr
    assert "Traceback" not in done.stderr
    assert not adapters(url)


def test_raw_log_probs_at_another_temperature_are_one_message(url: str, arguments: list[str]) -> None:
    done = rlaif(*arguments, "--temperature", "1.3", *by(url))
    assert done.returncode == 2, done.stderr
    assert "--logprobs-mode processed_logprobs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rank_above_the_server_s_is_one_message(url: str, arguments: list[str]) -> None:
    done = rlaif(*arguments, "--lora-r", "32", *by(url))
    assert done.returncode == 2, done.stderr
    assert "--max-lora-rank" in done.stderr
    assert "Traceback" not in done.stderr
    assert not adapters(url)


def test_a_server_that_is_down_is_an_outage(arguments: list[str]) -> None:
    done = rlaif(*arguments, "--set", "patience_minutes=0.05", *by("http://127.0.0.1:9/v1"))
    assert done.returncode == 3, done.stderr
    assert "it is asked again for up to 0.05 minutes" in done.stderr
    assert "gave no answer for 0.05 minutes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["adapter", "weights"])
def test_vllm_in_the_run_itself_learns_as_a_server_would(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Started by the run, given each step's policy, asked at a temperature other than 1, and gone at the end. The model's head
    and embeddings are one, and move."""
    from typer.testing import CliRunner

    from rlaif.cli import app
    from rlaif.training.checkpoints import read_metrics
    from rlaif.training.online import session
    from rlaif.training.online.server import ServerSampler

    ids = tuple(range(500, 508))
    found, moved = [], []

    class Watched(ServerSampler):
        async def refresh(self, step: int) -> None:
            await super().refresh(step)
            (name,) = await self.server.loaded()
            assert name.endswith(f"-{step}")
            there = await self._complete(self._body(self.probe, 2, 8, 7))
            found.append([(one.logps, self._score(self.probe, one.ids)) for one in there])
            moved.append(list(self._score(self.probe, ids)))

    monkeypatch.setattr(session, "ServerSampler", Watched)
    command = [*arguments, "--temperature", "1.3", "--set", "rollouts={engine: vllm}", *FORMS[form]]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(found) == STEPS
    for there, here in itertools.chain(*found):
        assert there == pytest.approx(list(here), abs=TOLERANCE)
    assert max(abs(new - old) for new, old in zip(moved[-1], moved[0], strict=True)) > 2 * TOLERANCE
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert max(line["sampling/policy_gap"] for line in lines) < TOLERANCE
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < TOLERANCE
    assert not (tmp_path / "run/adapters").exists()
    assert not (tmp_path / "run/weights").exists()
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False
    )
    assert "EngineCore" not in children.stdout


@pytest.fixture(scope="module")
def own_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model with a head apart from its embeddings, as vLLM on the CPU wants it for new weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("model") / "own-head"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}))
    return folder


@pytest.fixture(scope="module")
def weights_url(own_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    process, base_url = start_server(str(own_head), log, "--enable-scale-out", variables={"VLLM_SERVER_DEV_MODE": "1"})
    with stopping(process):
        wait_until_ready(process, base_url, log)
        yield base_url


def test_the_weights_that_answer_are_those_just_trained(
    weights_url: str, own_head: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of adapters above. The run is killed once on its way, and at its end the server has its own weights again."""
    from typer.testing import CliRunner

    from rlaif.cli import app
    from rlaif.training.checkpoints import read_metrics
    from rlaif.training.online import session
    from rlaif.training.online.server import ServerSampler

    ids = tuple(range(500, 508))
    found: list[tuple[list[float], list[float]]] = []

    class Watched(ServerSampler):
        async def refresh(self, step: int) -> None:
            await super().refresh(step)
            found.append((served_logps(weights_url, "policy", self.probe, ids), list(self._score(self.probe, ids))))

    monkeypatch.setattr(session, "ServerSampler", Watched)
    command = [str(own_head) if one == str(MODEL) else one for one in arguments]
    command += [*FORMS["weights"], *by(weights_url)]
    before = served_logps(weights_url, "policy", (1, 2, 3), ids)
    assert rlaif(*command, code=KILLED).returncode == -signal.SIGKILL
    assert max(
        abs(new - old) for new, old in zip(served_logps(weights_url, "policy", (1, 2, 3), ids), before, strict=True)
    )
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(found) == STEPS - 2
    for there, here in found:
        assert there == pytest.approx(here, abs=TOLERANCE)
    for (earlier, _), (later, _) in itertools.pairwise(found):
        assert max(abs(new - old) for new, old in zip(later, earlier, strict=True)) > 2 * TOLERANCE
    assert served_logps(weights_url, "policy", (1, 2, 3), ids) == pytest.approx(before, abs=1e-4)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert max(line["sampling/policy_gap"] for line in lines) < TOLERANCE
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < TOLERANCE


def test_a_server_that_takes_no_weights_is_one_message(url: str, arguments: list[str]) -> None:
    done = rlaif(*arguments, *FORMS["weights"], *by(url))
    assert done.returncode == 2, done.stderr
    assert "VLLM_SERVER_DEV_MODE=1" in done.stderr
    assert "Traceback" not in done.stderr
