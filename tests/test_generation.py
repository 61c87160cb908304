from pathlib import Path

import pytest

from rlaif import generate
from rlaif.engines.base import Capabilities, Completion, Engine, Request
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import BudgetReached, ConfigError, QualityGateError
from rlaif.records import read_records
from rlaif.types import Response, Sampling

PROMPTS = ["a", "b", "c"]


def echo() -> ScriptedEngine:
    return ScriptedEngine(lambda request, index: f"{request.messages[-1].content}{index}")


def rows(path: Path) -> set[tuple[str, str]]:
    return {(row.id, row.text) for row in read_records(path, Response)}


def test_every_prompt_gets_n_responses_from_every_model(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    made = generate(PROMPTS, ["m1", "m2"], n=2, output=path, engines=[echo(), echo()])
    assert sorted((row.model, row.text) for row in made.responses) == sorted(
        (model, f"{prompt}{index}") for model in ("m1", "m2") for prompt in PROMPTS for index in range(2)
    )
    assert {row.id for row in read_records(path, Response)} == {row.id for row in made.responses}


def test_the_same_command_asks_nothing_again_and_a_killed_one_asks_only_what_is_missing(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    generate(PROMPTS, "m", n=3, output=whole, engines=[echo()])
    killed.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])
    engine = echo()
    made = generate(PROMPTS, "m", n=3, output=killed, engines=[engine])
    assert rows(killed) == rows(whole)
    assert made.new + made.reused == 9
    assert sum(len(request.indices) for request in engine.requests) == made.new < 9
    again = echo()
    assert generate(PROMPTS, "m", n=3, output=killed, engines=[again]).new == 0
    assert again.requests == []


def test_more_responses_per_prompt_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    generate(PROMPTS, "m", n=1, output=path, engines=[echo()])
    made = generate(PROMPTS, "m", n=3, output=path, engines=[echo()])
    assert (made.reused, made.new) == (3, 6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 1}, "n (there more than 1, now 1)"),
        ({"sampling": Sampling(temperature=0.5)}, "temperature (there 1.0, now 0.5)"),
        ({"system": "s"}, "prompts or system prompt"),
    ],
)
def test_an_output_of_another_command_is_refused_with_what_changed(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    path = tmp_path / "r.jsonl"
    generate(PROMPTS, "m", n=2, output=path, engines=[echo()])
    before = path.read_bytes()
    with pytest.raises(ConfigError) as error:
        generate(PROMPTS, "m", **{"n": 2, "output": path, "engines": [echo()], **change})  # type: ignore[arg-type]
    assert told in str(error.value)
    assert path.read_bytes() == before
    made = generate(PROMPTS, "m", **{"n": 2, "output": path, "engines": [echo()], "overwrite": True, **change})  # type: ignore[arg-type]
    assert made.reused == 0


class Faulty(Engine):
    """Fails for the prompt 'b', and stops with `stop` after the first answer if given."""

    kind = "scripted"
    model = "faulty"

    def __init__(self, stop: Exception | None = None) -> None:
        self.stop = stop

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(choice_constraint=False, choice_probabilities=False)

    async def complete_many(self, requests: list[Request]):  # type: ignore[no-untyped-def, override]
        for request in requests:
            if request.messages[-1].content == "b":
                yield Completion(key=request.key, failure="unavailable", detail="500 after 6 tries")
            else:
                yield await echo().complete(request)
            if self.stop is not None:
                raise self.stop


def test_failed_requests_are_listed_and_asked_again_by_the_same_command(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(QualityGateError, match=r"1 of 3 requests failed .*500 after 6 tries"):
        generate(PROMPTS, "m", output=path, engines=[Faulty()])
    assert len(rows(path)) == 2
    assert "unavailable" in (tmp_path / "r.jsonl.d" / "failed.jsonl").read_text()
    made = generate(PROMPTS, "m", output=path, engines=[echo()])
    assert (made.new, made.reused) == (1, 2)
    assert not (tmp_path / "r.jsonl.d" / "failed.jsonl").exists()


def test_what_was_answered_before_the_budget_ended_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(BudgetReached):
        generate(PROMPTS, "m", output=path, engines=[Faulty(BudgetReached("stopped"))])
    assert len(rows(path)) == 1


def test_a_policy_trained_again_in_the_same_folder_is_another_model(tmp_path: Path) -> None:
    weights, path = tmp_path / "policy" / "adapter_model.safetensors", tmp_path / "r.jsonl"
    weights.parent.mkdir()
    weights.write_bytes(b"first" * 100_000)
    generate(PROMPTS, str(weights.parent), output=path, engines=[echo()])
    assert generate(PROMPTS, str(weights.parent), output=path, engines=[echo()]).new == 0
    weights.write_bytes(b"other" * 100_000)
    with pytest.raises(ConfigError, match="the weights of"):
        generate(PROMPTS, str(weights.parent), output=path, engines=[echo()])
    assert generate(PROMPTS, str(weights.parent), output=path, engines=[echo()], overwrite=True).new == 3
    assert (tmp_path / "r.jsonl.old").exists(), "what was paid for is kept"


def test_metadata_that_changed_is_taken_over_by_the_responses_that_are_there(tmp_path: Path) -> None:
    prompts, path = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    for answer in ("4", "5"):
        prompts.write_text(f'{{"prompt": "2 + 3", "metadata": {{"answer": "{answer}"}}}}\n')
        generate(prompts, "m", output=path, engines=[echo()])
    assert [row.prompt.metadata for row in read_records(path, Response)] == [{"answer": "5"}]


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 response"):
        generate(PROMPTS, "m", n=0)
    with pytest.raises(ConfigError, match="given twice"):
        generate(PROMPTS, ["m", "m"])


def test_what_an_engine_notices_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    notices: list[str] = []

    def answer(request: Request, index: int) -> str:
        heard.append(capsys.readouterr().err)
        if not notices:
            notices.append("refuses seed")
        return "answer"

    engine = ScriptedEngine(answer, model="m")
    engine.notices = notices
    generate(PROMPTS, "m", engines=[engine])
    assert "m: refuses seed" in heard[1]
    assert "".join([*heard, capsys.readouterr().err]).count("refuses seed") == 1
