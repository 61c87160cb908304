"""Reward models as an engine: tiny ones, random or trained here, against what transformers and training compute."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_llama, build_tokenizer, write_pairs

import rlaif.engines.reward as reward_module
from rlaif.engines import EngineConfig, make_engine
from rlaif.engines.base import ScoreCompletion, ScoreRequest
from rlaif.engines.reward import RewardEngine
from rlaif.engines.transformers import TransformersEngine
from rlaif.errors import ConfigError, EngineError
from rlaif.types import Message

QUESTIONS = ("Hi", "Why is the sky blue?" * 3, "Name a river.", "x")
ANSWERS = ("yes", "It is the light." * 5, "", "no no no", "The Rhine!" * 9)
SEVERAL = [(question, answer) for question in QUESTIONS for answer in ANSWERS]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conversation(key: str, *texts: str) -> ScoreRequest:
    """User and assistant by turns."""
    roles = ("user", "assistant")
    turns = [Message.model_validate({"role": roles[i % 2], "content": text}) for i, text in enumerate(texts)]
    return ScoreRequest(key=key, messages=tuple(turns))


async def scored(engine: RewardEngine, texts: list[tuple[str, ...]]) -> list[ScoreCompletion]:
    """In the order of the texts."""
    requests = [conversation(str(index), *turns) for index, turns in enumerate(texts)]
    found = {completion.key: completion async for completion in engine.score_many(requests)}
    assert len(found) == len(texts)
    return [found[str(index)] for index in range(len(texts))]


async def rewards(engine: RewardEngine, texts: list[tuple[str, ...]]) -> list[float]:
    return [completion.reward for completion in await scored(engine, texts) if completion.reward is not None]


def save_classifier(folder: Path, kind: str = "llama", labels: int = 1, **settings: Any) -> Path:
    """A random sequence classifier of two layers with its tokenizer."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
           "initializer_range": 0.3, "num_labels": labels, "pad_token_id": 0, **settings}
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).to(torch.float32).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its configuration pads with what ends a turn, as SmolLM2's."""
    folder = tmp_path_factory.mktemp("language") / "tiny"
    build_llama(torch.float32, pad_token_id=2).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["adapter", "full"])
def trained(request: Any, language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The configuration of a finished run of method rm, which evaluated a held-out share after its last step."""
    from rlaif.training import parse_config, train

    folder = tmp_path_factory.mktemp(request.param)
    config = parse_config(
        {"method": "rm", "model": str(language_model), "data": write_pairs(folder / "pairs.jsonl", 11),
         "output": folder / "run", "batch_size": 4, "learning_rate": 1e-2, "lora": {"r": 4, "alpha": 8},
         "full": request.param == "full", "dtype": "float32", "validation": 0.3, "eval_steps": 1, "epochs": 2}
    )  # fmt: skip
    train(config)
    return config


async def test_a_run_scores_as_training_itself_did(trained: Any) -> None:
    """Its last line of held-out metrics is the mean score of these answers by the model in memory, on prompt trees."""
    from rlaif.models import load_tokenizer
    from rlaif.training.checkpoints import read_metrics
    from rlaif.training.checks import split
    from rlaif.training.formats import read_examples
    from rlaif.training.rows import tokenize

    examples = list(read_examples(trained.data, trained.data_kind))
    rows = tokenize(examples, load_tokenizer(trained.model), trained.max_length, trained.truncation).rows
    held_out = [examples[index] for index in split(rows, trained)[1]]
    assert len(held_out) == 3
    texts = [
        (e.prompt[0].content, turns[0].content) for side in (0, 1) for e in held_out for turns in [e.completions[side]]
    ]
    async with RewardEngine(str(trained.output)) as engine:
        found = await scored(engine, texts)
    values = [completion.reward for completion in found]
    chosen, rejected = sum(values[:3]) / 3, sum(values[3:]) / 3
    last = [line for line in read_metrics(trained.output / "metrics.jsonl") if "eval/loss" in line][-1]
    assert chosen == pytest.approx(last["eval/rewards/chosen"], abs=1e-5)
    assert rejected == pytest.approx(last["eval/rewards/rejected"], abs=1e-5)
    assert chosen > rejected + 0.1
    lengths = [len(row.prompt) + len(row.completions[0]) for row in (rows[i] for i in split(rows, trained)[1])]
    assert [completion.prompt_tokens for completion in found[:3]] == lengths


async def test_a_merged_run_scores_as_its_adapter(trained: Any, tmp_path: Path) -> None:
    from rlaif.training.merge import merge

    if trained.full:
        pytest.skip("nothing to merge")
    merge(trained.output, tmp_path / "merged")
    async with RewardEngine(str(trained.output)) as engine:
        expected = await rewards(engine, SEVERAL)
    async with RewardEngine(str(tmp_path / "merged")) as engine:
        assert await rewards(engine, SEVERAL) == pytest.approx(expected, abs=1e-5)


async def test_a_score_depends_on_neither_batch_nor_padding(trained: Any) -> None:
    alone, batched, by_tokens = await alone_and_in_batches(trained.output)
    assert batched == pytest.approx(alone, abs=1e-5)
    assert by_tokens == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("padding", [None, 0, 2, 201], ids=["none", "its own", "the turn's end", "the line break"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
async def test_a_published_model_scores_alike_in_any_batch(tmp_path: Path, kind: str, padding: int | None) -> None:
    """Whatever its padding token is, even one with which conversations end."""
    windows = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
    save_classifier(tmp_path / "rm", kind, **(windows if kind == "gemma3_text" else {}))
    settings = json.loads((tmp_path / "rm/config.json").read_text())
    (tmp_path / "rm/config.json").write_text(json.dumps({**settings, "pad_token_id": padding}))
    alone, batched, by_tokens = await alone_and_in_batches(tmp_path / "rm")
    assert batched == pytest.approx(alone, abs=1e-5)
    assert by_tokens == pytest.approx(alone, abs=1e-5)


async def test_padding_that_no_one_defined_is_no_token_that_an_answer_ends_with(tmp_path: Path) -> None:
    """The template ends with the answer, and answers end with the very tokens that would be taken first."""
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier(tmp_path / "rm", pad_token_id=None)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    texts = [("Hi, there", "Ho" * n + end) for n in (1, 2) for end in ("<|endoftext|>", "<|im_start|>", "")]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        own = [model(**tokenizer("".join(turns), return_tensors="pt")).logits[0, 0].item() for turns in texts]
    async with RewardEngine(str(folder)) as engine:
        assert await rewards(engine, texts) == pytest.approx(own, abs=1e-5)


async def alone_and_in_batches(folder: Path) -> tuple[list[float], list[float], list[float]]:
    found = []
    for bounds in ({"batch_size": 1}, {"batch_size": 7}, {"max_batch_tokens": 300}):
        async with RewardEngine(str(folder), dtype="float32", **bounds) as engine:
            found.append(await rewards(engine, SEVERAL))
    alone, batched, by_tokens = found
    assert len(alone) == len(SEVERAL)
    assert max(alone) - min(alone) > 0.1  # or any score would do
    return alone, batched, by_tokens


@pytest.mark.parametrize("padding", [None, 0])
async def test_a_published_model_scores_as_its_card_does_it(tmp_path: Path, padding: int | None) -> None:
    """The whole chat template, its line break after the turn included, through the model's own forward."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = save_classifier(tmp_path / "rm", pad_token_id=padding)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [("Hi", "Ho"), ("Hi", "Ho", "And now?", "Bye.")]
    expected = []
    for turns in texts:
        talk = [message.as_dict() for message in conversation("", *turns).messages]
        ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            expected.append(model(**ids).logits[0, 0].item())
    async with RewardEngine(str(folder)) as engine:
        assert await rewards(engine, texts) == pytest.approx(expected, abs=1e-5)


async def test_what_can_not_be_scored_is_a_listed_reason_and_never_cut(tmp_path: Path) -> None:
    texts = [("Hi", "x" * 300), ("Hi", "half \ud83d a character"), ("Hi", "Ho")]
    async with RewardEngine(str(save_classifier(tmp_path / "rm"))) as engine:
        assert engine.capabilities.scores
        assert engine.capabilities.context_tokens == 256
        long, broken, fine = await scored(engine, texts)
    assert (long.reward, long.failure) == (None, "over-long")
    assert re.search(r"3\d\d tokens .* exceed the context of 256", long.detail)
    assert (broken.reward, broken.failure) == (None, "rejected")
    assert "lone surrogate" in broken.detail
    assert fine.failure is None
    assert fine.reward is not None


async def test_a_score_that_is_no_number_is_no_score(tmp_path: Path) -> None:
    async with RewardEngine(str(save_classifier(tmp_path / "rm"))) as engine:
        engine._lm.score.weight.data.fill_(float("nan"))
        [completion] = await scored(engine, [("Hi", "Ho")])
    assert (completion.reward, completion.failure) == (None, "rejected")
    assert "nan" in completion.detail


async def test_conversations_are_taken_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_module, "SORTED_TOGETHER", 4)
    taken: list[str] = []

    def source() -> Iterator[ScoreRequest]:
        for index in range(10):
            taken.append(str(index))
            yield conversation(str(index), "Hi", "Ho" * index)

    async with RewardEngine(str(save_classifier(tmp_path / "rm")), batch_size=2) as engine:
        keys = []
        async for completion in engine.score_many(source()):
            keys.append(completion.key)
            assert len(taken) <= 4 * ((len(keys) + 3) // 4)
    assert sorted(keys) == taken


async def opened(folder: Path | str) -> None:
    async with RewardEngine(str(folder)):
        pass


async def test_a_language_model_is_refused_rather_than_given_a_random_head(language_model: Path) -> None:
    with pytest.raises(EngineError, match=r"is not a trained reward model: its weights lack score\.weight"):
        await opened(language_model)


async def test_an_adapter_that_brings_no_head_is_refused(trained: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    if trained.full:
        pytest.skip("no adapter")
    shutil.copytree(trained.output, tmp_path / "headless")
    file = tmp_path / "headless/adapter_model.safetensors"
    kept = {name: weight for name, weight in load_file(file).items() if "score" not in name}
    assert len(kept) == len(load_file(file)) - 1
    save_file(kept, file)
    with pytest.raises(EngineError, match=r"is not a trained reward model: its weights lack score\.weight"):
        await opened(tmp_path / "headless")
    settings = json.loads((tmp_path / "headless/adapter_config.json").read_text())
    (tmp_path / "headless/adapter_config.json").write_text(json.dumps({**settings, "task_type": "CAUSAL_LM"}))
    with pytest.raises(EngineError, match="is the adapter of a language model"):
        await opened(tmp_path / "headless")


async def test_an_adapter_of_another_tool_scores_on_a_base_that_has_no_head(
    language_model: Path, tmp_path: Path
) -> None:
    """peft's own: padded as its tokenizer says, where the base's configuration would pad with what ends a turn."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(language_model, num_labels=1)
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], init_lora_weights=False)
    model.config.pad_token_id = 0  # the tokenizer's, as TRL sets it
    adapted = get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    talk = [message.as_dict() for message in conversation("", "Hi", "Ho").messages]
    ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        expected = adapted(**ids).logits[0, 0].item()
    async with RewardEngine(str(tmp_path / "adapter")) as engine:
        assert (await rewards(engine, [("Hi", "Ho")]))[0] == pytest.approx(expected, abs=1e-5)


async def test_more_than_one_label_is_no_reward(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "three", labels=3)
    with pytest.raises(EngineError, match=r"is a classifier with 3 labels \(LABEL_0, LABEL_1, LABEL_2\), and a reward"):
        await opened(folder)


async def test_code_that_comes_with_a_model_is_neither_run_nor_asked_for(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "rm")
    settings = json.loads((folder / "config.json").read_text())
    own = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.M"},
    }
    (folder / "config.json").write_text(json.dumps({**settings, **own}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass OwnConfig: pass\n")
    with pytest.raises(EngineError, match="needs code from its own repository, which is not run here"):
        await opened(folder)
    assert not (tmp_path / "ran").exists()


async def test_a_reward_model_writes_no_text_and_says_so(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is a reward model, which scores answers and writes none"):
        async with TransformersEngine(str(trained.output)):
            pass
    with pytest.raises(EngineError, match="is a reward model, which scores answers and writes none"):
        RewardEngine("rm").complete_many([])
    with pytest.raises(EngineError, match="the engine transformers can not score answers here"):
        TransformersEngine("m").score_many([])
    assert not TransformersEngine("m").capabilities.scores


def test_make_engine_opens_a_reward_model_where_one_can_be() -> None:
    engine = make_engine(EngineConfig(model="rm", dtype="float32", batch_size=5), "score")
    assert isinstance(engine, RewardEngine)
    assert (engine.model, engine.dtype, engine.batch_size) == ("rm", "float32", 5)
    served = {"base_url": ("http://localhost:8000/v1",)}
    for settings, kind in (({"engine": "vllm"}, "vllm"), ({"engine": "openai"}, "openai"), (served, "openai")):
        with pytest.raises(ConfigError, match=f"rm: the engine '{kind}' can not score answers"):
            make_engine(EngineConfig.model_validate({"model": "rm", **settings}), "score")
    with pytest.raises(ConfigError, match="--max-requests"):
        make_engine(EngineConfig(model="rm", max_requests=3), "score")
