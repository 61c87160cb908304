"""A local server that speaks enough of the OpenAI protocol to misbehave on purpose."""

import inspect
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[[Body, int], web.StreamResponse | Awaitable[web.StreamResponse]]


def chat_reply(*texts: str, tops: Sequence[tuple[str, float]] | None = None, **message: Any) -> web.Response:
    """A chat completion with one choice per text; `tops` are the log-probs of the first token's candidates."""
    first = {"token": "", "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": lp} for t, lp in tops or ()]}
    logprobs = {"content": [first]} if tops is not None else None
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, **message},
            "finish_reason": "stop",
            "logprobs": logprobs,
        }
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 3 * len(texts), "total_tokens": 7 + 3 * len(texts)}
    return web.json_response(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices, "usage": usage}
    )


def fault(status: int, message: str, headers: dict[str, str] | None = None, **error: Any) -> web.Response:
    return web.json_response({"error": {"message": message, **error}}, status=status, headers=headers)


class StubServer:
    """Answers chat requests with answer(body, how many came before) and lists `models` (None: HTTP 404)."""

    last: web.Request
    """The latest chat request."""

    def __init__(
        self,
        answer: Answer,
        models: Sequence[str] | None = ("stub",),
        owned_by: str = "test",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.models = models
        self.owned_by = owned_by
        self.tls = tls
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self.models is None:
            return fault(404, "no such page")
        data = [{"id": name, "object": "model", "owned_by": self.owned_by} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.last = request
        body = await request.json()
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        answer = self.answer(body, len(self.bodies) - 1)
        return await answer if inspect.isawaitable(answer) else answer
