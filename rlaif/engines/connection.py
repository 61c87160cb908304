"""The HTTP connections to one endpoint: its proxy, certificates, headers and timeouts.

The openai client lists the models and knows which headers the environment asks for. Chats are sent by aiohttp itself: of
an answer the client would make about 1 ms of work, more than all the rest of a judgment.
"""

import json
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlaif.errors import EngineError

if TYPE_CHECKING:
    from openai.types import Model

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which common servers close a connection that is not used."""


class NoAnswer(Exception):
    """The endpoint could not be reached, hung up, or took too long."""


@dataclass(frozen=True)
class HttpReply:
    status: int
    headers: Mapping[str, str]
    content: bytes


class Connection:
    """To one base URL. Opened within a running event loop."""

    def __init__(self, url: str, key: str, timeout_seconds: float) -> None:
        import aiohttp
        import openai

        proxy, context = proxy_of(url), _certificates()
        connect_seconds = min(CONNECT_SECONDS, timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._url = url.rstrip("/")
        self._proxy = proxy
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=url,
            max_retries=0,
            timeout=openai.Timeout(min(PROBE_SECONDS, timeout_seconds), connect=connect_seconds),
            http_client=openai.DefaultAioHttpClient(verify=context, proxy=proxy, trust_env=False),
        )
        self._session = aiohttp.ClientSession(
            headers=_headers(self._client.default_headers, key),
            connector=aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, connect=connect_seconds),
        )

    async def list_models(self) -> "list[Model]":
        """What the endpoint lists. Raises openai's errors."""
        return (await self._client.models.list()).data

    async def chat(self, body: Mapping[str, Any]) -> HttpReply:
        """Sends one request for a chat completion. Raises NoAnswer; an HTTP error is a reply."""
        return await self.post("chat/completions", body)

    async def get(self, path: str) -> HttpReply:
        """Asks for a path below the base URL. Raises NoAnswer; an HTTP error is a reply."""
        return await self._request("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> HttpReply:
        """Sends a JSON body to a path below the base URL. Raises NoAnswer; an HTTP error is a reply."""
        return await self._request("POST", path, json.dumps(body).encode())

    async def _request(self, method: str, path: str, data: bytes | None) -> HttpReply:
        import aiohttp

        try:
            async with self._session.request(method, f"{self._url}/{path}", data=data, proxy=self._proxy) as response:
                return HttpReply(response.status, response.headers, await response.read())
        except aiohttp.ConnectionTimeoutError as error:
            raise NoAnswer(str(error)) from None
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from None

    async def close(self) -> None:
        await self._session.close()
        await self._client.close()


def check_base_url(url: str, api_key_env: str) -> None:
    """Raises EngineError for a base URL that can not be one, without repeating a secret in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise EngineError(f"base URL '{shown_url(url)}' must begin with http:// or https://")
    if "@" in parts.netloc:
        raise EngineError(f"base URL '{shown_url(url)}': leave out user and password, the key is in {api_key_env}")
    if parts.query or parts.fragment:
        raise EngineError(f"base URL '{shown_url(url)}': leave out what follows the path (? or #); it is not sent on")


def shown_url(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else url


def proxy_of(url: str) -> str | None:
    """The proxy that the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) has for a URL.

    Looked up once: aiohttp would do it anew, in a thread, for every request, and take a password from ~/.netrc besides.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise EngineError(
            f"the proxy for {shown_url(url)} is {shown_url(proxy)}; only http:// and https:// proxies can be used: "
            "set another, or add the host to NO_PROXY"
        )
    return proxy


def _certificates() -> ssl.SSLContext:
    """SSL_CERT_FILE and SSL_CERT_DIR where they are set, else the system's and certifi's, since some systems have none."""
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _headers(defaults: Mapping[str, object], key: str) -> dict[str, str]:
    """The openai client's headers (with OPENAI_ORG_ID, OPENAI_PROJECT_ID) without its statistics, and the key."""
    headers = {
        name: value
        for name, value in defaults.items()
        if isinstance(value, str) and not name.lower().startswith("x-stainless") and name.lower() != "authorization"
    }
    return {"Authorization": f"Bearer {key or 'none'}", **headers}
