"""The embedded engine on the real chat model."""

import pytest
import torch

from rlaif.chat import encode, render_prompt
from rlaif.engines.base import Completion, Request
from rlaif.engines.transformers import TransformersEngine
from rlaif.errors import EngineError
from rlaif.models import load_model
from rlaif.types import Prompt, Sampling

pytestmark = pytest.mark.model
SAMPLING = Sampling(temperature=0.8, top_p=0.9, max_tokens=8, seed=3)


def request(key: str, text: str, **options: object) -> Request:
    return Request.model_validate(
        {"key": key, "messages": Prompt.from_text(text).messages, "sampling": SAMPLING, **options}
    )


async def answers(engine: TransformersEngine, requests: list[Request]) -> dict[str, Completion]:
    return {completion.key: completion async for completion in engine.complete_many(requests)}


async def test_a_sample_depends_on_its_seed_key_and_index_alone(model_path: str) -> None:
    async with TransformersEngine(model_path) as engine:
        whole = await answers(engine, [request("a", "Name a river.", n=3), request("b", "Why is the sky blue?", n=2)])
        part = await answers(engine, [request("a", "Name a river.", n=2, sample_indices=(2, 1))])
    by_index = {sample.index: sample.text for sample in whole["a"].samples}
    assert [sample.index for sample in whole["a"].samples] == [0, 1, 2]
    assert len(set(by_index.values())) == 3
    assert {sample.index: sample.text for sample in part["a"].samples} == {1: by_index[1], 2: by_index[2]}


async def test_choice_probabilities_are_the_models_own(model_path: str) -> None:
    asked = request("c", "Is fire hot? Answer A for yes or B for no.", choices=("A", "B"))
    long = request("d", "word " * 60, choices=("A", "B"))
    async with TransformersEngine(model_path) as engine:
        found = await answers(engine, [asked, long])
        tokenizer, lm = engine._tokenizer, engine._lm
        ids = encode(tokenizer, render_prompt(tokenizer, asked.messages))
        with torch.inference_mode():
            logits = lm(torch.tensor([ids])).logits[0, -1]
        labels = [encode(tokenizer, label)[0] for label in ("A", "B")]
        expected = logits[labels].double().softmax(-1)
    got = found["c"].samples[0].choice_probabilities
    assert got is not None
    assert [got["A"], got["B"]] == pytest.approx(expected.tolist(), abs=1e-4)
    assert found["c"].samples[0].text == max(got, key=lambda label: got[label])


async def test_a_prompt_beyond_the_context_is_a_listed_reason(model_path: str) -> None:
    async with TransformersEngine(model_path) as engine:
        found = await answers(engine, [request("x", "word " * 9000), request("y", "Name a river.")])
    assert found["x"].failure == "over-long"
    assert "8192" in found["x"].detail
    assert found["y"].samples


async def test_choices_that_one_token_can_not_tell_apart_are_refused(model_path: str) -> None:
    async with TransformersEngine(model_path) as engine:
        with pytest.raises(EngineError, match="do not differ in their first token"):
            await answers(engine, [request("z", "Rate it.", choices=("1", "10"))])


async def test_greedy_decoding_ends_with_a_stop_string_or_the_turn(model_path: str) -> None:
    greedy = Sampling(temperature=0, max_tokens=40, stop=("Paris",))
    async with TransformersEngine(model_path) as engine:
        found = await answers(engine, [request("p", "What is the capital of France?", sampling=greedy)])
    sample = found["p"].samples[0]
    assert sample.finish_reason == "stop"
    assert "Paris" not in sample.text


def test_a_model_that_is_not_there_is_one_message() -> None:
    with pytest.raises(EngineError, match="no such model folder"):
        load_model("./no/such/model")
