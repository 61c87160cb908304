"""What a judgment by one constrained token costs beside the bare forward pass over its prompt.

python -m benchmarks.judging_prefill --model MODEL --engine transformers [--device cpu]
python -m benchmarks.judging_prefill --model MODEL --engine vllm

In one process, on one loaded model, in turns: the bare prefill (token ids made before; with transformers the plain forward in
batches sorted by length, logits of the last position only; with vLLM one token of each prompt), the engine's choices (from
conversations to the probability of each label), and a generated explanation. With vLLM also the share of prompt tokens that
its prefix cache had, with the requests of a prompt one after the other, as the project asks, and shuffled.
"""

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.engines.base import Engine, Request

PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3))
"""Which of a prompt's four responses are compared; each pair in both orders."""
BATCH = 32
"""Prompts of a forward pass of transformers, on both sides."""
INSTRUCTION = (
    "You compare two responses to a question. Judge whether they are correct, complete and clear, and nothing else: neither "
    "their length nor their order. Say which one is better."
)
WORDS = (
    "river",
    "stone",
    "market",
    "teacher",
    "winter",
    "engine",
    "garden",
    "answer",
    "window",
    "letter",
    "morning",
    "signal",
    "copper",
    "number",
    "village",
    "paper",
)


def main() -> None:
    options = _options()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU on this machine")
    if options.threads:
        torch.set_num_threads(options.threads)
    asyncio.run((_with_vllm if options.engine == "vllm" else _with_transformers)(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a chat model's folder or name")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the GPU if there is one, unless given")
    parser.add_argument("--prompts", type=int, default=16, help="each gives 8 requests")
    parser.add_argument("--words", type=int, default=80, help="of a question and of each response, on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--explanations", type=int, default=16, help="requests answered with an explanation, in one round"
    )
    parser.add_argument("--explanation-tokens", type=int, default=128, help="most tokens of an explanation")
    parser.add_argument("--concurrency", type=int, default=256, help="requests that vLLM has at a time, on both sides")
    parser.add_argument(
        "--cache-blocks", type=int, help="blocks of vLLM's cache, to see what the order of requests does"
    )
    parser.add_argument("--only-hit-rates", action="store_true", help="with vLLM: measure only the prefix cache")
    parser.add_argument("--threads", type=int, default=0, help="of torch; its own choice unless given")
    return parser.parse_args()


def requests(prompts: int, words: int, *, explained: int | None = None) -> list["Request"]:
    """The requests in the order in which the project makes them: those of a prompt next to each other.

    explained: most tokens of an explanation that is asked for instead of a label.
    """
    from rlaif.engines.base import Request
    from rlaif.types import Message, Sampling

    draw = random.Random(0)
    made = []
    for number in range(prompts):
        question, *answers = (_text(draw, words) for _ in range(5))
        for pair in PAIRS:
            for first, second in (pair, pair[::-1]):
                ask = "Explain." if explained else "Answer with A or B."
                shown = f"Response A: {answers[first]}\n\nResponse B: {answers[second]}"
                text = f"{INSTRUCTION}\n\nQuestion {number}: {question}\n\n{shown}\n\n{ask}"
                made.append(
                    Request(
                        key=f"{number}-{first}-{second}",
                        messages=(Message(role="user", content=text),),
                        sampling=Sampling(temperature=0.0, max_tokens=explained or 1),
                        choices=None if explained else ("A", "B"),
                    )
                )
    return made


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(words // 2, words * 3 // 2)))


async def _with_transformers(options: argparse.Namespace) -> None:
    import torch

    from rlaif.engines.transformers import TransformersEngine

    asked = requests(options.prompts, options.words)
    async with TransformersEngine(options.model, batch_size=BATCH) as engine:
        prompts = _token_ids(engine._tokenizer, asked)
        batches = [_padded(part, engine._lm.device) for part in _by_length(prompts)]

        async def prefill() -> None:
            with torch.inference_mode():
                for batch in batches:
                    engine._lm(**batch, use_cache=False, logits_to_keep=1).logits[:, -1].float().cpu()

        where = f"transformers on {engine._lm.device.type}, {str(engine._lm.dtype).removeprefix('torch.')}"
        await _compare(where, engine, asked, prompts, prefill, _nothing, options)


def _token_ids(tokenizer: Any, asked: Sequence["Request"]) -> list[list[int]]:
    from rlaif.chat import encode, render_prompt

    return [encode(tokenizer, render_prompt(tokenizer, request.messages)) for request in asked]


def _by_length(prompts: Sequence[list[int]]) -> list[list[list[int]]]:
    ordered = sorted(prompts, key=len, reverse=True)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def _padded(prompts: Sequence[list[int]], device: Any) -> dict[str, Any]:
    """Left-padded ids, mask and positions on the device."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    made = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: value.to(device) for name, value in made.items()}


async def _with_vllm(options: argparse.Namespace) -> None:
    from rlaif.engines.vllm import VllmEngine
    from rlaif.engines.window import sliding_window

    asked = requests(options.prompts, options.words)
    arguments: dict[str, Any] = {"disable_log_stats": False}  # which counts what the prefix cache has
    if options.cache_blocks:
        arguments |= {"num_gpu_blocks_override": options.cache_blocks, "max_model_len": 1024}
    async with VllmEngine(options.model, concurrency=options.concurrency, engine_args=arguments) as engine:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        prompts = _token_ids(engine._tokenizer, asked)
        one_token = SamplingParams(temperature=0.0, max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY)
        names = iter(range(10**9))

        async def answer(ids: list[int]) -> None:
            async for _ in engine._process.llm.generate({"prompt_token_ids": ids}, one_token, f"bare-{next(names)}"):
                pass

        async def prefill() -> None:
            async for _ in sliding_window(prompts, answer, options.concurrency):
                pass

        async def forget() -> None:
            assert await engine._process.llm.reset_prefix_cache(), "vLLM did not reset its prefix cache"

        if options.only_hit_rates:
            print(f"{len(asked)} requests, {sum(map(len, prompts)):,} prompt tokens, {options.concurrency} at a time")
            await _hit_rates(engine, asked, forget)
            return
        where = f"vLLM, {str(engine._process.llm.model_config.dtype).removeprefix('torch.')}"
        await _compare(where, engine, asked, prompts, prefill, forget, options)
        await _hit_rates(engine, asked, forget)


async def _hit_rates(engine: "Engine", asked: list["Request"], forget: Callable[[], Awaitable[None]]) -> None:
    """Prints the share of prompt tokens that the prefix cache had, by order of the requests."""
    shuffled = random.Random(1).sample(asked, len(asked))
    print("\n| order of requests | prompt tokens found in the prefix cache |\n|---|---|")
    for name, ordered in (("the project's: those of a prompt one after the other", asked), ("shuffled", shuffled)):
        await forget()
        before = _prefix_cache()
        await _ask(engine, ordered)
        hits, queries = (after - start for after, start in zip(_prefix_cache(), before, strict=True))
        print(f"| {name} | {hits / queries:.1%} |", flush=True)


def _prefix_cache() -> tuple[int, int]:
    """Tokens found and tokens looked for, since vLLM started."""
    from vllm.v1.metrics.reader import Counter, get_metrics_snapshot

    def total(name: str) -> int:
        found = [item for item in get_metrics_snapshot() if isinstance(item, Counter) and item.name == name]
        assert found, f"this vLLM has no metric {name}"
        return sum(item.value for item in found)

    return total("vllm:prefix_cache_hits"), total("vllm:prefix_cache_queries")


async def _compare(
    where: str,
    engine: "Engine",
    asked: list["Request"],
    prompts: list[list[int]],
    prefill: Callable[[], Awaitable[None]],
    forget: Callable[[], Awaitable[None]],
    options: argparse.Namespace,
) -> None:
    """Prints the table: each side once to warm up, then in turns. forget: what is done before each, outside the clock."""
    explained = requests(options.prompts, options.words, explained=options.explanation_tokens)[: options.explanations]

    async def choices() -> None:
        await _ask(engine, asked)

    bare_seconds, choice_seconds = [], []
    for number in range(options.rounds + 1):
        sides = [(bare_seconds, prefill), (choice_seconds, choices)]
        for seconds, run in sides if number % 2 else sides[::-1]:
            await forget()
            started = time.perf_counter()
            await run()
            seconds.append(time.perf_counter() - started)
    bare, choice = bare_seconds[1:], choice_seconds[1:]
    await forget()
    started = time.perf_counter()
    tokens = await _ask(engine, explained)
    explaining = (time.perf_counter() - started) / len(explained)
    ratios = [one / other for one, other in zip(choice, bare, strict=True)]
    each = statistics.median(bare) / len(asked)
    print(f"{where}: {len(asked)} requests, {sum(map(len, prompts)):,} prompt tokens, {options.rounds} rounds\n")
    print("| side | ms a request (median) | of the bare prefill |\n|---|---|---|")
    print(f"| bare prefill | {1000 * each:.4g} | 1 |")
    print(
        f"| choices, one token | {1000 * statistics.median(choice) / len(asked):.4g} | {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}) |"
    )
    length = tokens / len(explained)
    print(f"| explanation, {length:.0f} tokens ({len(explained)} requests, one round) | {1000 * explaining:.5g} | "
          f"{explaining / each:.1f} |", flush=True)  # fmt: skip


async def _ask(engine: "Engine", asked: list["Request"]) -> int:
    """Answers all requests; returns how many tokens the answers have."""
    tokens = 0
    async for completion in engine.complete_many(asked):
        assert completion.failure is None, f"{completion.key}: {completion.failure} {completion.detail}"
        (sample,) = completion.samples
        assert sample.choice_probabilities or not asked[0].choices, f"{completion.key}: no probabilities"
        tokens += sample.completion_tokens or 0
    return tokens


async def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
