"""vLLM in the run itself, on the GPU that trains: it samples the rollouts, and sleeps while the policy learns.

It has the calls of a server (`vllm_calls.VllmServer`), so that the same sampler gives it each step's adapter. Its engine is a
process of its own, which this one starts and ends.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.engines.guard import ProcessGuard
from rlaif.engines.vllm import lora_rank, start_vllm, vllm_arguments, vllm_device
from rlaif.errors import EngineError
from rlaif.progress import say
from rlaif.training.online.samples import Sampled


class VllmHere:
    """Used on one event loop, on which it starts when it is first needed."""

    shown = "vLLM in this run"

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        rank: int,
        gpu_memory: float,
        engine_args: Mapping[str, Any],
    ) -> None:
        """model: the base of the adapters, whose rank is at most `rank`. gpu_memory: its share of the GPU's memory while it is
        awake. engine_args: over all others, of vLLM's AsyncEngineArgs."""
        self.model, self.dtype, self.max_model_len, self.rank = model, dtype, max_model_len, rank
        self.gpu_memory, self.engine_args = gpu_memory, dict(engine_args)
        self._llm: Any = None
        self._guard: ProcessGuard | None = None
        self._sleeps = self._is_asleep = False
        self._numbers, self._requests = itertools.count(1), itertools.count()
        self._adapters: dict[str, Any] = {}

    async def wake(self) -> None:
        """Before it is asked for anything."""
        if self._llm is None:
            self._open()
        if self._is_asleep:
            await self._llm.wake_up()
            self._is_asleep = False

    async def rest(self) -> None:
        """Gives the GPU's memory back until it is woken: weights wait in the memory of the CPU."""
        if self._sleeps and self._llm is not None and not self._is_asleep:
            if self._llm.errored:
                return  # what stopped it is told by who was asking
            await self._llm.sleep(level=1)
            self._is_asleep = True

    async def adapters(self) -> list[str]:
        return list(self._adapters)

    async def load(self, name: str, folder: Path) -> None:
        """Takes an adapter. Raises EngineError if vLLM refuses it."""
        from vllm.lora.request import LoRARequest

        await self.wake()
        request = LoRARequest(name, next(self._numbers), str(folder.resolve()))
        try:
            await self._llm.add_lora(request)
        except Exception as error:  # whatever the engine's process fails with
            raise EngineError(f"{self.shown} does not load the adapter {name}: {error}") from None
        self._adapters[name] = request

    async def unload(self, name: str) -> None:
        if (request := self._adapters.pop(name, None)) is not None:
            await self._llm.remove_lora(request.lora_int_id)

    async def forget(self, name: str) -> bool:
        return self._adapters.pop(name, None) is not None

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt; None if it does not have the adapter that is asked."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if (adapter := self._adapters.get(str(body["model"]))) is None:
            return None
        taken = ("n", "max_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
                 "stop_token_ids", "logprobs")  # fmt: skip
        parameters = SamplingParams(
            **{key: body[key] for key in taken}, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        stream = self._llm.generate(
            {"prompt_token_ids": body["prompt"]}, parameters, f"rollout-{next(self._requests)}", lora_request=adapter
        )
        answer: Any = None
        try:
            async for output in stream:
                answer = output
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"{self.shown} stopped while answering: {error}") from None
        ordered = sorted(answer.outputs, key=lambda output: int(output.index))
        return [
            Sampled(
                tuple(output.token_ids),
                tuple(each[token].logprob for token, each in zip(output.token_ids, output.logprobs, strict=True)),
                output.finish_reason == "stop",
            )
            for output in ordered
        ]

    async def close(self) -> None:
        llm, self._llm = self._llm, None
        guard, self._guard = self._guard, None
        try:
            if llm is not None:
                llm.shutdown()
        finally:
            if guard is not None:
                guard.end()

    def _open(self) -> None:
        device = vllm_device()
        self._sleeps = device == "cuda"
        arguments: dict[str, Any] = {
            **vllm_arguments(self.model, self.dtype, self.max_model_len, device),
            "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
            "enable_lora": True,
            "max_loras": 2,  # the new one is checked before the last one goes
            "max_lora_rank": lora_rank(self.rank, "lora.r"),
        }
        if self._sleeps:
            arguments |= {"enable_sleep_mode": True, "gpu_memory_utilization": self.gpu_memory}
        say(f"{self.shown} starts with {self.model}")
        self._guard = ProcessGuard()
        with self._guard:
            self._llm = start_vllm(arguments | self.engine_args)
