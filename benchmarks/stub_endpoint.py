"""An OpenAI-compatible endpoint that answers every chat after DELAY_SECONDS and costs next to nothing itself."""

import asyncio
import json
import re
import selectors
from multiprocessing.queues import Queue
from typing import Any

DELAY_SECONDS = 0.1


def serve(ready: "Queue[int]") -> None:
    """Puts its port into the queue and serves until the process ends."""
    # epoll, asyncio's default, would wake up to 1 ms late; select does not
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_listen(ready))


async def _listen(ready: "Queue[int]") -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    ready.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a client with keep-alive and Content-Length needs it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: *(\d+)", self._received[:end], re.IGNORECASE)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            if self._received.startswith(b"POST"):
                asyncio.get_running_loop().call_later(DELAY_SECONDS, self._transport.write, CHAT)
            else:
                self._transport.write(MODELS)
            del self._received[:whole]


def _response(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


CHAT = _response(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
)
MODELS = _response({"object": "list", "data": [{"id": "stub", "object": "model", "created": 0, "owned_by": "stub"}]})
