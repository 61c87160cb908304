"""Any OpenAI-compatible endpoint: hosted ones, vLLM's server, and others that speak the protocol.

Endpoints differ in what they take and in what they silently ignore. A field that is refused is dropped (or renamed),
remembered, and said in `notices`; an ignored `n` or choice constraint is noticed from the answers. The first request with
choices goes alone, so that what its endpoint makes of them is known before any other is sent.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample
from rlaif.engines.choices import TOP_TOKENS, choice_probabilities
from rlaif.engines.endpoints import EndpointPool, GaveUp, Refused
from rlaif.engines.replies import Answer, Reply
from rlaif.engines.window import sliding_window
from rlaif.errors import BudgetReached, EngineError
from rlaif.types import FinishReason

Constraint = Literal["auto", "structured_outputs", "none"]

FEWER_TOP_TOKENS = 5
"""Asked for where TOP_TOKENS are refused."""

VLLM_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent to vLLM's server, which otherwise takes these from the model's generation_config.json."""

DROPPABLE = ("structured_outputs", "seed", "temperature", "top_p", *VLLM_SAMPLING)
RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

NO_LOGPROBS = (
    "so the probabilities of choices are unknown and each vote counts whole for what it names; for finer margins ask more "
    "votes at a temperature above 0, or use an endpoint that gives log-probs"
)
PLAIN_TEXT = (
    "choices are read strictly from the text that it writes, and what names none of them clearly counts for nothing "
    "(unparsed)"
)

OVER_LONG = re.compile(
    r"context.?(length|window|size)|maximum context|too (long|many tokens)|max_model_len|prompt is longer", re.I
)
UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|not (permitted|allowed|available|accept)|forbidden|"
    r"can ?not be used|invalid (parameter|argument|field|property)|only the default",
    re.I,
)
OVER_LIMIT = re.compile(r"must be|maximum|at most|less than|greater than|max allowed|out of range", re.I)


class OpenAIEngine(Engine):
    """A model behind one or several OpenAI-compatible endpoints.

    `notices` says, once each, what an endpoint refuses or ignores, and so what the answers lack.
    """

    kind = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_urls: Sequence[str] = (),
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout_seconds: float = 600,
        max_retries: int = 6,
        max_requests: int | None = None,
        constraint: Constraint = "auto",
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        """
        base_urls: OPENAI_BASE_URL, else api.openai.com, unless given; each request goes to the least busy one, and
        the key in `api_key_env` to all. concurrency: requests in flight over all of them. max_requests: attempts that
        may be billed (all but those answered with a 4xx) before BudgetReached is raised. constraint: 'auto' asks for
        choices with structured_outputs until an endpoint refuses it. extra_body: further fields of every request.
        """
        self.model = model
        self.concurrency = concurrency
        self.constraint = constraint
        self.extra_body = extra_body or {}
        self.notices: list[str] = []
        self._pool = EndpointPool(
            model,
            base_urls,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            max_requests=max_requests,
        )
        self.endpoint = self._pool.shown
        self._noticed: set[str] = set()
        self._dropped = {"structured_outputs"} if constraint == "none" else set()
        self._limit_field = "max_completion_tokens" if "api.openai.com" in self.endpoint else "max_tokens"
        self._top_tokens = TOP_TOKENS
        self._refused_limits: set[str] = set()
        self._takes_n = True
        self._has_asked_choices = False
        self._first_choices = asyncio.Lock()
        self._cut_short: BudgetReached | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            choice_constraint="structured_outputs" not in self._dropped and "constraint" not in self._noticed,
            choice_probabilities="logprobs" not in self._dropped and "logprobs" not in self._noticed,
            context_tokens=self._pool.context_tokens,
        )

    @property
    def requests_sent(self) -> int:
        """Attempts so far that may have been billed."""
        return self._pool.sent

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        window = cast("AsyncGenerator[Completion]", sliding_window(requests, self._complete, self.concurrency))
        async with contextlib.aclosing(window):
            async for completion in window:
                yield completion
        if self._cut_short is not None:
            raise self._cut_short

    async def _complete(self, request: Request) -> Completion:
        if request.choices and not self._has_asked_choices:
            async with self._first_choices:
                if not self._has_asked_choices:
                    try:
                        return await self._answers(request)
                    finally:
                        self._has_asked_choices = True
        return await self._answers(request)

    async def _answers(self, request: Request) -> Completion:
        """The answers. When a part of them fails, those already paid for come back together with the failure."""
        started = time.monotonic()
        found: dict[int, Sample] = {}
        prompt_tokens: int | None = None
        problem: BaseException | None = None
        while problem is None and len(found) < len(request.indices):
            runs = self._runs(request, [index for index in request.indices if index not in found])
            replies = await asyncio.gather(*(self._ask(request, run) for run in runs), return_exceptions=True)
            for reply in replies:
                if isinstance(reply, BaseException):
                    problem = problem or reply
                else:
                    found |= {sample.index: sample for sample in reply[0]}
                    prompt_tokens = reply[1]
        failure, detail = self._failure(problem, has_samples=bool(found))
        return Completion(
            key=request.key,
            samples=tuple(found[index] for index in request.indices if index in found),
            prompt_tokens=prompt_tokens,
            latency_seconds=time.monotonic() - started,
            failure=failure,
            detail=detail,
        )

    def _failure(
        self, problem: BaseException | None, *, has_samples: bool
    ) -> tuple[Literal["over-long", "rejected", "unavailable"] | None, str]:
        """What a problem means for its request alone; problems of every request are raised."""
        if problem is None:
            return None, ""
        if isinstance(problem, GaveUp):
            return "unavailable", str(problem)
        if isinstance(problem, Refused):
            return ("over-long" if OVER_LONG.search(problem.message) else "rejected"), problem.message
        if isinstance(problem, BudgetReached) and has_samples:
            self._cut_short = problem
            return "unavailable", str(problem)
        raise problem

    def _runs(self, request: Request, indices: list[int]) -> list[list[int]]:
        """Which samples to ask for together: with a seed, consecutive ones, because servers count up from it."""
        if not self._takes_n or request.sampling.temperature == 0:
            return [[index] for index in indices]
        if request.sampling.seed is None:
            return [indices]
        runs: list[list[int]] = []
        for index in indices:
            if runs and runs[-1][-1] == index - 1:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs

    async def _ask(self, request: Request, run: list[int]) -> tuple[list[Sample], int | None]:
        """The samples of one HTTP request and the prompt's tokens; fields that the endpoint refuses are left out."""
        body = self._body(request, run)
        while True:
            try:
                reply = await self._pool.chat(body)
            except Refused as refused:
                self._adapt(refused, body)
                sent, body = body, self._body(request, run)
                if body == sent:
                    raise
            else:
                break
        return self._read(request, run, reply, body), reply.prompt_tokens

    def _body(self, request: Request, run: Sequence[int]) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.as_dict() for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit_field: sampling.max_tokens,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = request.seed_of(run[0])
        if len(run) > 1 and self._takes_n:
            body["n"] = len(run)
        if request.choices:
            body["structured_outputs"] = {"choice": list(request.choices)}
            if "logprobs" not in self._dropped:
                body |= {"logprobs": True, "top_logprobs": self._top_tokens}
        if self._pool.is_vllm:
            body |= VLLM_SAMPLING
        return {name: value for name, value in body.items() if name not in self._dropped} | self.extra_body

    def _adapt(self, refused: Refused, body: Mapping[str, Any]) -> None:
        """Remembers which field of the body the endpoint refuses, if its message names one."""
        if OVER_LONG.search(refused.message):
            return
        is_unsupported = UNSUPPORTED.search(refused.message) is not None
        is_over_limit = OVER_LIMIT.search(refused.message) is not None
        for field in _named_fields(refused, body):
            if field in ("logprobs", "top_logprobs") and (is_unsupported or is_over_limit):
                self._ask_fewer_logprobs(body)
            elif not is_unsupported:
                continue
            elif field in RENAMED:
                self._refused_limits.add(field)
                if RENAMED[field] not in self._refused_limits:
                    self._limit_field = RENAMED[field]
            elif field == "n":
                self._takes_n = False
                self._notice("n", "takes no n: every sample is a request of its own")
            else:
                self._drop(field, refused)

    def _ask_fewer_logprobs(self, body: Mapping[str, Any]) -> None:
        if body.get("top_logprobs", 0) > FEWER_TOP_TOKENS:
            self._top_tokens = FEWER_TOP_TOKENS
        else:
            self._dropped.add("logprobs")
            self._notice("logprobs", f"refuses log-probs, {NO_LOGPROBS}")

    def _drop(self, field: str, refused: Refused) -> None:
        if field == "structured_outputs" and self.constraint == "structured_outputs":
            raise EngineError(
                f"{self.endpoint} refuses structured_outputs: {refused.message}\n"
                "Use constraint 'auto' or 'none' to read the choice from plain text"
            )
        self._dropped.add(field)
        means = {
            "structured_outputs": PLAIN_TEXT,
            "seed": "samples can not be repeated",
        }.get(field, "its own default is used")
        self._notice(field, f"refuses {field}: {means}")

    def _note_ignored_constraint(self, choices: Sequence[str], text: str) -> None:
        ignores = f"ignores the constraint to {', '.join(choices)} (structured_outputs): it answered {text[:80]!r}"
        if self.constraint == "structured_outputs":
            raise EngineError(
                self._pool.redact(f"{self.endpoint} {ignores}\n")
                + "Use constraint 'auto' or 'none' to read the choice from plain text, or an endpoint that honours it"
            )
        self._notice(
            "constraint",
            f"{ignores}; so {PLAIN_TEXT}. An endpoint that honours it (vLLM's does), a judge that explains itself "
            "before its verdict, or `repair: true` in the judge's file loses fewer votes",
        )

    def _notice(self, about: str, text: str) -> None:
        """Keeps what the user should know, once for each thing it is about."""
        if about not in self._noticed:
            self._noticed.add(about)
            self.notices.append(self._pool.redact(f"{self.endpoint} ({self.model}) {text}"))

    def _read(self, request: Request, run: Sequence[int], reply: Reply, body: Mapping[str, Any]) -> list[Sample]:
        if self._pool.lists_model() is False:
            self._notice("model", "answers, though it does not list this model")
        if len(reply.answers) < body.get("n", 1):
            self._takes_n = False
            self._notice("n", "ignores n: every further sample is a request of its own")
        tokens = reply.completion_tokens if len(reply.answers) == 1 else None
        return [
            self._sample(request, index, answer, tokens, "structured_outputs" in body)
            for index, answer in zip(run, reply.answers, strict=False)
        ]

    def _sample(self, request: Request, index: int, answer: Answer, tokens: int | None, is_constrained: bool) -> Sample:
        text, finish_reason = answer.text, _finish_reason(answer.finish_reason)
        probabilities = None
        if request.choices:
            is_choice = text.strip() in request.choices
            if is_constrained and not is_choice and finish_reason in ("stop", None) and not answer.is_refusal:
                self._note_ignored_constraint(request.choices, text)
            if not answer.first_tokens and "logprobs" in self._body(request, [index]):
                self._notice("logprobs", f"gives no log-probs, {NO_LOGPROBS}")
            if is_choice:
                probabilities = choice_probabilities(request.choices, answer.first_tokens)
        return Sample(
            index=index,
            text=text,
            finish_reason=finish_reason,
            completion_tokens=tokens,
            choice_probabilities=probabilities,
        )


def _named_fields(refused: Refused, body: Mapping[str, Any]) -> list[str]:
    """The fields of the body that the refusal is about: its `param`, else those its message names."""
    known = [name for name in (*DROPPABLE, *RENAMED, "n", "logprobs", "top_logprobs") if name in body]
    if refused.parameter in known:
        return [refused.parameter]
    return [name for name in known if re.search(_mention(name), refused.message)]


def _mention(name: str) -> str:
    """A pattern for a field's name in a message. A short one must be quoted, or it could be a part of any sentence."""
    return rf"['\"`]{name}['\"`]" if len(name) < 3 else rf"(?<!\w){name}(?!\w)"


def _finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    return "stop" if reason == "stop" else "length" if reason == "length" else "other"
