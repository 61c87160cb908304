"""The endpoint engine against a server that fails, ignores and refuses in every way seen in the wild."""

import asyncio
import logging
import math
import time

import pytest
from aiohttp import web
from stub_server import StubServer, chat_reply, fault

from rlaif import EngineConfig, judge
from rlaif.engines import endpoints
from rlaif.engines.base import Completion, Request
from rlaif.engines.choices import choice_probabilities
from rlaif.engines.openai import OpenAIEngine
from rlaif.errors import BudgetReached, EngineError
from rlaif.types import Message, Sampling

KEY = "sk-test-4711-very-secret"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr(endpoints, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def request(key="k", *, n=1, indices=None, choices=None, **sampling):
    message = Message(role="user", content=f"question {key}")
    return Request(
        key=key, messages=(message,), sampling=Sampling(**sampling), n=n, sample_indices=indices, choices=choices
    )


def engine_for(*servers: StubServer, **options) -> OpenAIEngine:
    return OpenAIEngine("stub", base_urls=[server.url for server in servers], **options)


async def drain(
    engine: OpenAIEngine, requests: list[Request], into: list[Completion] | None = None
) -> list[Completion]:
    into = [] if into is None else into
    async for completion in engine.complete_many(requests):
        into.append(completion)
    return into


async def ask(server: StubServer, *requests: Request, **options) -> list[Completion]:
    async with engine_for(server, **options) as engine:
        return await drain(engine, list(requests))


async def test_an_answer_with_its_tokens_and_without_its_reasoning():
    async with StubServer(lambda body, i: chat_reply("hello", reasoning_content="hm, let me think")) as server:
        [completion] = await ask(server, request(temperature=0.5, top_p=0.9, max_tokens=33, stop=("END",), seed=None))
    [sample] = completion.samples
    assert (sample.text, sample.finish_reason, sample.completion_tokens) == ("hello", "stop", 3)
    assert (completion.prompt_tokens, completion.failure) == (7, None)
    assert completion.latency_seconds > 0
    assert server.bodies == [
        {
            "model": "stub",
            "messages": [{"role": "user", "content": "question k"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 33,
            "stop": ["END"],
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_retry_after_is_honoured():
    def answer(body, i):
        return fault(429, "slow down", {"Retry-After": "0.4"}) if i == 0 else chat_reply("ok")

    async with StubServer(answer) as server:
        started = time.monotonic()
        [completion] = await ask(server, request(), max_requests=1)
    assert completion.samples[0].text == "ok"
    assert time.monotonic() - started >= 0.4


async def test_a_wait_that_is_too_long_is_not_waited_for():
    async with StubServer(lambda body, i: fault(429, "come back tomorrow", {"Retry-After": "86400"})) as server:
        [completion] = await ask(server, request())
    assert completion.failure == "unavailable"
    assert "come back tomorrow" in completion.detail
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 408])
async def test_server_faults_are_tried_again(status):
    async with StubServer(lambda body, i: fault(status, "oops") if i < 2 else chat_reply("ok")) as server:
        [completion] = await ask(server, request())
    assert completion.samples[0].text == "ok"
    assert len(server.bodies) == 3


async def test_exhausted_retries_are_a_failure_of_that_request_only():
    def answer(body, i):
        return fault(500, "oops") if "bad" in body["messages"][0]["content"] else chat_reply("ok")

    async with StubServer(answer) as server:
        completions = await ask(server, request("bad"), request("good"), max_retries=2)
    by_key = {completion.key: completion for completion in completions}
    assert by_key["good"].samples[0].text == "ok"
    assert by_key["bad"].failure == "unavailable"
    assert "3 attempts" in by_key["bad"].detail
    assert "HTTP 500: oops" in by_key["bad"].detail


async def test_an_endpoint_that_is_gone_ends_the_run_instead_of_failing_every_request():
    async with StubServer(lambda body, i: fault(500, "oops")) as server:
        with pytest.raises(EngineError, match="in a row got no answer"):
            await ask(server, *(request(str(i)) for i in range(100)), max_retries=0)
    assert len(server.bodies) < 60


async def test_timeouts_are_tried_again():
    async def answer(body, i):
        await asyncio.sleep(5 if i == 0 else 0)
        return chat_reply("ok")

    async with StubServer(answer) as server:
        [completion] = await ask(server, request(), timeout_seconds=0.3)
    assert completion.samples[0].text == "ok"
    assert len(server.bodies) == 2


async def test_a_reply_that_is_cut_or_empty_is_tried_again():
    replies = [
        web.Response(text='{"choices": [', content_type="application/json"),
        web.json_response({"error": {"message": "upstream overloaded"}}),
        chat_reply("ok"),
    ]
    async with StubServer(lambda body, i: replies[i]) as server:
        [completion] = await ask(server, request())
    assert completion.samples[0].text == "ok"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_names_the_variable_and_not_the_key(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    async with StubServer(lambda body, i: fault(status, f"Incorrect API key provided: {KEY}")) as server:
        with pytest.raises(EngineError, match="MY_KEY") as caught:
            await ask(server, request(), api_key_env="MY_KEY")
    assert KEY not in str(caught.value)


async def test_a_missing_key_is_one_message(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EngineError, match="no API key: set the environment variable OPENAI_API_KEY"):
        await OpenAIEngine("gpt-x").open()


async def test_a_key_that_can_not_be_one_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk secret\nsecond line")
    with pytest.raises(EngineError, match="not an API key") as caught:
        await OpenAIEngine("gpt-x").open()
    assert "secret" not in str(caught.value)


async def test_other_endpoints_need_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    async with StubServer(lambda body, i: chat_reply("ok")) as server:
        [completion] = await ask(server, request())
    assert completion.samples[0].text == "ok"


async def test_a_wrong_model_lists_the_right_ones():
    async with StubServer(lambda body, i: fault(404, "no such model"), models=["stubb", "other"]) as server:
        with pytest.raises(EngineError, match=r"did you mean 'stubb'\?") as caught:
            await ask(server, request())
    assert "It serves: other, stubb" in str(caught.value)


async def test_a_wrong_model_reported_as_a_bad_request():
    async with StubServer(lambda body, i: fault(400, "Invalid model name"), models=["other"]) as server:
        with pytest.raises(EngineError, match="It serves: other"):
            await ask(server, request())


async def test_an_endpoint_that_answers_for_an_unlisted_model_is_noticed_once():
    stub = StubServer(lambda body, i: chat_reply("ok"), models=["alias"])
    async with stub as server, engine_for(server) as engine:
        completions = await drain(engine, [request("a"), request("b")])
    assert all(completion.samples for completion in completions)
    assert [notice for notice in engine.notices if "does not list" in notice] == engine.notices
    assert len(engine.notices) == 1


async def test_an_endpoint_without_a_list_of_models_is_fine():
    async with StubServer(lambda body, i: chat_reply("ok"), models=None) as server:
        [completion] = await ask(server, request())
    assert completion.samples[0].text == "ok"


async def test_a_page_instead_of_an_answer_says_that_the_url_is_wrong():
    async with StubServer(lambda body, i: web.Response(text="<html>", content_type="text/html")) as server:
        with pytest.raises(EngineError, match="/v1"):
            await ask(server, request())


async def test_an_endpoint_that_is_down_is_told_quickly():
    async with StubServer(lambda body, i: chat_reply("ok")) as server:
        url = server.url
    started = time.monotonic()
    with pytest.raises(EngineError, match=f"the endpoint {url} does not answer"):
        await OpenAIEngine("stub", base_urls=[url]).open()
    assert time.monotonic() - started < 5


async def test_a_base_url_needs_a_scheme():
    with pytest.raises(EngineError, match="must begin with http"):
        await OpenAIEngine("stub", base_urls=["localhost:8000/v1"]).open()


async def test_a_base_url_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(EngineError, match="leave out user and password") as caught:
        await OpenAIEngine("stub", base_urls=[f"http://user:{KEY}@localhost/v1"]).open()
    assert KEY not in str(caught.value)


async def test_a_prompt_that_is_too_long_is_no_answer_and_not_fatal():
    def answer(body, i):
        if "long" in body["messages"][0]["content"]:
            return fault(400, "This model's maximum context length is 10 tokens, reduce max_tokens", param="max_tokens")
        return chat_reply("ok")

    async with StubServer(answer) as server:
        completions = await ask(server, request("long"), request("short"))
    by_key = {completion.key: completion for completion in completions}
    assert by_key["long"].failure == "over-long"
    assert "maximum context length is 10" in by_key["long"].detail
    assert by_key["short"].samples[0].text == "ok"
    assert len(server.bodies) == 2


async def test_a_refused_request_is_a_rejection_with_the_reason():
    async with StubServer(lambda body, i: fault(400, "the content is not nice")) as server:
        [completion] = await ask(server, request())
    assert (completion.failure, completion.detail) == ("rejected", "the content is not nice")


async def test_several_samples_in_one_request():
    async with StubServer(lambda body, i: chat_reply(*"abcd"[: body["n"]])) as server:
        [completion] = await ask(server, request(n=3))
    assert [(sample.index, sample.text) for sample in completion.samples] == [(0, "a"), (1, "b"), (2, "c")]
    assert [sample.completion_tokens for sample in completion.samples] == [None, None, None]
    assert len(server.bodies) == 1


async def test_an_ignored_n_is_noticed_and_the_rest_is_asked():
    stub = StubServer(lambda body, i: chat_reply(f"answer {body['seed']}"))
    async with stub as server, engine_for(server) as engine:
        completions = await drain(engine, [request("a", n=3)])
        completions += await drain(engine, [request("b", n=2)])
    for completion, n in zip(completions, (3, 2), strict=True):
        assert [sample.index for sample in completion.samples] == list(range(n))
        assert len({sample.text for sample in completion.samples}) == n
    assert len(server.bodies) == 5
    assert len(engine.notices) == 1
    assert "ignores n" in engine.notices[0]


async def test_a_refused_n_is_asked_one_by_one():
    def answer(body, i):
        return fault(400, "Unsupported parameter", param="n") if "n" in body else chat_reply("ok")

    async with StubServer(answer) as server:
        [completion] = await ask(server, request(n=3))
    assert [sample.index for sample in completion.samples] == [0, 1, 2]
    assert len(server.bodies) == 4


async def test_a_resumed_request_asks_with_the_seeds_of_its_indices():
    async with StubServer(lambda body, i: chat_reply(*["ok"] * body.get("n", 1))) as server:
        await ask(server, request(n=4))
        first = server.bodies[0]["seed"]
        await ask(server, request(indices=(1, 2, 5)))
    assert [(body["seed"] - first, body.get("n", 1)) for body in server.bodies] == [(0, 4), (1, 2), (5, 1)]


async def test_a_vllm_server_gets_explicit_sampling():
    async with StubServer(lambda body, i: chat_reply("ok"), owned_by="vllm") as server:
        await ask(server, request())
    assert (server.bodies[0]["top_k"], server.bodies[0]["repetition_penalty"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("refused", "status", "message"),
    [
        ("seed", 400, "Unsupported parameter: 'seed' is not supported with this model."),
        ("temperature", 400, "'temperature' does not support 0.7 with this model. Only the default (1) is supported."),
        ("structured_outputs", 422, "body.structured_outputs: Extra inputs are not permitted"),
        ("logprobs", 400, "logprobs is not supported"),
        ("max_tokens", 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ],
)
async def test_a_refused_field_is_left_out_from_then_on(refused, status, message):
    def answer(body, i):
        return fault(status, message) if refused in body else chat_reply("A")

    requests = [request(str(i), choices=("A", "B"), temperature=0.7) for i in range(4)]
    async with StubServer(answer) as server, engine_for(server, concurrency=2) as engine:
        completions = await drain(engine, requests)
    assert [completion.samples[0].text for completion in completions] == ["A"] * 4
    assert sum(refused in body for body in server.bodies) <= 2  # the first request is alone; log-probs are tried twice
    assert refused not in server.bodies[-1]
    if refused == "max_tokens":
        assert "max_completion_tokens" in server.bodies[-1]
        assert not any("max_tokens" in notice for notice in engine.notices)
    else:
        assert sum(f"refuses {refused}" in notice or "log-probs" in notice for notice in engine.notices) >= 1
    assert len(engine.notices) == len(set(engine.notices))


async def test_fewer_log_probs_are_asked_for_where_twenty_are_too_many():
    def answer(body, i):
        if body["top_logprobs"] > 5:
            return fault(400, "top_logprobs must be less than or equal to 5")
        return chat_reply("A", tops=[("A", math.log(0.6)), ("B", math.log(0.3))])

    async with StubServer(answer) as server:
        [completion] = await ask(server, request(choices=("A", "B")))
    assert completion.samples[0].choice_probabilities == pytest.approx({"A": 2 / 3, "B": 1 / 3})


async def test_limits_that_both_are_refused_end():
    async with StubServer(lambda body, i: fault(400, "max_tokens, max_completion_tokens: unsupported")) as server:
        [completion] = await ask(server, request())
    assert completion.failure == "rejected"
    assert len(server.bodies) == 2


async def test_choices_are_constrained_and_their_probabilities_read():
    def answer(body, i):
        assert body["structured_outputs"] == {"choice": ["A", "B"]}
        return chat_reply("B", tops=[("B", math.log(0.9)), ("A", math.log(0.1)), ("x", -9999.0)])

    async with StubServer(answer) as server:
        [completion] = await ask(server, request(choices=("A", "B"), temperature=0.0))
    assert completion.samples[0].choice_probabilities == pytest.approx({"A": 0.1, "B": 0.9})


async def test_an_ignored_constraint_is_noticed_on_the_first_call_and_gives_no_probabilities():
    """Before any other of the 40 requests, 16 of which could be in flight, is sent; and what it means is said."""
    known = []

    async def answer(body, i):
        await asyncio.sleep(0.05 if i == 0 else 0)  # time enough for others to come
        known.append((len(server.bodies), list(engine.notices)))
        return chat_reply("Well, A is", tops=[("Well", math.log(0.5)), ("A", math.log(0.3)), ("B", math.log(0.1))])

    async with StubServer(answer) as server, engine_for(server) as engine:
        assert engine.capabilities.choice_constraint
        completions = await drain(engine, [request(str(k), choices=("A", "B")) for k in range(40)])
    assert [completion.samples[0].choice_probabilities for completion in completions] == [None] * 40
    assert not engine.capabilities.choice_constraint
    assert known[0] == (1, [])
    [notice] = engine.notices
    assert all(notices == [notice] for _, notices in known[1:])
    assert f"{server.url} (stub) ignores the constraint to A, B (structured_outputs)" in notice
    assert "'Well, A is'" in notice
    assert "counts for nothing (unparsed)" in notice
    assert "repair: true" in notice


async def test_missing_log_probs_are_noticed_on_the_first_call():
    known = []

    def answer(body, i):
        known.append(list(engine.notices))
        return chat_reply("A")

    async with StubServer(answer) as server, engine_for(server) as engine:
        completions = await drain(engine, [request(str(k), choices=("A", "B")) for k in range(40)])
    assert [completion.samples[0].choice_probabilities for completion in completions] == [None] * 40
    assert not engine.capabilities.choice_probabilities
    [notice] = engine.notices
    assert known == [[]] + [[notice]] * 39
    assert "gives no log-probs" in notice
    assert "each vote counts whole" in notice
    assert "ask more votes at a temperature above 0" in notice


@pytest.mark.parametrize(
    "first", [lambda: fault(400, "the content is not nice"), lambda: fault(500, "oops"), lambda: chat_reply("A")]
)
async def test_only_the_first_request_with_choices_goes_alone_whatever_becomes_of_it(first):
    most = running = 0

    async def answer(body, i):
        nonlocal most, running
        if i == 0:
            assert running == 0
            return first()
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return chat_reply("A")

    async with StubServer(answer) as server:
        await ask(server, *(request(str(k), choices=("A", "B")) for k in range(9)), max_retries=0, concurrency=4)
    assert (len(server.bodies), most) == (9, 4)


async def test_a_refusal_or_a_cut_answer_does_not_prove_that_the_constraint_is_ignored():
    def answer(body, i):
        refusal = chat_reply("", refusal="I can not judge this", tops=[("A", -0.1)])
        cut = {"index": 0, "message": {"content": "Well"}, "finish_reason": "length"}
        return refusal if i else web.json_response({"choices": [cut]})

    options = {"constraint": "structured_outputs"}
    async with StubServer(answer) as server, engine_for(server, **options) as engine:
        completions = await drain(engine, [request(k, choices=("A", "B")) for k in "ab"])
    assert [completion.samples[0].text for completion in completions] == ["Well", "I can not judge this"]
    assert not [notice for notice in engine.notices if "constraint" in notice]


async def test_without_a_constraint_nothing_is_sent():
    async with StubServer(lambda body, i: chat_reply("A")) as server:
        await ask(server, request(choices=("A", "B")), constraint="none")
        assert "structured_outputs" not in server.bodies[0]


async def test_a_demanded_constraint_that_is_refused_is_an_error():
    async with StubServer(lambda body, i: fault(400, "structured_outputs: unknown field")) as server:
        with pytest.raises(EngineError, match="refuses structured_outputs"):
            await ask(server, request(choices=("A", "B")), constraint="structured_outputs")


async def test_a_demanded_constraint_that_is_ignored_is_an_error_after_one_request():
    async with StubServer(lambda body, i: chat_reply("Well, A is")) as server:
        with pytest.raises(EngineError, match=r"ignores the constraint to A, B.*\n.*'auto' or 'none'"):
            await ask(
                server,
                *(request(k, choices=("A", "B")) for k in "abcdef"),
                constraint="structured_outputs",
                concurrency=1,
            )
    assert len(server.bodies) == 1


async def test_the_budget_stops_after_what_is_in_flight():
    async def answer(body, i):
        await asyncio.sleep(0.05 * (i + 1))
        return chat_reply("ok")

    seen = []
    async with StubServer(answer) as server, engine_for(server, max_requests=3, concurrency=2) as engine:
        with pytest.raises(BudgetReached, match="--max-requests"):
            await drain(engine, [request(str(i)) for i in range(10)], seen)
    assert [completion.samples[0].text for completion in seen] == ["ok"] * 3
    assert len(server.bodies) == engine.requests_sent == 3


async def test_samples_paid_for_before_the_budget_ended_are_kept():
    seen = []
    async with StubServer(lambda body, i: chat_reply("ok")) as server, engine_for(server, max_requests=2) as engine:
        with pytest.raises(BudgetReached):
            await drain(engine, [request(n=3)], seen)
    assert len(seen[0].samples) == 2
    assert len(server.bodies) == 2


async def test_every_attempt_that_may_be_billed_counts():
    async with StubServer(lambda body, i: fault(500, "oops")) as server:
        with pytest.raises(BudgetReached):
            await ask(server, request(), max_requests=2)
    assert len(server.bodies) == 2


async def test_a_budget_is_of_all_judges_of_a_model_together(make_response, tmp_path):
    """A judge that scores and one that compares take turns at the model: 2 + 2 votes, and the budget is 3."""
    panel = tmp_path / "panel.yaml"
    panel.write_text("kind: ensemble\nstop: all\nmembers: [{judge: helpful-score}, {judge: helpful}]\n")
    rows = [make_response(text, index=index) for index, text in enumerate(("one", "two"))]
    async with StubServer(lambda body, i: chat_reply("A" if "Answer A" in str(body) else "3")) as server:
        model = EngineConfig(model="stub", base_url=(server.url,), max_requests=3)
        with pytest.raises(BudgetReached):
            await asyncio.to_thread(judge, rows, str(panel), models=[model], output=tmp_path / "judged.jsonl")
        assert len(server.bodies) == 3
        more = model.model_copy(update={"max_requests": 4})
        result = await asyncio.to_thread(judge, rows, str(panel), models=[more], output=tmp_path / "judged.jsonl")
    assert len(server.bodies) == 4
    assert (result.new_judgments, result.reused_judgments) == (1, 3)


async def test_the_least_busy_endpoint_answers_and_a_failing_one_is_avoided():
    async def slow(body, i):
        await asyncio.sleep(0.2)
        return chat_reply("slow")

    async with (
        StubServer(slow) as first,
        StubServer(lambda body, i: chat_reply("fast")) as second,
        engine_for(first, second, concurrency=4) as engine,
    ):
        completions = await drain(engine, [request(str(i)) for i in range(12)])
    assert len(completions) == 12
    assert len(second.bodies) > len(first.bodies) > 0

    async with (
        StubServer(lambda body, i: fault(500, "oops")) as first,
        StubServer(lambda b, i: chat_reply("ok")) as second,
        engine_for(first, second, concurrency=2) as engine,
    ):
        completions = await drain(engine, [request(str(i)) for i in range(12)])
    assert [completion.samples[0].text for completion in completions] == ["ok"] * 12


async def test_the_key_is_nowhere(caplog, monkeypatch):
    """A server that repeats the key in all it says, with every logger open."""
    caplog.set_level(logging.DEBUG)
    texts = []

    def answer(body, i):
        content = body["messages"][0]["content"]
        status = 500 if "down" in content else 400 if "bad" in content else 401
        return fault(status, f"unsupported: {KEY} and 'seed'")

    async with StubServer(answer) as server:
        engine = engine_for(server, max_retries=1)
        async with engine:
            texts += [repr(c) async for c in engine.complete_many([request("down"), request("bad")])]
            with pytest.raises(EngineError) as caught:
                await engine.complete(request("refused"))
            texts += [str(caught.value), repr(caught.value), repr(engine), repr(vars(engine)), repr(vars(engine._pool))]
            texts += [*engine.notices, engine.endpoint, *map(repr, engine._pool.endpoints)]
    assert "[the value of OPENAI_API_KEY]" in "".join(texts)
    assert not [text for text in (*texts, caplog.text) if KEY in text]


@pytest.mark.parametrize(
    ("choices", "candidates", "expected"),
    [
        # constrained: everything possible begins a choice; 'Yes' may be written in pieces
        (("Yes", "No"), [("Yes", 0.5), ("Y", 0.2), ("N", 0.1), ("No", 0.2)], {"Yes": 0.7, "No": 0.3}),
        # unconstrained: whole choices only, blanks aside, renormalised
        (("A", "B"), [("A", 0.4), (" A", 0.1), ("B", 0.25), ("The", 0.2)], {"A": 2 / 3, "B": 1 / 3}),
        # a piece of a choice may be the beginning of anything when there was no constraint
        (("Yes", "No"), [("Y", 0.4), ("No", 0.3), ("The", 0.3)], None),
        # a choice that was not seen is unknown, not zero
        (("A", "B", "C"), [("A", 0.6), ("B", 0.3), ("x", 0.1)], None),
        # one choice begins another, so the first token can not tell them apart
        (("1", "10"), [("1", 0.6), ("10", 0.4)], None),
        # a token that begins two choices decides nothing
        (("tie", "true"), [("t", 0.5), ("tie", 0.25), ("true", 0.25)], {"tie": 0.5, "true": 0.5}),
        (("A", "B"), [], None),
    ],
)
def test_choice_probabilities(choices, candidates, expected):
    found = choice_probabilities(choices, [(token, math.log(mass)) for token, mass in candidates])
    assert found == (pytest.approx(expected) if expected else None)
