"""A stand-in for vLLM's server: it speaks its protocol, answers with the tiny model and the adapters or weights it is told to
load, and misbehaves on purpose. The real one is in tests/engines/test_vllm_rollouts.py."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from aiohttp import web

from rlaif.models import load_model

Body = dict[str, Any]


def fault(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "Error", "code": status}}, status=status)


class TinyVllm:
    """Serves in a thread of its own. Log-probs are of temperature 1, as vLLM's, unless `processed`."""

    def __init__(self, model_folder: Path, *, port: int = 0, loads: bool = True, processed: bool = False) -> None:
        self.base, self.port, self.loads, self.processed = str(model_folder), port, loads, processed
        self.served: dict[str, Any] = {}
        self.events: list[str] = []
        """load NAME, unload NAME, and sample NAME, as they came; of weights: read FOLDER, name VERSION, sample VERSION."""
        self.most = 0
        """Adapters that were loaded at a time."""
        self.statuses: list[int] = []
        """Of the next completions: an HTTP status that they fail with."""
        self.refusal: Callable[[str], tuple[int, str] | None] = lambda name: None
        """Status and message by which the adapter of a name is not loaded."""
        self.spoil: Callable[[Body], Any] = lambda choice: None
        """Changes each choice of an answer in place."""
        self.served_as: Callable[[str], str] = lambda name: name
        """The adapter that answers for a name."""
        self.version, self.weights = "default", load_model(self.base, "float32", "cpu")
        """The weights it has, and their name."""
        self.by_tokens = True
        """Whether it was started with --enable-scale-out."""
        self.busy = 0
        """How often it can not empty its cache."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/completions", self._complete)
        if self.loads:
            app.router.add_get("/weight_info", self._weight_info)
            app.router.add_post("/collective_rpc", self._read)
            app.router.add_post("/reset_prefix_cache", self._empty)
            app.router.add_post("/update_weight_version", self._name)
            app.router.add_post("/inference/v1/generate", self._generate)
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {"id": "policy", "root": self.base, "parent": None},
                    *({"id": name, "parent": "policy"} for name in self.served),
                ],
            }
        )

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["lora_name"]
        if name in self.served:
            return fault(400, f"The lora adapter '{name}' has already been loaded. If you want to ...")
        if (refused := self.refusal(name)) is not None:
            return fault(*refused)
        if not Path(body["lora_path"]).is_dir():
            return fault(404, f"Loading lora {name} failed: No adapter found for {body['lora_path']}")
        self.events.append(f"load {name}")
        self.served[name] = load_model(body["lora_path"], "float32", "cpu")
        self.most = max(self.most, len(self.served))
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.served:
            return fault(404, f"The lora adapter '{name}' cannot be found.")
        self.events.append(f"unload {name}")
        del self.served[name]
        return web.Response(text="Success")

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.statuses:
            return fault(self.statuses.pop(0), "on purpose")
        if body["model"] not in self.served:
            return fault(404, f"The model `{body['model']}` does not exist. Valid aliases: policy.")
        self.events.append(f"sample {body['model']}")
        model = self.served[self.served_as(body["model"])]
        choices = [self._choice(model, body, index) for index in range(body["n"])]
        for choice in choices:
            self.spoil(choice)
        return web.json_response({"choices": choices})

    async def _weight_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.version})

    async def _read(self, request: web.Request) -> web.Response:
        body = await request.json()
        folder = body["kwargs"]["weights_path"]
        if body["method"] != "reload_weights" or not Path(folder).is_dir():
            return web.Response(status=500, text="Internal Server Error")
        self.events.append(f"read {folder}")
        self.weights = load_model(folder, "float32", "cpu")
        return web.json_response({"results": [None]})

    async def _empty(self, request: web.Request) -> web.Response:
        self.busy -= 1
        return web.json_response({"success": self.busy < 0})

    async def _name(self, request: web.Request) -> web.Response:
        self.version = (await request.json())["new_version"]
        self.events.append(f"name {self.version}")
        return web.json_response({"success": True})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.statuses:
            return fault(self.statuses.pop(0), "on purpose")
        if not self.by_tokens:
            return fault(
                403, "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
            )
        if body["model"] != "policy":
            return fault(404, f"The model `{body['model']}` does not exist.")
        self.events.append(f"sample {self.version}")
        asked = {**body["sampling_params"], "prompt": body["token_ids"]}
        choices = []
        for index in range(asked["n"]):
            choice = self._choice(self.weights, asked, index)
            content = zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
            choice["logprobs"] = {"content": [{"token_id": token, "logprob": logp} for token, logp in content]}
            choice["weight_versions"] = [{"version": self.version, "start": 0, "end": len(choice["token_ids"])}]
            self.spoil(choice)
            choices.append(choice)
        return web.json_response({"choices": choices})

    @torch.no_grad()
    def _choice(self, model: Any, body: Body, index: int) -> Body:
        generator = torch.Generator().manual_seed(body["seed"] + index)
        ids, logps, reason = list(body["prompt"]), [], "length"
        for _ in range(body["max_tokens"]):
            logits = model(torch.tensor([ids])).logits[0, -1].float()
            drawn = int((logits / body["temperature"]).softmax(-1).multinomial(1, generator=generator))
            said = logits / body["temperature"] if self.processed else logits
            logps.append(float(said.log_softmax(-1)[drawn]))
            ids.append(drawn)
            if drawn in body["stop_token_ids"]:
                reason = "stop"
                break
        return {
            "index": index, "text": "", "token_ids": ids[len(body["prompt"]) :], "finish_reason": reason,
            "logprobs": {"token_logprobs": logps},
        }  # fmt: skip
