"""Whole runs whose rollouts a server answers: the adapter it is given at each step, and what it does wrong.

The server is a stand-in that holds the tiny model (tiny_vllm.py); tests/engines/test_vllm_rollouts.py has the real one.
"""

import json
import signal
import socket
from pathlib import Path
from typing import Any

import killing
import pytest
from runs import in_process
from tiny_vllm import TinyVllm

from rlaif.errors import ConfigError, EngineError, OutageError, RlaifError
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.online import vllm_calls


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def steps_of(events: list[str], verb: str) -> list[int]:
    """The steps in the names of the adapters that something happened to, each once, in the order it did."""
    return list(dict.fromkeys(int(event.rsplit("-", 1)[1]) for event in events if event.startswith(f"{verb} ")))


def test_each_step_s_adapter_is_loaded_checked_and_removed(served_config: Any, server: TinyVllm) -> None:
    """4 rollouts, of the policy after 0, 1, 2 and 3 steps. The importance weight of TRL has its numbers under
    sampling/sampling_logp_difference: those of float32 on both sides, far below the tolerance of 0.01."""
    config = served_config(server.url)
    train(config)
    assert [steps_of(server.events, verb) for verb in ("load", "sample", "unload")] == [[0, 1, 2, 3]] * 3
    assert len({event.split()[1] for event in server.events}) == 4
    assert server.most == 2  # while the new one is checked
    assert not server.served
    assert not (config.output / "adapters").exists()
    lines = read_metrics(config.output / "metrics.jsonl")
    assert len(lines) == 4
    assert max(line["sampling/policy_gap"] for line in lines) < 1e-4
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < 1e-4


def test_an_old_adapter_under_a_new_name_is_noticed(served_config: Any, server: TinyVllm) -> None:
    """What vLLM's prefix cache would do to adapters of one name: from the second step on the first adapter answers."""
    server.served_as = lambda name: next(iter(server.served))
    with pytest.raises(EngineError, match=r"answers with other log-probs .* and 0\.01 is allowed"):
        train(served_config(server.url))
    assert steps_of(server.events, "load") == [0, 1]
    assert not server.served  # the run removes what it loaded although it fails


@pytest.mark.parametrize("processed", [False, True])
def test_log_probs_of_temperature_1_are_noticed(served_config: Any, model_folder: Path, processed: bool) -> None:
    with TinyVllm(model_folder, processed=processed) as server:
        config = served_config(server.url, temperature=1.5)
        if processed:
            train(config)
            assert max(line["sampling/policy_gap"] for line in read_metrics(config.output / "metrics.jsonl")) < 1e-4
            return
        with pytest.raises(EngineError, match=r"\(here 1\.5\).*--logprobs-mode processed_logprobs"):
            train(config)
        assert not (config.output / "rollouts/process-0/samples.jsonl").read_text()  # nothing was learnt from


def test_at_temperature_1_the_message_does_not_speak_of_it(served_config: Any, server: TinyVllm) -> None:
    server.spoil = lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, float("nan"))
    with pytest.raises(EngineError, match=r"serve the model that is trained, in the same number format \(--dtype\)\.$"):
        train(served_config(server.url))


def test_a_server_that_fails_for_a_while_is_asked_again(
    served_config: Any, server: TinyVllm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_calls, "FIRST_PAUSE_SECONDS", 0.01)
    server.statuses = [500, 503, 429]
    train(served_config(server.url, patience_minutes=1))
    said = capsys.readouterr().err
    assert said.count("HTTP 500: on purpose; it is asked again for up to 1 minutes") == 1
    assert not server.statuses


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda choice: choice.pop("token_ids"), r"gives no token ids .* vLLM 0\.10\.2 or newer"),
        (lambda choice: choice.update(logprobs=None), r"gives no token ids with their log-probs"),
        (lambda choice: choice["token_ids"].append(5), r"gives no token ids with their log-probs"),
        (lambda choice: choice.update(finish_reason="abort"), r"gives an answer that can not be read"),
        (
            lambda choice: choice.pop("index"),
            r"gives an answer that can not be read: \{'choices'.* is it a vLLM server\?",
        ),
    ],
)
def test_an_answer_without_what_is_learnt_from_is_one_message(
    served_config: Any, server: TinyVllm, spoil: Any, message: str
) -> None:
    server.spoil = spoil
    with pytest.raises(EngineError, match=message):
        train(served_config(server.url))


def test_a_refused_adapter_is_told_and_not_asked_for_again(served_config: Any, server: TinyVllm) -> None:
    """vLLM refuses with HTTP 500, which of a rollout would be tried again: with an hour of patience, this would hang."""
    server.refusal = lambda name: (500, "LoRA rank 4 is greater than max_lora_rank 2.")
    with pytest.raises(EngineError, match=r"LoRA rank 4 is greater than max_lora_rank 2\. It must .*--max-lora-rank"):
        train(served_config(server.url, patience_minutes=60))


def test_a_server_that_loads_no_adapters_is_told_how_to_start(served_config: Any, model_folder: Path) -> None:
    with (
        TinyVllm(model_folder, loads=False) as server,
        pytest.raises(EngineError, match=r"--enable-lora and .* VLLM_ALLOW_RUNTIME_LORA_UPDATING=True$"),
    ):
        train(served_config(server.url, patience_minutes=60))


def test_another_path_than_the_server_s_is_told(served_config: Any, server: TinyVllm) -> None:
    with pytest.raises(RlaifError, match=r"ends in /v1"):
        train(served_config(server.url.removesuffix("/v1")))


def test_a_server_that_is_down_is_waited_for_and_then_an_outage(
    served_config: Any, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the same command goes on once it is there."""
    port = unused_port()
    config = served_config(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(OutageError, match=r"gave no answer for 0\.02 minutes .* same command continues") as caught:
        train(config)
    assert caught.value.exit_status == 3
    assert "it is asked again for up to 0.02 minutes" in capsys.readouterr().err
    with TinyVllm(model_folder, port=port) as server:
        train(config)
        assert steps_of(server.events, "load") == [0, 1, 2, 3]


def test_an_outage_in_the_middle_saves_the_step_before(served_config: Any, model_folder: Path) -> None:
    """With save_steps 100, so that only the outage makes a checkpoint; the next start goes on from it, and elsewhere: a
    server may have moved."""
    with TinyVllm(model_folder) as server:
        server.refusal = lambda name: (503, "gone") if name.endswith("-2") else None
        config = served_config(server.url, save_steps=100)
        for _ in range(2):  # the second time nothing is new, and the checkpoint stays
            with pytest.raises(OutageError, match="The run is saved at step 2"):
                train(config)
            assert [path.name for path in (config.output / "checkpoints").iterdir()] == ["checkpoint-2"]
    with TinyVllm(model_folder) as elsewhere:
        train(served_config(elsewhere.url, save_steps=100))
        assert steps_of(elsewhere.events, "load") == [2, 3]
    assert [line["step"] for line in read_metrics(config.output / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_server_that_was_started_anew_gets_the_adapter_again(served_config: Any, server: TinyVllm) -> None:
    """It forgets the adapter between the check and the first rollout of step 1."""
    forgot = []

    def forget(choice: Any) -> None:
        if server.events[-1].endswith("-1") and not forgot:
            forgot.append(server.served.pop(server.events[-1].split()[1]))

    server.spoil = forget
    train(served_config(server.url))
    assert forgot
    assert [event.rsplit("-", 1)[1] for event in server.events if event.startswith("load")] == ["0", "1", "1", "2", "3"]


KILLED = killing.AT_STEP_2 + "train(config)\n"


def test_a_killed_run_goes_on_although_its_adapter_is_loaded(served_config: Any, server: TinyVllm) -> None:
    """Killed at step 2, when that step's adapter was loaded, and goes on from step 2: the name must be another, and the old
    adapter must go. One of another run stays."""
    config = served_config(server.url)
    assert in_process(config, KILLED).returncode == -signal.SIGKILL
    (old,) = server.served
    server.served["rlaif-another-1"] = None
    server.events.clear()
    train(config)
    assert steps_of(server.events, "load") == [2, 3]
    assert server.events[0] == f"unload {old}"
    assert f"load {old}" not in server.events
    assert list(server.served) == ["rlaif-another-1"]
    assert not (config.output / "adapters").exists()


def test_of_two_processes_one_loads_and_both_sample(served_config: Any, server: TinyVllm) -> None:
    """2 prompts a step, one for each process: the probe of the loader's check and 2 rollouts for each of the 4 adapters."""
    config = served_config(server.url)
    done = in_process(config, "train(config)", processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    for verb, count in (("load", 4), ("sample", 12), ("unload", 4)):
        assert len([event for event in server.events if event.startswith(verb)]) == count
    assert steps_of(server.events, "sample") == [0, 1, 2, 3]
    assert not server.served
    for process in (0, 1):
        lines = (config.output / f"rollouts/process-{process}/samples.jsonl").read_text().splitlines()
        assert len(lines) == 4
    assert (
        max(line["sampling/sampling_logp_difference/mean"] for line in read_metrics(config.output / "metrics.jsonl"))
        < 1e-4
    )


def test_what_the_loader_finds_wrong_ends_every_process(served_config: Any, server: TinyVllm) -> None:
    server.refusal = lambda name: (500, "no room")
    done = in_process(served_config(server.url), "train(config)", processes=2)
    assert done.returncode
    assert done.stderr.count("EngineError: http://127.0.0.1") >= 1
    assert done.stderr.count("TrainError: http://127.0.0.1") >= 1  # of the process that only samples


def adapter_folder(tmp_path: Path, **settings: Any) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    base = {"base_model_name_or_path": "base", "peft_type": "LORA", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**base, **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "it is a DoRA"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, r"modules_to_save: embed_tokens, lm_head"),
        ({"target_modules": ["q_proj", "lm_head"]}, r"it adapts the head \(lm_head\)"),
        ({"bias": "all"}, "it trains biases"),
        ({"trainable_token_indices": [5]}, "it trains embeddings"),
    ],
)
def test_adapters_that_vllm_does_not_serve_are_refused_before_anything(
    served_config: Any, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    """No server is there, and none is asked."""
    config = served_config("http://127.0.0.1:9/v1", init_adapter=adapter_folder(tmp_path, **settings))
    with pytest.raises(ConfigError, match=f"init_adapter: .*{reason}"):
        train(config)
    assert not config.output.exists()


@pytest.mark.parametrize("lora", [{"target_modules": ["lm_head"]}, {"dora": True}])
def test_settings_of_such_an_adapter_are_refused_too(served_config: Any, lora: dict[str, Any]) -> None:
    with pytest.raises(RlaifError, match=r"rollouts\.engine: server is impossible"):
        train(served_config("http://127.0.0.1:9/v1", lora={"r": 4, **lora}))
