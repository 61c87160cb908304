"""vLLM for real: in this process, and its server through the endpoint engine, against the model's own numbers."""

import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import pytest_asyncio
from vllm_server import start_server, stopping, wait_until_ready

from rlaif import chat
from rlaif.engines.base import Request
from rlaif.engines.openai import OpenAIEngine
from rlaif.engines.vllm import VllmEngine
from rlaif.errors import ConfigError, EngineError
from rlaif.models import load_model, load_tokenizer
from rlaif.training.online.vllm_calls import VllmServer
from rlaif.types import Message, Sampling

MODEL = Path(os.environ.get("RLAIF_MODEL") or Path(__file__).parents[2] / ".cache/models/SmolLM2-135M-Instruct")
LETTERS = ("A", "B", "C")
QUESTION = "Which animal is the largest? A: an ant. B: an elephant. C: a cat. Answer with one letter."


def needs_vllm(test):
    missing = importlib.util.find_spec("vllm") is None or not MODEL.is_dir()
    skip = pytest.mark.skipif(missing, reason="needs vLLM and the chat model (make test-vllm)")
    return pytest.mark.vllm(pytest.mark.asyncio(loop_scope="module")(skip(test)))


def request(text, key="k", *, n=1, indices=None, choices=None, **sampling):
    return Request(
        key=key,
        messages=(Message(role="user", content=text),),
        sampling=Sampling(**sampling),
        n=n,
        sample_indices=indices,
        choices=choices,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(tmp_path_factory):
    """The engine in this process and the server's; the server starts while the engine does."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    process, url = start_server(str(MODEL), log)
    with stopping(process):
        async with VllmEngine(str(MODEL), max_model_len=1024) as local:
            wait_until_ready(process, url, log)
            async with OpenAIEngine("policy", base_urls=[url]) as served:
                yield {"local": local, "served": served, "url": url}


def expected_probabilities(model_name, text, choices):
    """The softmax over the choices' tokens of the model's own next-token logits."""
    import torch

    tokenizer, model = load_tokenizer(str(MODEL)), load_model(model_name, "float32", "cpu")
    ids = chat.encode(tokenizer, chat.render_prompt(tokenizer, (Message(role="user", content=text),)))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    picked = torch.stack([logits[chat.encode(tokenizer, choice)[0]] for choice in choices])
    return dict(zip(choices, picked.softmax(0).tolist(), strict=True))


def engine_processes():
    """Child processes that are still alive and belong to vLLM."""
    import psutil

    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "EngineCore" in " ".join(child.cmdline())
    }


@needs_vllm
@pytest.mark.parametrize("which", ["local", "served"])
async def test_samples_are_distinct_and_a_function_of_seed_key_and_index(engines, which):
    engine = engines[which]
    story = {"text": "Write one sentence about rain.", "max_tokens": 24}
    whole = await engine.complete(request(**story, n=3))
    texts = [sample.text for sample in whole.samples]
    assert [sample.index for sample in whole.samples] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert whole.prompt_tokens > 10
    assert "<|im_end|>" not in "".join(texts)
    resumed = await engine.complete(request(**story, indices=(2, 1)))
    assert {sample.index: sample.text for sample in resumed.samples} == {1: texts[1], 2: texts[2]}
    reseeded = await engine.complete(request(**story, seed=1))
    other_key = await engine.complete(request(**story, key="other"))
    assert texts[0] not in (reseeded.samples[0].text, other_key.samples[0].text)


@needs_vllm
async def test_both_draw_the_same_samples(engines):
    asked = request("Name a fruit and say why you like it.", n=2, max_tokens=16)
    local, served = await engines["local"].complete(asked), await engines["served"].complete(asked)
    assert [sample.text for sample in local.samples] == [sample.text for sample in served.samples]


@needs_vllm
@pytest.mark.parametrize("which", ["local", "served"])
async def test_many_requests_end_in_their_own_order(engines, which):
    story = request("Tell a long story about a lighthouse.", key="0", max_tokens=250)  # long, on a busy machine too
    requests = [story, *(request(f"Count to {k}.", key=str(k), max_tokens=2) for k in range(1, 6))]
    completions = [completion async for completion in engines[which].complete_many(requests)]
    assert {completion.key for completion in completions} == {str(k) for k in range(6)}
    assert completions[0].key != "0"
    assert {sample.finish_reason for c in completions if c.key != "0" for sample in c.samples} == {"length"}


@needs_vllm
@pytest.mark.parametrize("which", ["local", "served"])
async def test_more_prompts_than_fit_a_step_with_seeds(engines, which):
    """15 prompts of 500 tokens are over what vLLM computes in a step: none may be cut in two on the CPU."""
    requests = [request(f"Say {k}. " + "rain " * 480, key=str(k), max_tokens=2) for k in range(15)]
    completions = [completion async for completion in engines[which].complete_many(requests)]
    assert len(completions) == 15
    assert all(completion.failure is None and completion.prompt_tokens > 480 for completion in completions)


@needs_vllm
@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_choices_have_the_model_s_own_probabilities(engines, temperature):
    expected = expected_probabilities(str(MODEL), QUESTION, LETTERS)
    for which in ("local", "served"):
        completion = await engines[which].complete(request(QUESTION, choices=LETTERS, temperature=temperature))
        [sample] = completion.samples
        assert sample.choice_probabilities == pytest.approx(expected, abs=1e-4), which
        assert sample.text in LETTERS
        if temperature == 0:
            assert sample.text == max(expected, key=expected.get)
    assert engines["served"].notices == []


@needs_vllm
async def test_choices_of_several_tokens_agree(engines):
    """'Yes' may be written as Yes, Y+es or Ye+s; both engines add up what begins each choice."""
    asked = request("Is Paris in France? Answer Yes or No.", choices=("Yes", "No"), temperature=0.0)
    local, served = await engines["local"].complete(asked), await engines["served"].complete(asked)
    probabilities = local.samples[0].choice_probabilities
    assert sum(probabilities.values()) == pytest.approx(1)
    assert probabilities == pytest.approx(served.samples[0].choice_probabilities, abs=1e-4)


@needs_vllm
async def test_choices_that_one_token_can_not_tell_apart_have_no_probabilities(engines):
    asked = request("Rate this from 1 to 10: a nice day.", choices=("1", "5", "10"), temperature=0.0)
    for which in ("local", "served"):
        [sample] = (await engines[which].complete(asked)).samples
        assert sample.text in ("1", "5", "10")
        assert sample.choice_probabilities is None


@needs_vllm
@pytest.mark.parametrize("which", ["local", "served"])
async def test_stop_strings_end_an_answer(engines, which):
    [sample] = (await engines[which].complete(request("Count: 1, 2, 3", temperature=0.0, stop=(",", ".")))).samples
    assert sample.finish_reason == "stop"
    assert "," not in sample.text


@needs_vllm
@pytest.mark.parametrize("which", ["local", "served"])
async def test_a_prompt_that_does_not_fit_is_over_long(engines, which):
    assert engines[which].capabilities.context_tokens == 1024
    requests = [request("rain " * 3000, key="long"), request("Hi", key="short", max_tokens=4)]
    by_key = {c.key: c async for c in engines[which].complete_many(requests)}
    assert by_key["long"].failure == "over-long"
    assert "1024" in by_key["long"].detail
    assert by_key["short"].samples


@needs_vllm
async def test_a_wrong_model_name_lists_what_is_served(engines):
    async with OpenAIEngine("polic", base_urls=[engines["url"]]) as engine:
        with pytest.raises(EngineError, match=r"did you mean 'policy'\?"):
            await engine.complete(request("Hi"))


@needs_vllm
async def test_an_adapter_folder_answers_as_the_adapted_model_and_leaves_no_process_behind(engines, tmp_path):
    _random_adapter(tmp_path)
    expected = expected_probabilities(str(tmp_path), QUESTION, LETTERS)
    assert expected != pytest.approx(expected_probabilities(str(MODEL), QUESTION, LETTERS), abs=1e-2)
    before = engine_processes()

    async def fail_while_open():
        async with VllmEngine(str(tmp_path), max_model_len=1024) as engine:
            assert engine_processes() > before
            completion = await engine.complete(request(QUESTION, choices=LETTERS))
            assert completion.samples[0].choice_probabilities == pytest.approx(expected, abs=1e-3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_while_open()
    assert engine_processes() == before


def _random_adapter(folder):
    """A LoRA of rank 4 with random weights in both halves, so that it changes the model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(load_model(str(MODEL), "float32", "cpu"), config).save_pretrained(folder)


@needs_vllm
@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("./no/such/folder", {}, EngineError, "no such model folder"),
        ("policy.gguf", {}, EngineError, "GGUF"),
        (str(MODEL), {"engine_args": {"max_model_length": 5}}, ConfigError, r"did you mean 'max_model_len'\?"),
        (str(MODEL), {"max_model_len": 10**9}, EngineError, "can not start"),
    ],
)
async def test_what_can_not_start_is_one_message(model, options, error, message):
    with pytest.raises(error, match=message):
        await VllmEngine(model, **options).open()


@needs_vllm
async def test_a_server_without_adapters_is_told_what_rollouts_need(engines, tmp_path):
    """Its route is missing: HTTP 404 as for a model that is missing, and another message."""
    server = VllmServer(engines["url"], "", "OPENAI_API_KEY", patience_minutes=60)
    try:
        with pytest.raises(EngineError, match=r"--enable-lora and .* VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
            await server.load("rlaif-x-1", tmp_path)
    finally:
        await server.close()


async def test_without_vllm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"pip install 'rlaif-toolkit\[vllm\]'"):
        await VllmEngine("model").open()


async def test_without_a_gpu_the_message_says_what_to_use_instead(monkeypatch):
    """A CUDA build of vLLM on a machine without a GPU has a platform without a device type."""
    for name, content in {
        "vllm": {},
        "vllm.platforms": {"current_platform": types.SimpleNamespace(device_type="")},
    }.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(EngineError, match="no GPU on this machine; use the engine transformers"):
        await VllmEngine("model").open()
