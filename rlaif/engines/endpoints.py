"""Sending to OpenAI-compatible endpoints: the least busy first, retries with backoff, a budget, one message a fault.

The key is read from an environment variable when the pool opens, kept in a SecretStr, and blotted out of every text
that comes from outside.
"""

import asyncio
import contextlib
import datetime
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import SecretStr

from rlaif.engines.connection import Connection, HttpReply, NoAnswer, check_base_url, shown_url
from rlaif.engines.replies import NotChat, Reply, read_fault, read_reply
from rlaif.errors import BudgetReached, EngineError, Unavailable, did_you_mean

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
BACKOFF_SECONDS = 0.5
"""The wait before the first retry; it doubles with every further one, up to BACKOFF_CAP_SECONDS."""
BACKOFF_CAP_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for a longer wait is not waited for: the request counts as unavailable."""
FAILURES_IN_A_ROW = 20
"""So many requests given up without one answered between them, and the endpoint counts as gone."""
RETRIED = (408, 409, 425, 429)


class Refused(Exception):
    """The endpoint refuses this one request (a 4xx that no retry mends)."""

    def __init__(self, message: str, parameter: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter


class GaveUp(Exception):
    """The request got no answer after all retries."""


@dataclass(eq=False)
class Endpoint:
    """One base URL and what is known of it."""

    url: str
    """For people: without user, password and query."""
    connection: Connection = field(repr=False)
    models: Mapping[str, int | None] | None = None
    """Context length by model name; None if the endpoint does not list its models."""
    is_vllm: bool = False
    in_flight: int = 0
    troubled_until: float = 0.0
    has_answered: bool = False


class EndpointPool:
    """Several endpoints that serve one model, behind one `chat`."""

    def __init__(
        self,
        model: str,
        base_urls: Sequence[str],
        *,
        api_key_env: str,
        concurrency: int,
        timeout_seconds: float,
        max_retries: int,
        max_requests: int | None,
    ) -> None:
        self.model = model
        self.base_urls = tuple(base_urls) or (os.environ.get("OPENAI_BASE_URL") or OPENAI_URL,)
        self.shown = ", ".join(shown_url(url) for url in self.base_urls)
        self.api_key_env = api_key_env
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        self.max_requests = max_requests
        self.sent = 0
        """Attempts that may have been billed: all but those answered with a 4xx."""
        self.endpoints: list[Endpoint] = []
        self._key = SecretStr("")
        self._slots = asyncio.Semaphore(concurrency)
        self._failures_in_a_row = 0

    @property
    def is_vllm(self) -> bool:
        return bool(self.endpoints) and all(endpoint.is_vllm for endpoint in self.endpoints)

    @property
    def context_tokens(self) -> int | None:
        """The smallest context that the endpoints declare for the model, if any does."""
        declared = [(endpoint.models or {}).get(self.model) for endpoint in self.endpoints]
        return min((tokens for tokens in declared if tokens is not None), default=None)

    async def open(self) -> None:
        """Connects and asks every endpoint for its models. Raises EngineError if one is down or refuses the key."""
        self._key = SecretStr(self._read_key())
        for url in self.base_urls:
            check_base_url(url, self.api_key_env)
        try:
            for url in self.base_urls:
                connection = Connection(url, self._key.get_secret_value(), self.timeout_seconds)
                self.endpoints.append(Endpoint(shown_url(url), connection))
            await asyncio.gather(*(self._probe(endpoint) for endpoint in self.endpoints))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        endpoints, self.endpoints = self.endpoints, []
        for endpoint in endpoints:
            await endpoint.connection.close()

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """The endpoint's reply.

        Raises Refused for a request the endpoint does not take, GaveUp after the last retry, BudgetReached before an
        attempt too many, and EngineError for what concerns every request: the key, the model, a quota, a wrong URL, or
        (Unavailable) an endpoint that is gone.
        """
        problem, endpoint = "", self._pick()
        for attempt in range(self.max_retries + 1):
            try:
                reply = await self._attempt(endpoint, body)
            except _Transient as transient:
                problem = f"{endpoint.url}: {transient}"
                wait = _wait_seconds(attempt, transient.retry_after)
                endpoint.troubled_until = time.monotonic() + wait
                if wait > LONGEST_RETRY_AFTER_SECONDS or attempt == self.max_retries:
                    break
                endpoint = self._pick()
                if endpoint.troubled_until > time.monotonic():
                    await asyncio.sleep(wait)
            else:
                self._failures_in_a_row, endpoint.has_answered = 0, True
                return reply
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise Unavailable(f"{self._failures_in_a_row} requests in a row got no answer, the last: {problem}")
        raise GaveUp(f"gave up after {attempt + 1} attempts: {problem}")

    def redact(self, text: str) -> str:
        """The text without the key, if it holds it."""
        key = self._key.get_secret_value()
        return text.replace(key, f"[the value of {self.api_key_env}]") if key else text

    def unknown_model(self, why: str) -> EngineError:
        """The error for a model name that the endpoint does not serve."""
        listed = sorted({name for endpoint in self.endpoints for name in endpoint.models or ()})
        message = f"{self.shown} does not serve the model '{self.model}'{did_you_mean(self.model, listed)}: {why}"
        if not listed:
            return EngineError(
                f"{message}\nCheck the model name, and that the base URL ends where the API begins (/v1)"
            )
        more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
        return EngineError(f"{message}\nIt serves: {', '.join(listed[:20])}{more}")

    def lists_model(self) -> bool | None:
        """Whether the model is among those that the endpoints list; None if none of them lists any."""
        listings = [endpoint.models for endpoint in self.endpoints if endpoint.models]
        return any(self.model in models for models in listings) if listings else None

    def _pick(self) -> Endpoint:
        """The least busy endpoint, those in trouble last."""
        now = time.monotonic()
        return min(self.endpoints, key=lambda endpoint: (endpoint.troubled_until > now, endpoint.in_flight))

    async def _attempt(self, endpoint: Endpoint, body: Mapping[str, Any]) -> Reply:
        """One HTTP request. Raises _Transient for what another attempt may mend."""
        async with self._slots:
            self._spend()
            endpoint.in_flight += 1
            try:
                reply = await endpoint.connection.chat(body)
            except NoAnswer as error:
                raise _Transient(self.redact(str(error))) from None
            finally:
                endpoint.in_flight -= 1
        if reply.status >= 400:
            self._raise_for(reply, endpoint)
        return self._read(reply, endpoint)

    def _read(self, reply: HttpReply, endpoint: Endpoint) -> Reply:
        try:
            data = json.loads(reply.content)
        except ValueError as error:
            if endpoint.has_answered or reply.headers.get("Content-Type", "").partition(";")[0].endswith("json"):
                raise _Transient(f"a reply that is not JSON: {self.redact(str(error))}") from None
            data = None
        if not isinstance(data, dict):
            raise EngineError(
                f"{endpoint.url}: the reply is not of the OpenAI protocol; does the base URL end where the API begins "
                "(usually /v1)?"
            )
        try:
            return read_reply(data)
        except NotChat as error:
            raise _Transient(self.redact(str(error))) from None

    def _spend(self) -> None:
        if self.max_requests is not None and self.sent >= self.max_requests:
            raise BudgetReached(
                f"the budget of {self.max_requests} requests (--max-requests) is used up; what was answered is saved, "
                "and the same command with a larger budget goes on from there"
            )
        self.sent += 1

    def _raise_for(self, reply: HttpReply, endpoint: Endpoint) -> NoReturn:
        """Turns an HTTP error into the exception that says what to do about it."""
        status, fault = reply.status, read_fault(reply.status, reply.content)
        message = self.redact(fault.message)
        if status < 500:
            self.sent -= 1  # refused, so not billed
        if status == 401 or (status == 403 and not endpoint.has_answered):
            raise self._no_access(endpoint, status)
        if status == 402 or fault.code == "insufficient_quota":
            raise EngineError(f"{endpoint.url}: the account can not pay for requests: {message}")
        if status == 404 or (status < 429 and self.lists_model() is False and "model" in message.lower()):
            raise self.unknown_model(message)
        if status in RETRIED or status >= 500:
            raise _Transient(f"HTTP {status}: {message}", _retry_after(reply.headers))
        raise Refused(message, fault.parameter)

    def _no_access(self, endpoint: Endpoint, status: int) -> EngineError:
        """Without the server's own words: they may repeat a part of the key."""
        known = (
            f"the key in {self.api_key_env}" if self._key.get_secret_value() else f"requests without {self.api_key_env}"
        )
        return EngineError(
            f"{endpoint.url} refuses {known} (HTTP {status}); set {self.api_key_env} to a valid key for this endpoint"
        )

    def _read_key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and any((urlsplit(url).hostname or "").endswith("api.openai.com") for url in self.base_urls):
            raise EngineError(
                f"no API key: set the environment variable {self.api_key_env}, or give the --base-url of an endpoint "
                "that needs none"
            )
        if any(not "!" <= char <= "~" for char in key):
            raise EngineError(f"{self.api_key_env}: not an API key: it holds blanks or characters that are not ASCII")
        return key

    async def _probe(self, endpoint: Endpoint) -> None:
        """Learns which models there are. An endpoint that is up but does not list them is fine."""
        import openai

        try:
            models = await endpoint.connection.list_models()
            endpoint.models = {model.id: getattr(model, "max_model_len", None) for model in models}
            endpoint.is_vllm = any(model.owned_by == "vllm" for model in models)
        except openai.APIConnectionError as error:
            reason = self.redact(_message(error))
            raise Unavailable(f"the endpoint {endpoint.url} does not answer: {reason}") from None
        except openai.AuthenticationError as error:
            if "scope" not in _message(error):  # a key that may not list models may still be good for chats
                raise self._no_access(endpoint, error.status_code) from None
        except (openai.APIError, ValueError, TypeError, AttributeError):
            endpoint.models = None


class _Transient(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _message(error: "openai.APIError") -> str:
    """Why the models could not be listed, in one line."""
    cause = error.__cause__
    said = f"{error.message} {cause}" if cause is not None and str(cause) else error.message
    return " ".join(said.split())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the server asks to wait for: Retry-After holds a number or a date."""
    with contextlib.suppress(KeyError, ValueError):
        return float(headers["Retry-After-Ms"]) / 1000
    value = headers.get("Retry-After")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())
    return None


def _wait_seconds(attempt: int, retry_after: float | None) -> float:
    """What the server asks for, else exponential backoff; with jitter, so that requests do not come back together."""
    if retry_after is not None:
        return retry_after * random.uniform(1.0, 1.1)
    return min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)
