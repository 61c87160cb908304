"""Whole commands against a paid endpoint that misbehaves: the key stays secret, the budget holds, nothing is paid twice."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import forked
from aiohttp import web
from stub_server import Body, StubServer, chat_reply, fault

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
KEY = "sk-very-secret-0123456789abcdef"


async def rlaif(folder: Path, *arguments: str) -> tuple[int, str]:
    """Runs a command with the key in its environment; gives back its exit status and all it printed."""
    done = await asyncio.to_thread(forked.run, "-m", "rlaif", *arguments, cwd=folder, env={"MY_KEY": KEY})
    return done.returncode, done.stdout + done.stderr


def answer(body: Body, before: int) -> web.StreamResponse:
    if before == 0:
        return fault(500, f"overloaded, your key is {KEY}")
    text = body["messages"][-1]["content"]
    if "# Answer A" in text:
        return chat_reply("A", tops=[("A", -0.1), ("B", -2.4)])
    return chat_reply(*[f"{text} {before} {i}" for i in range(body.get("n") or 1)])


async def test_a_whole_run_never_shows_the_key_and_a_second_one_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    async with StubServer(answer) as server:
        endpoint = ["-m", "stub", "--base-url", server.url, "--api-key-env", "MY_KEY"]
        generate = ["generate", "prompts.txt", *endpoint, "-n", "2", "-o", "r.jsonl"]
        judge = ["judge", "r.jsonl", "-j", "helpful", *endpoint, "-o", "v.jsonl", "--pairs", "p.jsonl"]
        told = [await rlaif(tmp_path, *generate), await rlaif(tmp_path, *judge)]
        assert [status for status, _ in told] == [0, 0], told
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        paid = len(server.bodies)
        told += [await rlaif(tmp_path, *generate), await rlaif(tmp_path, *judge)]
        assert len(server.bodies) == paid
        server.answer = lambda body, before: fault(401, f"Incorrect API key provided: {KEY}")
        told.append(await rlaif(tmp_path, *generate[:-1], "other.jsonl"))
        assert told[-1][0] == 2
        assert "MY_KEY" in told[-1][1]
    assert not [text for _, text in told if KEY in text]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"r.jsonl", "v.jsonl", "p.jsonl", "judgments.jsonl"} <= {path.name for path in written}
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


async def test_ctrl_c_keeps_the_work_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(4)))
    slow = asyncio.Event()

    async def answer_two(body: Body, before: int) -> web.StreamResponse:
        if before >= 2:
            slow.set()
            await asyncio.sleep(60)
        return chat_reply(f"answer {before}")

    async with StubServer(answer_two) as server:
        command = ["generate", "prompts.txt", "-m", "stub", "--base-url", server.url, "-o", "r.jsonl"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rlaif", *command, cwd=tmp_path, env=ENVIRONMENT, stderr=asyncio.subprocess.PIPE
        )
        await slow.wait()
        while not (tmp_path / "r.jsonl").exists() or len((tmp_path / "r.jsonl").read_text().splitlines()) < 2:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = await process.communicate()
        assert process.returncode == 130
        assert "the same command continues" in told.decode()
        assert "Traceback" not in told.decode()
        server.answer = lambda body, before: chat_reply("later")
        before = len(server.bodies)
        status, _ = await rlaif(tmp_path, *command)
        assert (status, len(server.bodies) - before) == (0, 2)


async def test_the_budget_stops_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(8)))
    async with StubServer(lambda body, before: chat_reply(f"answer {before}")) as server:
        command = ["generate", "prompts.txt", "-m", "stub", "--base-url", server.url, "-o", "r.jsonl"]
        status, told = await rlaif(tmp_path, *command, "--max-requests", "3")
        assert (status, len(server.bodies)) == (2, 3), told
        assert "3 requests" in told
        assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
        status, _ = await rlaif(tmp_path, *command)
        assert (status, len(server.bodies)) == (0, 8)
