"""Judges of every kind as rewards of groups: what the values are, what has none, and what an outage does."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from stub_server import Body, StubServer, chat_reply, fault

from rlaif.config import validate
from rlaif.engines.base import Capabilities, Request, Sample, ScoreCompletion, ScoreRequest
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import BudgetReached, ConfigError, EngineError, OutageError
from rlaif.judges.programs.text import ContainsCheck
from rlaif.records import read_records, write_records
from rlaif.training.config.rewards import RewardSourceConfig
from rlaif.training.online import patience
from rlaif.training.online.rewards import RewardSources, Scored
from rlaif.types import Judgment, Response

Make = Callable[..., Response]
Answer = Callable[[Request, int], Any]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.01)


def config(data: str | dict[str, Any]) -> RewardSourceConfig:
    return RewardSourceConfig.model_validate(data)


def opened(folder: Path, *sources: str | dict[str, Any], **options: Any) -> RewardSources:
    return RewardSources([config(source) for source in sources], folder, **options)


def group(make: Make, *texts: str, prompt: str = "question", **more: Any) -> list[Response]:
    return [make(text, prompt=prompt, index=index, **more) for index, text in enumerate(texts)]


def only(scored: list[list[dict[str, Scored]]]) -> list[float | None]:
    """The values of the only source for the only group."""
    ((*rows,),) = scored
    return [value.value for row in rows for value in row.values()]


def reasons(scored: list[list[dict[str, Scored]]]) -> list[str | None]:
    return [value.reason for rows in scored for row in rows for value in row.values()]


def shown(request: Request, label: str) -> str:
    """The answer that a pairwise judge is shown under a letter, without its fences."""
    return request.messages[-1].content.split(f"# Answer {label}\n")[1].split("\n# ")[0].strip().splitlines()[1]


def longer(request: Request, index: int) -> str:
    """A pairwise judge that prefers the longer text, whatever the order."""
    return "A" if len(shown(request, "A")) > len(shown(request, "B")) else "B"


def judge_of(answer: Answer | None = None, **more: Any) -> tuple[dict[str, Any], ScriptedEngine]:
    """A source of the shipped judge 'helpful' (pairwise), and the engine that answers in its place."""
    engine = ScriptedEngine(answer or longer)
    return {"judge": "helpful", "model": "m", **more}, engine


# What the values are


async def test_a_program_gives_its_score(make_response: Make, tmp_path: Path) -> None:
    async with opened(tmp_path, "valid-json") as sources:
        scored = await sources.score([group(make_response, '{"a": 1}', "no", prompt="p"), group(make_response, "[]")])
    assert scored == [[{"valid-json": Scored(1.0)}, {"valid-json": Scored(0.0)}], [{"valid-json": Scored(1.0)}]]
    assert len(list(read_records(tmp_path / "valid-json" / "judgments.jsonl", Judgment))) == 3


async def test_a_pointwise_judge_gives_its_score_by_one_vote(make_response: Make, tmp_path: Path) -> None:
    """On the scale from 1 to 5 the rating 4 is 3/4, and 1 is 0."""
    engine = ScriptedEngine(lambda request, index: "4" if "good" in request.messages[-1].content else "1")
    source = {"judge": "helpful-score", "model": "m"}
    async with opened(tmp_path, source, engines={"helpful-score": engine}) as sources:
        assert only(await sources.score([group(make_response, "good", "bad")])) == [0.75, 0.0]
    assert len(engine.requests) == 2


async def test_a_checklist_in_the_prompt_gives_the_share_that_is_met(make_response: Make, tmp_path: Path) -> None:
    """One of two items is met. A prompt without a checklist gives no value, and does not end the run."""
    path = tmp_path / "mine.yaml"
    path.write_text("kind: checklist\nprompt: checklist\n")
    engine = ScriptedEngine(lambda request, index: "yes" if "Short?" in request.messages[-1].content else "no")
    rows = group(make_response, "one", prompt="with", metadata={"checklist": ["Short?", "Sweet?"]})
    async with opened(tmp_path / "r", {"judge": str(path), "model": "m"}, engines={"mine": engine}) as sources:
        assert only(await sources.score([rows])) == [0.5]
        without = await sources.score([group(make_response, "two", prompt="without")])
    assert only(without) == [None]
    assert "no checklist" in str(reasons(without)[0])


async def test_one_reward_model_gives_its_own_reward(make_response: Make, tmp_path: Path) -> None:
    """Beside another judge it is a score: sigmoid(0) is 1/2, the program gives 1, and their mean is 3/4."""
    engine = ScriptedEngine(score=lambda request: 7.5 if request.messages[-1].content == "{}" else -3.25)
    source = {"judge": "reward", "model": "m"}
    async with opened(tmp_path / "a", source, engines={"reward": engine}) as sources:
        assert only(await sources.score([group(make_response, "{}", "b")])) == [7.5, -3.25]
    path = tmp_path / "both.yaml"
    path.write_text("kind: ensemble\nmembers: [{judge: reward, engine: {model: m}}, {judge: valid-json}]\n")
    zero = ScriptedEngine(score=lambda request: 0.0)
    async with opened(tmp_path / "b", str(path), engines={"reward": zero}) as sources:
        assert only(await sources.score([group(make_response, "{}")])) == [0.75]


async def test_a_real_reward_model_scores_groups_in_one_session_after_another(
    make_response: Make, tmp_path: Path
) -> None:
    import torch
    from tiny import build_tokenizer
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    from rlaif.engines.reward import RewardEngine
    from rlaif.types import Message

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = LlamaConfig(vocab_size=260, num_labels=1, pad_token_id=0, initializer_range=0.3, **sizes)
    AutoModelForSequenceClassification.from_config(shape).save_pretrained(tmp_path / "rm")
    build_tokenizer().save_pretrained(tmp_path / "rm")
    async with opened(tmp_path / "r", {"judge": "reward", "model": str(tmp_path / "rm")}) as sources:
        first = only(await sources.score([group(make_response, "one", "two")]))
        second = only(await sources.score([group(make_response, "three", prompt="other")]))
    turns = [("question", "one"), ("question", "two"), ("other", "three")]
    async with RewardEngine(str(tmp_path / "rm")) as engine:
        for value, (asked, answered) in zip([*first, *second], turns, strict=True):
            messages = (Message(role="user", content=asked), Message(role="assistant", content=answered))
            (expected,) = [each async for each in engine.score_many([ScoreRequest(key="k", messages=messages)])]
            assert value == pytest.approx(expected.reward, abs=1e-5)


async def test_a_pairwise_judge_by_ring(make_response: Make, tmp_path: Path) -> None:
    """In a ring 4, 1, 3, 2 long: 4 beats 1 and 2 (mean 1), 1 loses to 4 and 3 (-1), 3 beats 1 and 2 (1), 2 loses to 3 and
    4 (-1); four comparisons in two orders are eight votes."""
    source, engine = judge_of()
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        values = only(await sources.score([group(make_response, "aaaa", "b", "ccc", "dd")]))
        assert sources.within_groups == ("helpful",)
    assert values == [1.0, -1.0, 1.0, -1.0]
    assert len(engine.requests) == 8


async def test_a_pairwise_judge_on_all_pairs(make_response: Make, tmp_path: Path) -> None:
    """4 beats all three; 3 beats two and loses one: (1 + 1 - 1) / 3; 2 beats one: -1/3; 1 loses all."""
    source, engine = judge_of(comparisons="all")
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        values = only(await sources.score([group(make_response, "aaaa", "b", "ccc", "dd")]))
    assert values == pytest.approx([1.0, -1.0, 1 / 3, -1 / 3])
    assert len(engine.requests) == 12


async def test_a_margin_is_as_large_as_the_probabilities_say(make_response: Make, tmp_path: Path) -> None:
    """With 0.7 and 0.3 for the longer in either order the margin is 0.4."""

    def unsure(request: Request, index: int) -> Sample:
        label = longer(request, index)
        other = "B" if label == "A" else "A"
        probabilities = {label: 0.7, other: 0.3} | {
            choice: 0.0 for choice in request.choices or () if choice not in "AB"
        }
        return Sample(index=0, text=label, finish_reason="stop", choice_probabilities=probabilities)

    can = Capabilities(choice_constraint=True, choice_probabilities=True)
    engine = ScriptedEngine(unsure, capabilities=can)
    source = {"judge": "helpful", "model": "m"}
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        assert only(await sources.score([group(make_response, "aa", "b")])) == pytest.approx([0.4, -0.4])


async def test_a_judge_that_likes_the_first_place_gives_nothing_to_anyone(make_response: Make, tmp_path: Path) -> None:
    source, engine = judge_of(lambda request, index: "A")
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        assert only(await sources.score([group(make_response, "aa", "b", "cccc")])) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("rule", "better"), [("ring", 1.0), ("all", 0.5)])
async def test_equal_texts_are_asked_once_and_get_the_same(
    make_response: Make, tmp_path: Path, rule: str, better: float
) -> None:
    """Of all pairs, each 'aa' ties with its copy and beats 'b': (0 + 1) / 2, and 'b' loses twice. In a ring copies are one."""
    source, engine = judge_of(comparisons=rule)
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        assert only(await sources.score([group(make_response, "aa", "b", "aa")])) == [better, -1.0, better]
        assert len(engine.requests) == 2
        assert only(await sources.score([group(make_response, "cc", "cc", prompt="other")])) == [0.0, 0.0]
        assert len(engine.requests) == 2
        alone = await sources.score([group(make_response, "cc", prompt="third")])
    assert only(alone) == [None]
    assert "single response" in str(reasons(alone)[0])


async def test_all_comparisons_are_with_every_other_response_copies_too(make_response: Make, tmp_path: Path) -> None:
    """'cc' loses to 'aaa' and beats both copies of 'b': 1/3; a 'b' ties with its copy and loses twice: -2/3."""
    source, engine = judge_of(comparisons="all")
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        values = only(await sources.score([group(make_response, "cc", "b", "aaa", "b")]))
    assert values == pytest.approx([1 / 3, -2 / 3, 1.0, -2 / 3])
    assert len(engine.requests) == 6


@pytest.mark.parametrize(
    ("kind", "votes", "asked"), [("pointwise", None, 2), ("pointwise", 3, 6), ("pairwise", None, 2)]
)
async def test_one_vote_of_judges_that_score_and_two_of_those_that_compare(
    make_response: Make, tmp_path: Path, kind: str, votes: int | None, asked: int
) -> None:
    """Unless the source says how many: here at a temperature at which more votes would say more."""
    prompt = "helpful" if kind == "pairwise" else "helpful-score\nscale: [1, 5]"
    path = tmp_path / "mine.yaml"
    path.write_text(f"kind: {kind}\nprompt: {prompt}\ntemperature: 1\n")
    engine = ScriptedEngine(lambda request, index: "A" if kind == "pairwise" else "3")
    source = {"judge": str(path), "model": "m", "votes": votes}
    async with opened(tmp_path / "r", source, engines={"mine": engine}) as sources:
        await sources.score([group(make_response, "a", "b")])
    assert len(engine.requests) == asked


async def test_a_ranking_is_as_all_comparisons(make_response: Make, tmp_path: Path) -> None:
    """Of 4, 1, 2 and 3: 1, -1, (1 - 1 - 1) / 3 and (1 + 1 - 1) / 3, by one ranking in each of two orders."""

    def ranks(request: Request, index: int) -> str:
        parts = re.split(r"# Answer ([A-Z])\n", request.messages[-1].content.split("# Ranking")[0])[1:]
        lengths = {
            label: len(text.strip().splitlines()[1]) for label, text in zip(parts[::2], parts[1::2], strict=True)
        }
        return "[[" + " > ".join(sorted(lengths, key=lambda label: -lengths[label])) + "]]"

    engine = ScriptedEngine(ranks)
    source = {"judge": "ranking", "model": "m"}
    async with opened(tmp_path, source, engines={"ranking": engine}) as sources:
        values = only(await sources.score([group(make_response, "aaaa", "b", "cc", "ddd")]))
        assert values == pytest.approx([1.0, -1.0, -1 / 3, 1 / 3])
        assert len(engine.requests) == 2
        many = [("t" * (place + 1)) for place in range(9)]
        too_many = await sources.score([group(make_response, *many, prompt="many")])
    assert only(too_many) == [None] * 9
    assert "ranks at once" in str(reasons(too_many)[0])


async def test_a_baseline_in_the_metadata_is_what_responses_are_compared_with(
    make_response: Make, tmp_path: Path
) -> None:
    """The baseline 'bbb' loses to four letters, beats one, and ties with itself without being asked."""
    source, engine = judge_of(comparisons="baseline", baseline="reference")
    rows = group(make_response, "aaaa", "c", "bbb", metadata={"reference": "bbb"})
    missing = group(make_response, "aaaa", prompt="other")
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        known, unknown = await sources.score([rows, missing])
        assert sources.within_groups == ()
    assert only([known]) == [1.0, -1.0, 0.0]
    assert len(engine.requests) == 4
    assert unknown[0]["helpful"].value is None
    assert f"no baseline answer to the prompt {missing[0].prompt.id}" == unknown[0]["helpful"].reason


async def test_a_baseline_in_a_file_of_responses(make_response: Make, tmp_path: Path) -> None:
    """Of several responses to a prompt the first is the baseline; ids do not matter, only the prompt."""
    answers = [*group(make_response, "x", prompt="before"), *group(make_response, "bbb", "bbbbbb", model="base")]
    write_records(tmp_path / "answers.jsonl", answers)
    source, engine = judge_of(comparisons="baseline", baseline=str(tmp_path / "answers.jsonl"))
    async with opened(tmp_path / "r", source, engines={"helpful": engine}) as sources:
        assert only(await sources.score([group(make_response, "aaaa", "c")])) == [1.0, -1.0]


async def test_judges_without_a_say_neither_compare_nor_count(make_response: Make, tmp_path: Path) -> None:
    """In brief-panel a program decides and a pairwise judge is only shown beside it: it is not asked."""
    async with opened(tmp_path, {"judge": "brief-panel", "model": "nobody"}) as sources:
        values = only(await sources.score([group(make_response, "This is short.", "word " * 500)]))
        assert sources.within_groups == ()
    assert values == [1.0, 0.0]


async def test_several_sources_have_names_and_weights(make_response: Make, tmp_path: Path) -> None:
    source, engine = judge_of(weight=0.5)
    penalty = {"judge": "valid-json", "name": "no-json", "weight": -2}
    async with opened(tmp_path, source, penalty, engines={"helpful": engine}) as sources:
        ((first, second),) = await sources.score([group(make_response, "{}", "longer")])
        assert sources.names == ("helpful", "no-json")
        assert sources.weights == {"helpful": 0.5, "no-json": -2.0}
    assert first == {"helpful": Scored(-1.0), "no-json": Scored(1.0)}
    assert second == {"helpful": Scored(1.0), "no-json": Scored(0.0)}


# What has no value


async def test_what_can_not_be_read_has_no_value_and_is_not_asked_again(make_response: Make, tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, index: "5" if "good" in request.messages[-1].content else "well...")
    for _ in range(2):
        source = {"judge": "helpful-score", "model": "m"}
        async with opened(tmp_path, source, engines={"helpful-score": engine}) as sources:
            scored = await sources.score([group(make_response, "good", "odd")])
        assert only(scored) == [1.0, None]
        assert reasons(scored) == [None, "helpful-score: unparsed"]
    assert len(engine.requests) == 2


async def test_a_comparison_read_in_one_order_only_does_not_count(make_response: Make, tmp_path: Path) -> None:
    """Of 'aaa', 'x', 'cc' the judge says nothing readable when 'x' is shown second: both comparisons with it are lost, and
    'aaa' and 'cc' are left with the one between them."""
    source, engine = judge_of(
        lambda request, index: "hm" if shown(request, "B") == "x" else longer(request, index), comparisons="all"
    )
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        scored = await sources.score([group(make_response, "aaa", "x", "cc")])
    assert only(scored) == [1.0, None, -1.0]
    assert "one of its two orders" in str(reasons(scored)[1])


async def test_a_comparison_that_can_not_be_read_at_all_says_why(make_response: Make, tmp_path: Path) -> None:
    source, engine = judge_of(lambda request, index: "hm")
    async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
        scored = await sources.score([group(make_response, "aaa", "x")])
    assert only(scored) == [None, None]
    assert reasons(scored) == ["helpful: unparsed"] * 2


async def test_a_part_of_an_ensembles_score_is_no_score(make_response: Make, tmp_path: Path) -> None:
    """Without the model's rating the program's 1 alone would stand beside means of both."""
    path = tmp_path / "both.yaml"
    path.write_text("kind: ensemble\nmembers: [{judge: helpful-score, engine: {model: m}}, {judge: valid-json}]\n")
    engine = ScriptedEngine(lambda request, index: "hm" if "{}" in request.messages[-1].content else "1")
    async with opened(tmp_path / "r", str(path), engines={"helpful-score": engine}) as sources:
        assert only(await sources.score([group(make_response, "{}", "[]")])) == [None, 0.5]


async def test_too_long_for_a_judge_is_final(make_response: Make, tmp_path: Path) -> None:
    def score(request: ScoreRequest) -> float | ScoreCompletion:
        if len(request.messages[-1].content) < 5:
            return 1.0
        return ScoreCompletion(key=request.key, failure="over-long", detail="9 tokens exceed 8")

    source = {"judge": "reward", "model": "m"}
    async with opened(tmp_path, source, engines={"reward": ScriptedEngine(score=score)}) as sources:
        scored = await sources.score([group(make_response, "ok", "much too long")])
    assert only(scored) == [1.0, None]
    assert reasons(scored)[1] == "reward: over-long: 9 tokens exceed 8"


# Outages


def rating(body: Body, before: int) -> web.Response:
    return chat_reply("3")


def remote(url: str, **more: Any) -> dict[str, Any]:
    """A pointwise judge behind an endpoint, whose engine does not retry by itself."""
    return {
        "judge": "helpful-score",
        "engine": {"model": "stub", "base_url": url, "max_retries": 0, "concurrency": 2, **more},
    }


async def test_an_outage_that_ends_is_waited_through(
    make_response: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first two requests fail, the next two attempts at them work; said once, and no progress lines."""

    def answer(body: Body, before: int) -> web.Response:
        return fault(503, "overloaded") if before < 2 else rating(body, before)

    async with StubServer(answer) as server, opened(tmp_path, remote(server.url)) as sources:
        assert only(await sources.score([group(make_response, "a", "b")])) == [0.5, 0.5]
        assert only(await sources.score([group(make_response, "c", prompt="other")])) == [0.5]
    assert len(server.bodies) == 5
    said = capsys.readouterr().err
    assert said.count("asked again for up to 10 minutes") == 1
    assert said.count("answers again") == 1
    assert "judge stub" not in said


async def test_an_outage_longer_than_patience_ends_the_run_with_all_saved(make_response: Make, tmp_path: Path) -> None:
    """'a' is answered, 'b' never: exit 3; once the endpoint is back only 'b' is asked."""
    is_back = False

    def answer(body: Body, before: int) -> web.Response:
        lost = "bbb" in body["messages"][-1]["content"] and not is_back
        return fault(503, "overloaded") if lost else rating(body, before)

    rows = group(make_response, "aaa", "bbb")
    async with StubServer(answer) as server:
        async with opened(tmp_path, remote(server.url), patience_minutes=0.001) as sources:
            with pytest.raises(OutageError, match=r"gave no answer for 0\.001 minutes") as caught:
                await sources.score([rows])
        assert caught.value.exit_status == 3
        assert str(tmp_path / "helpful-score") in str(caught.value)
        is_back, asked = True, len(server.bodies)
        async with opened(tmp_path, remote(server.url)) as sources:
            assert only(await sources.score([rows])) == [0.5, 0.5]
        assert len(server.bodies) == asked + 1


async def test_an_endpoint_that_is_not_there_is_an_outage_and_a_refused_key_is_not(
    make_response: Make, tmp_path: Path
) -> None:
    async with StubServer(rating) as server:
        url = server.url
    async with opened(tmp_path, remote(url), patience_minutes=0.0005) as sources:
        with pytest.raises(OutageError, match="does not answer"):
            await sources.score([group(make_response, "a")])
    async with (
        StubServer(lambda body, before: fault(401, "no")) as server,
        opened(tmp_path, remote(server.url)) as sources,
    ):
        with pytest.raises(EngineError, match="refuses"):
            await sources.score([group(make_response, "a")])
    async with StubServer(rating) as server, opened(tmp_path, remote(server.url, max_requests=1)) as sources:
        with pytest.raises(BudgetReached):
            await sources.score([group(make_response, "a", "b")])


# Sessions


async def test_a_continued_run_asks_nothing_again(make_response: Make, tmp_path: Path) -> None:
    groups = [group(make_response, "aa", "b", "cccc", prompt=prompt) for prompt in ("p", "q")]
    for expected in (12, 0):
        source, engine = judge_of()
        async with opened(tmp_path, source, engines={"helpful": engine}) as sources:
            values = [only([rows]) for rows in await sources.score(groups)]
        assert values == [[0.0, -1.0, 1.0]] * 2
        assert len(engine.requests) == expected


async def test_calls_at_the_same_time_are_judged_together_and_each_gets_its_own(
    make_response: Make, tmp_path: Path
) -> None:
    """While the first call ('p') is judged four more wait: 'q', 'r' and 'p' are taken into one session, of which the first text
    of 'p' is known; 'q' again waits for the next, where its first text is known."""
    gate = asyncio.Event()
    sessions: list[set[str]] = []

    class Gated(ScriptedEngine):
        async def complete_many(self, requests: Any) -> Any:
            await gate.wait()
            sessions.append(set())
            async for completion in super().complete_many(requests):
                sessions[-1].add(completion.key)
                yield completion

    def longest(request: Request, index: int) -> str:
        return "5" if "long" in request.messages[-1].content else "1"

    engine = Gated(longest)
    source = {"judge": "helpful-score", "model": "m"}
    async with opened(tmp_path, source, engines={"helpful-score": engine}) as sources:
        prompts = ("p", "q", "r", "q", "p")
        calls = [
            asyncio.create_task(sources.score([group(make_response, "long", f"s{place % 3}", prompt=prompt)]))
            for place, prompt in enumerate(prompts)
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        assert [only(each) for each in await asyncio.gather(*calls)] == [[1.0, 0.0]] * 5
    assert [len(keys) for keys in sessions] == [2, 5, 1]
    everything = [key for keys in sessions for key in keys]
    assert len(everything) == len(set(everything))


async def test_a_call_that_is_cancelled_takes_nothing_from_another(make_response: Make, tmp_path: Path) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    class Gated(ScriptedEngine):
        async def complete_many(self, requests: Any) -> Any:
            begun.set()
            await gate.wait()
            async for completion in super().complete_many(requests):
                yield completion

    engine = Gated(lambda request, index: "5")
    source = {"judge": "helpful-score", "model": "m"}
    async with opened(tmp_path, source, engines={"helpful-score": engine}) as sources:
        first = asyncio.create_task(sources.score([group(make_response, "a")]))
        await begun.wait()
        second = asyncio.create_task(sources.score([group(make_response, "b", prompt="other")]))
        await asyncio.sleep(0)
        first.cancel()
        gate.set()
        assert only(await second) == [1.0]
        with pytest.raises(asyncio.CancelledError):
            await first
    assert len(engine.requests) == 1


async def test_an_error_in_one_call_leaves_what_others_wait_for(make_response: Make, tmp_path: Path) -> None:
    """The session of the second call holds the third's group too, and fails: the third then asks again for itself."""
    gate = asyncio.Event()

    class Gated(ScriptedEngine):
        async def complete_many(self, requests: Any) -> Any:
            await gate.wait()
            async for completion in super().complete_many(requests):
                yield completion

    faults = [EngineError("out of memory")]
    engine = Gated(lambda request, index: faults.pop() if "bad" in request.messages[-1].content and faults else "5")
    source = {"judge": "helpful-score", "model": "m"}
    async with opened(tmp_path, source, engines={"helpful-score": engine}) as sources:
        texts = ("first", "bad", "third")
        calls = [asyncio.create_task(sources.score([group(make_response, text, prompt=text)])) for text in texts]
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        first, second, third = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert isinstance(second, EngineError)
    assert only(first) == only(third) == [1.0]


async def test_sources_of_one_model_share_its_engine_which_stays_open(make_response: Make, tmp_path: Path) -> None:
    """Two at a time over both sources; the endpoint is asked for its models once."""
    running = most = listed = 0

    async def answer(body: Body, before: int) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return rating(body, before)

    class Counting(StubServer):
        async def _list(self, request: web.Request) -> web.StreamResponse:
            nonlocal listed
            listed += 1
            return await super()._list(request)

    async with Counting(answer) as server:
        criteria = {**remote(server.url), "judge": "criteria"}
        async with opened(tmp_path, remote(server.url), criteria) as sources:
            for prompt in ("p", "q"):
                await sources.score([group(make_response, "a", "b", "c", prompt=prompt)])
    assert len(server.bodies) == 2 * (3 + 4 * 3)
    assert (most, listed) == (2, 1)


async def test_what_an_engine_notices_is_said_once(
    make_response: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with StubServer(rating, models=("another",)) as server, opened(tmp_path, remote(server.url)) as sources:
        for prompt in ("p", "q"):
            await sources.score([group(make_response, "a", prompt=prompt)])
    assert capsys.readouterr().err.count("does not list this model") == 1


async def test_a_slow_program_lets_other_things_go_on(
    make_response: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check waits for what only the event loop can do."""
    import threading

    go_on = threading.Event()

    def examine(self: ContainsCheck, response: Response) -> Any:
        assert go_on.wait(20), "the event loop was blocked by the check"
        return checked(self, response)

    checked = ContainsCheck.examine
    monkeypatch.setattr(ContainsCheck, "examine", examine)
    path = tmp_path / "says.yaml"
    path.write_text("kind: program\nchecks: [{check: contains, text: hello}]\n")

    async def later() -> None:
        await asyncio.sleep(0.01)
        go_on.set()

    async with opened(tmp_path / "r", str(path)) as sources:
        scored, _ = await asyncio.gather(sources.score([group(make_response, "hello", "bye")]), later())
    assert only(scored) == [1.0, 0.0]


def test_a_journal_serves_the_thread_that_scores(make_response: Make, tmp_path: Path) -> None:
    """Loaded in one thread, used on an event loop in another, as a trainer does."""
    import threading

    sources = opened(tmp_path, "valid-json")
    found: list[Any] = []

    async def score() -> None:
        async with sources:
            found.append(await sources.score([group(make_response, "{}")]))

    thread = threading.Thread(target=lambda: asyncio.run(score()))
    thread.start()
    thread.join()
    assert [only(each) for each in found] == [[1.0]]
    with sqlite3.connect(tmp_path / "valid-json" / "judgments.jsonl.index") as index:
        assert index.execute("SELECT COUNT(*) FROM places").fetchone() == (1,)


# Configurations


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"judge": "helpful", "weight": 0}, "the weight of the judge 'helpful' is 0"),
        ({"judge": "helpful", "wieght": 1}, "unknown key 'wieght' (did you mean 'weight'?)"),
        ({"judge": "helpful", "comparisons": "baseline"}, "comparisons: baseline needs baseline"),
        ({"judge": "helpful", "baseline": "reference"}, "baseline belongs to comparisons: baseline"),
        ({"judge": "helpful", "model": "a", "engine": {"model": "b"}}, "both name the model"),
        ({"judge": "helpful", "name": "../up"}, "name"),
        ({"judge": "helpful", "votes": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_sources_say_what_is_wrong(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(data, RewardSourceConfig, "run.yaml")
    assert "run.yaml: " in str(caught.value)
    assert said in str(caught.value)


LABELS = "kind: human\nlabels: labels.jsonl\n"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["helpfull"], "unknown judge 'helpfull' (did you mean 'helpful'?)"),
        (["helpful"], "names no model"),
        (["valid-json", "valid-json"], "two rewards are called 'valid-json'"),
        ([{"judge": "valid-json", "comparisons": "all"}], "scores single responses"),
        (
            [{"judge": "helpful", "model": "m", "comparisons": "baseline", "baseline": "none.jsonl"}],
            "no such file 'none.jsonl'",
        ),
        (["people.yaml"], "can not label what is not sampled yet"),
        (["spaced.yaml"], "can not be the name of a folder"),
    ],
)
def test_what_can_not_be_a_reward_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Sequence[Any], said: str
) -> None:
    (tmp_path / "labels.jsonl").write_text('{"response_ids": ["a", "b"], "preferred": "a"}\n')
    (tmp_path / "people.yaml").write_text(LABELS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaced.yaml").write_text("kind: program\nname: a b/c\nchecks: [{check: json}]\n")
    with pytest.raises(ConfigError, match=re.escape(said)):
        opened(tmp_path / "r", *sources)
    assert not (tmp_path / "r").exists()


def test_configurations_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, rlaif.training.config.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
