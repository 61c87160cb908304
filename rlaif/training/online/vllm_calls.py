"""What is asked of a vLLM server: completions of token ids, and to load, list and unload adapters while it runs."""

import asyncio
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from rlaif.engines.connection import Connection, HttpReply, NoAnswer, check_base_url, shown_url
from rlaif.errors import EngineError, OutageError
from rlaif.progress import say
from rlaif.training.online.samples import Sampled

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
ANSWER_SECONDS = 3600.0
"""Most that one answer may take: a server with many requests has them wait."""
BUSY = frozenset({429, 502, 503, 504})
FAILED = BUSY | {500}
"""A rollout that failed is asked for again; to a load that vLLM refuses it says 500 too, and it would refuse it again."""
HOW_TO_START = "start it with --enable-lora and the environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
SAMPLING = ("n", "max_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop_token_ids",
            "logprobs")  # fmt: skip
"""What of a request are vLLM's own sampling parameters."""


class VllmServer:
    """One server, given adapters, and used on one event loop. A request is sent again while the server is away or busy, and
    OutageError is raised when patience ends; what it refuses raises EngineError."""

    must = "It must serve the model that is trained, in the same number format (--dtype)."

    def __init__(self, base_url: str, api_key: str, api_key_env: str, patience_minutes: float) -> None:
        """base_url: ends in /v1."""
        check_base_url(base_url, api_key_env)
        self.shown = shown_url(base_url)
        self._root, self._key, self._key_env = base_url.rstrip("/").removesuffix("/v1"), api_key, api_key_env
        self._patience_minutes = patience_minutes
        self._open: Connection | None = None
        self._is_away = False

    async def loaded(self) -> list[str]:
        """The names of the models and adapters that it serves."""
        return [model["id"] for model in await self._models()]

    async def _models(self) -> list[dict[str, Any]]:
        """What it lists of the models and adapters that it serves."""
        reply = await self._send("v1/models", None, FAILED)
        try:
            return [{**model, "id": str(model["id"])} for model in self._answer(reply, "to list its models")["data"]]
        except (KeyError, TypeError) as error:
            raise self._unreadable(reply, "its list of models") from error

    async def load(self, name: str, folder: Path) -> None:
        """Has it load the adapter in `folder` under a new name; done already is well, as another process may have done it."""
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        reply = await self._send("v1/load_lora_adapter", body, BUSY)
        if reply.status == 200 or (reply.status == 400 and "already been loaded" in text_of(reply)):
            return
        if reply.status in (404, 405) and name not in text_of(reply):
            raise EngineError(f"{self.shown} can not load adapters while it runs; {HOW_TO_START}")
        raise EngineError(
            f"{self.shown} does not load the adapter {folder}: {text_of(reply).rstrip('.')}. It must see this folder, serve "
            f"the model that is trained, and allow the adapter's rank (--max-lora-rank, at least lora.r); {HOW_TO_START}"
        )

    async def unload(self, name: str) -> None:
        """Has it forget an adapter; one that it does not have is well."""
        reply = await self._send("v1/unload_lora_adapter", {"lora_name": name}, BUSY)
        if reply.status not in (200, 404):
            raise EngineError(f"{self.shown} does not unload the adapter {name}: {text_of(reply)}")

    async def forget(self, name: str) -> bool:
        """As `unload`, but asked once and without an error, for a run that ends anyway; whether the server did it."""
        try:
            reply = await self._connection.post("v1/unload_lora_adapter", {"lora_name": name})
        except NoAnswer:
            return False
        return reply.status in (200, 404)

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt; None if it does not have the model that is asked, as after a restart."""
        reply = await self._send("v1/completions", body, FAILED)
        if reply.status == 404 and str(body["model"]) in text_of(reply):
            return None
        answer = self._answer(reply, "to answer")
        try:
            found = sampled(answer)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._unreadable(reply, "an answer") from error
        if found is None:
            raise EngineError(
                f"{self.shown} gives no token ids with their log-probs, and rollouts need both; use vLLM 0.10.2 or newer, "
                "which has return_token_ids"
            )
        self._check_count(found, body)
        return found

    def _check_count(self, found: Sized, body: Mapping[str, Any]) -> None:
        if len(found) != body["n"]:
            raise EngineError(f"{self.shown} gives {len(found)} responses to a prompt, and {body['n']} were asked for")

    async def wake(self) -> None:
        """A server is always awake."""

    async def rest(self) -> None:
        """A server has its own GPU."""

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            self._open = Connection(self._root, self._key, ANSWER_SECONDS)
        return self._open

    async def _send(self, path: str, body: Mapping[str, Any] | None, again: Collection[int]) -> HttpReply:
        """One request (a GET without body), sent again while the reply is none or has a status in `again`."""
        started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while True:
            try:
                reply = await (self._connection.get(path) if body is None else self._connection.post(path, body))
                problem = f"HTTP {reply.status}: {text_of(reply)}"
                if reply.status not in again:
                    self._is_away = False
                    return reply
            except NoAnswer as error:
                problem = str(error)
            left = 60 * self._patience_minutes - (time.monotonic() - started)
            if left <= 0:
                raise OutageError(
                    f"the rollout server {self.shown} gave no answer for {self._patience_minutes:g} minutes ({problem})"
                )
            self._say_once(problem)
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _say_once(self, problem: str) -> None:
        if not self._is_away:
            say(f"{self.shown}: {problem}; it is asked again for up to {self._patience_minutes:g} minutes")
        self._is_away = True

    def _answer(self, reply: HttpReply, what: str) -> dict[str, Any]:
        """The JSON of a reply. what: it was asked for."""
        if reply.status in (401, 403):
            raise EngineError(
                f"{self.shown} refuses the key in the environment variable {self._key_env}: {text_of(reply)}"
            )
        if reply.status == 404:
            raise EngineError(
                f"{self.shown} refuses {what}: {text_of(reply)}; rollouts.base_url is that of a vLLM server and ends in /v1"
            )
        if reply.status != 200:
            raise EngineError(f"{self.shown} refuses {what}: {text_of(reply)}")
        try:
            found: dict[str, Any] = json.loads(reply.content)
        except ValueError as error:
            raise self._unreadable(reply, "an answer") from error
        return found

    def _unreadable(self, reply: HttpReply, what: str) -> EngineError:
        return EngineError(f"{self.shown} gives {what} that can not be read: {text_of(reply)}; is it a vLLM server?")


def sampled(answer: Mapping[str, Any]) -> list[Sampled] | None:
    """The responses in a completion of several choices, in their order; None if token ids or their log-probs are missing.

    Raises KeyError, TypeError or ValueError for what is no completion.
    """
    found = []
    for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"])):
        ids, logprobs, ended = choice.get("token_ids"), choice.get("logprobs"), choice["finish_reason"]
        if not ids or logprobs is None or len(logprobs["token_logprobs"]) != len(ids):
            return None
        found.append(as_sampled(ids, logprobs["token_logprobs"], ended))
    return found


def as_sampled(ids: Iterable[Any], logps: Iterable[Any], ended: Any) -> Sampled:
    """A response of these tokens, whose log-probs are as many. ended: its finish_reason; ValueError is raised for one that is
    not an end, as abort."""
    if ended not in ("stop", "length"):
        raise ValueError(f"finish_reason {ended}")
    return Sampled(tuple(int(token) for token in ids), tuple(float(value) for value in logps), ended == "stop")


def text_of(reply: HttpReply) -> str:
    """What a reply says, on one line."""
    try:
        content = json.loads(reply.content)
        error = content.get("error", content) if isinstance(content, dict) else content
        text = error["message"] if isinstance(error, dict) and isinstance(error.get("message"), str) else str(content)
    except ValueError:
        text = reply.content.decode(errors="replace")
    return " ".join(text.split())[:300]
