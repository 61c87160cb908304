"""vLLM in the run itself, on the GPU that trains: it samples the rollouts, and sleeps while the policy learns.

It has the calls of a server (`server.Vllm`), so that the same sampler gives it each step's policy. Its engine is a process of
its own, which this one starts and ends.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.engines.vllm import VllmProcess, lora_rank, vllm_arguments, vllm_device
from rlaif.errors import EngineError, on_one_line
from rlaif.progress import say
from rlaif.training.online.samples import Sampled
from rlaif.training.online.vllm_calls import SAMPLING, as_sampled


class VllmHere:
    """What does not hang on the form in which it is given the policy. Used on one event loop, on which it starts when it is
    first needed."""

    shown = "vLLM in this run"
    must = "It must compute in the number format of the training (rollouts.engine_args)."

    def __init__(
        self,
        model: str,
        *,
        form: Mapping[str, Any],
        dtype: str,
        max_model_len: int,
        gpu_memory: float,
        engine_args: Mapping[str, Any],
    ) -> None:
        """model: the policy, or the base of its adapters. form: arguments of vLLM's AsyncEngineArgs by which it takes the
        policy. gpu_memory: its share of the GPU's memory while it is awake. engine_args: over all others."""
        self.model, self.form, self.dtype, self.max_model_len = model, dict(form), dtype, max_model_len
        self.gpu_memory, self.engine_args = gpu_memory, dict(engine_args)
        self._process: VllmProcess | None = None
        self._sleeps = self._is_asleep = False
        self._requests = itertools.count()

    async def wake(self) -> None:
        """Before it is asked for anything."""
        if self._process is None:
            self._process = self._started()
        if self._is_asleep:
            with self._telling("wake"):
                await self._llm.wake_up()
            self._is_asleep = False

    async def rest(self) -> None:
        """Gives the GPU's memory back until it is woken: weights wait in the memory of the CPU."""
        if self._sleeps and self._process is not None and not self._is_asleep:
            with self._telling("sleep"):
                await self._llm.sleep(level=1)
            self._is_asleep = True

    @property
    def _llm(self) -> Any:
        assert self._process is not None, "it is woken before it is asked"
        return self._process.llm

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turns what its process can fail with into one message. what: it was to do."""
        try:
            yield
        except Exception as error:  # of the engine's process, and by its name alone: EngineDeadError and others
            raise EngineError(f"{self.shown} does not {what}: {on_one_line(error)}") from None

    async def _responses(self, body: Mapping[str, Any], adapter: Any = None) -> tuple[list[Sampled], set[str]]:
        """The responses to a prompt, in their order, and the names of the weights that sampled them."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        parameters = SamplingParams(
            **{key: body[key] for key in SAMPLING}, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        stream = self._llm.generate(
            {"prompt_token_ids": body["prompt"]}, parameters, f"rollout-{next(self._requests)}", lora_request=adapter
        )
        answer: Any = None
        with self._telling("answer"):
            async for output in stream:
                answer = output
            ordered = sorted(answer.outputs, key=lambda output: int(output.index))
            versions = {span.version for output in ordered for span in output.weight_versions or ()}
            return [_sampled(output) for output in ordered], versions

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _started(self) -> VllmProcess:
        device = vllm_device()
        self._sleeps = device == "cuda"
        arguments: dict[str, Any] = {
            **vllm_arguments(self.model, self.dtype, self.max_model_len, device),
            "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
            **self.form,
        }
        if self._sleeps:
            arguments |= {"enable_sleep_mode": True, "gpu_memory_utilization": self.gpu_memory}
        say(f"{self.shown} starts with {self.model}")
        return VllmProcess(arguments | self.engine_args)


class AdaptersHere(VllmHere):
    """It is given each step's adapter."""

    def __init__(self, model: str, *, rank: int, **more: Any) -> None:
        """rank: of the adapters. more: as VllmHere."""
        form = {
            "enable_lora": True,
            "max_loras": 2,  # the new one is checked before the last one goes
            "max_lora_rank": lora_rank(rank, "lora.r"),
        }
        super().__init__(model, form=form, **more)
        self._numbers = itertools.count(1)
        self._adapters: dict[str, Any] = {}

    async def loaded(self) -> list[str]:
        return list(self._adapters)

    async def load(self, name: str, folder: Path) -> None:
        """Takes an adapter. Raises EngineError if vLLM refuses it."""
        from vllm.lora.request import LoRARequest

        await self.wake()
        request = LoRARequest(name, next(self._numbers), str(folder.resolve()))
        with self._telling(f"load the adapter {name}"):
            await self._llm.add_lora(request)
        self._adapters[name] = request

    async def unload(self, name: str) -> None:
        if (request := self._adapters.pop(name, None)) is not None:
            with self._telling(f"unload the adapter {name}"):
                await self._llm.remove_lora(request.lora_int_id)

    async def forget(self, name: str) -> bool:
        return self._adapters.pop(name, None) is not None

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt; None if it does not have the adapter that is asked."""
        if (adapter := self._adapters.get(str(body["model"]))) is None:
            return None
        found, _ = await self._responses(body, adapter)
        return found


def _sampled(output: Any) -> Sampled:
    """One of vLLM's responses with its log-probs."""
    logps = [each[token].logprob for token, each in zip(output.token_ids, output.logprobs, strict=True)]
    return as_sampled(output.token_ids, logps, output.finish_reason)
