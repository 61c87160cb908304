"""Proxies, certificates, headers and timeouts of the connections to an endpoint."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from stub_server import StubServer, chat_reply

from rlaif.engines import endpoints
from rlaif.engines.base import Completion, Request
from rlaif.engines.connection import check_base_url, proxy_of
from rlaif.engines.openai import OpenAIEngine
from rlaif.errors import EngineError
from rlaif.types import Message, Sampling

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    for name in (*PROXIES, *(name.upper() for name in PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


async def ask(url: str, **options: float) -> Completion:
    async with OpenAIEngine("stub", base_urls=[url], **options) as engine:
        message = Message(role="user", content="question")
        return await engine.complete(Request(key="k", messages=(message,), sampling=Sampling()))


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"http_proxy": "http://a:1"}, None),
        ({"https_proxy": "http://a:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "a:1"}, "http://a:1"),
        ({"all_proxy": "http://b:2"}, "http://b:2"),
        ({"https_proxy": "http://a:1", "all_proxy": "http://b:2"}, "http://a:1"),
        ({"https_proxy": "http://a:1", "no_proxy": "models.example"}, None),
        ({"https_proxy": "http://a:1", "no_proxy": ".example"}, None),
        ({"https_proxy": "http://a:1", "no_proxy": "*"}, None),
        ({"https_proxy": "http://a:1", "no_proxy": "example.org"}, "http://a:1"),
    ],
)
def test_the_proxy_of_a_url(environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of("https://models.example/v1") == proxy


def test_a_proxy_of_another_kind_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://me:secret@proxy.example:1080")
    with pytest.raises(EngineError, match=r"socks5://proxy\.example:1080; only http") as caught:
        proxy_of("https://models.example/v1")
    assert "secret" not in str(caught.value)


async def test_requests_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host exists nowhere, so only the proxy can have answered; it gets its own password, and the key."""
    async with StubServer(lambda body, i: chat_reply("by proxy")) as proxy:
        host = proxy.url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("http_proxy", f"http://me:secret@{host}")
        completion = await ask("http://endpoint.invalid/v1")
    assert completion.samples[0].text == "by proxy"
    assert proxy.headers[0]["Host"] == "endpoint.invalid"
    assert proxy.headers[0]["Proxy-Authorization"].startswith("Basic ")
    assert proxy.headers[0]["Authorization"] == "Bearer sk-test"


async def test_a_proxy_that_is_down_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(EngineError, match="does not answer") as caught:
        await ask("http://endpoint.invalid/v1")
    assert "secret" not in str(caught.value)


async def test_a_password_in_netrc_does_not_replace_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with StubServer(lambda body, i: chat_reply("ok")) as server:
        completion = await ask(server.url)
    assert completion.samples[0].text == "ok"
    assert server.headers[0]["Authorization"] == "Bearer sk-test"


async def test_organization_and_project_of_the_environment_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    async with StubServer(lambda body, i: chat_reply("ok")) as server:
        await ask(server.url)
    sent = server.headers[0]
    assert (sent["OpenAI-Organization"], sent["OpenAI-Project"]) == ("org-1", "proj-1")
    assert sent["Content-Type"] == "application/json"
    assert not [name for name in sent if name.lower().startswith("x-stainless")]


async def test_certificates_are_checked_and_ssl_cert_file_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with StubServer(lambda body, i: chat_reply("ok"), tls=context) as server:
        with pytest.raises(EngineError, match=r"does not answer.*(?i:certificate)"):
            await ask(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        completion = await ask(server.url)
    assert completion.samples[0].text == "ok"


async def test_an_answer_that_trickles_in_is_held_to_the_timeout_too() -> None:
    async def trickle(body: object, i: int) -> web.StreamResponse:
        if i:
            return chat_reply("ok")
        response = web.StreamResponse()
        await response.prepare(server.last)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    async with StubServer(trickle) as server:
        completion = await ask(server.url, timeout_seconds=0.4)
    assert completion.samples[0].text == "ok"
    assert len(server.bodies) == 2


async def test_what_took_too_long_says_how_long() -> None:
    async def slow(body: object, i: int) -> web.StreamResponse:
        await asyncio.sleep(5)
        return chat_reply("late")

    async with StubServer(slow) as server:
        completion = await ask(server.url, timeout_seconds=0.2, max_retries=0)
    assert completion.failure == "unavailable"
    assert "no answer within 0.2 s" in completion.detail


async def test_a_lost_connection_is_tried_again() -> None:
    async def hang_up(body: object, i: int) -> web.StreamResponse:
        if i == 0:
            assert server.last.transport is not None
            server.last.transport.abort()
        return chat_reply("ok")

    async with StubServer(hang_up) as server:
        completion = await ask(server.url)
    assert completion.samples[0].text == "ok"
    assert len(server.bodies) == 2


@pytest.mark.parametrize("url", ["http://host/v1?key=secret", "http://host/v1#secret"])
def test_a_base_url_with_more_than_a_path_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(EngineError, match="leave out what follows the path") as caught:
        check_base_url(url, "OPENAI_API_KEY")
    assert "secret" not in str(caught.value)
