"""vLLM given all weights of the policy after each step, by its weight-update interface: a server, or vLLM in the run itself.

The weights lie in a folder that vLLM reads into the model it has. vLLM then names them by a version, and says of every token by
which version it was sampled, so what a server says that was started anew meanwhile, or given other weights, is not taken for
the policy's.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.errors import EngineError, RlaifError
from rlaif.progress import say
from rlaif.training.online.samples import Sampled
from rlaif.training.online.vllm_calls import (
    BUSY,
    FAILED,
    FIRST_PAUSE_SECONDS,
    SAMPLING,
    VllmServer,
    as_sampled,
    text_of,
)
from rlaif.training.online.vllm_here import VllmHere

HOW_TO_START = (
    "start it with --enable-scale-out and the environment variable VLLM_SERVER_DEV_MODE=1 (vLLM 0.32 or newer)"
)
LAST_WORD_MINUTES = 0.2
"""How long the server is asked to read its own weights again as a run ends."""
WORKER = "rlaif.training.online.vllm_worker.TakesPolicy"


class WeightsServer(VllmServer):
    """A server whose model is replaced by the policy, and put back as the run ends."""

    must = (
        "It must serve a model of the shape that is trained, in the same number format (--dtype). On a CPU the model must have "
        "a head of its own: where head and embeddings are one, vLLM's server goes on with the head it started with; "
        "rollouts.engine: vllm does not."
    )

    def __init__(self, *given: Any, **more: Any) -> None:
        """As VllmServer."""
        super().__init__(*given, **more)
        self._loading = asyncio.Lock()
        self._served: tuple[str, str] | None = None
        """The name of its model, and where that was loaded from."""
        self._is_replaced = False

    async def loaded(self) -> list[str]:
        """Nothing: what an earlier start of the run left is written over."""
        return []

    async def load(self, name: str, folder: Path) -> None:
        """Has it read the weights in `folder`, which are version `name`; done already is well."""
        async with self._loading:
            if await self._version() != name:
                self._is_replaced = True
                await self._read(str(folder.resolve()), name)

    async def unload(self, name: str) -> None:
        """Nothing is left of weights that were written over."""

    async def forget(self, name: str) -> bool:
        """Has it read its own weights again if it has others; whether it has them. For a run that ends."""
        if not self._is_replaced:
            return True
        self._patience_minutes = min(self._patience_minutes, LAST_WORD_MINUTES)
        try:
            _, own = await self._model()
            await self._read(own, "default")
            self._is_replaced = False
        except RlaifError as error:
            say(
                f"{self.shown} still has weights of this run ({error}); start it anew before you use it for anything else"
            )
            return False
        return True

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt; None if they are not by the version that is asked."""
        served, _ = await self._model()
        sampling = {key: body[key] for key in SAMPLING} | {"detokenize": False}
        asked = {"model": served, "token_ids": body["prompt"], "sampling_params": sampling}
        reply = await self._send("inference/v1/generate", asked, FAILED)
        if reply.status == 404 or "scale-out" in text_of(reply):
            raise EngineError(f"{self.shown} does not answer by tokens (HTTP {reply.status}); {HOW_TO_START}")
        try:
            choices = sorted(self._answer(reply, "to answer")["choices"], key=lambda choice: int(choice["index"]))
            versions = {span["version"] for choice in choices for span in choice["weight_versions"] or ()}
            found = [_read_choice(choice) for choice in choices]
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable(reply, "an answer") from error
        self._check_count(found, body)
        if not versions:
            raise EngineError(f"{self.shown} does not say which weights an answer is of; {HOW_TO_START}")
        return found if versions == {body["model"]} else None

    async def _model(self) -> tuple[str, str]:
        """The name of its model, and where that was loaded from."""
        if self._served is None:
            models = [model for model in await self._models() if not model.get("parent")]
            if not models:
                raise EngineError(f"{self.shown} serves no model")
            self._served = str(models[0]["id"]), str(models[0].get("root") or models[0]["id"])
        return self._served

    async def _version(self) -> str:
        """The name of the weights it has."""
        reply = await self._send("weight_info", None, FAILED)
        if reply.status in (404, 405):
            raise EngineError(f"{self.shown} takes no weights while it runs; {HOW_TO_START}")
        return str(self._answer(reply, "to name its weights").get("weight_version"))

    async def _read(self, weights: str, name: str) -> None:
        """Has it read weights, a folder or a name on the hub, forget what it computed with others, and name them."""
        call = {"method": "reload_weights", "kwargs": {"weights_path": weights}}
        reply = await self._send("collective_rpc", call, BUSY)
        if reply.status != 200:
            raise EngineError(
                f"{self.shown} does not take the weights in {weights} (HTTP {reply.status}: {text_of(reply).rstrip('.')}; its "
                f"log says more). It must see this folder and serve the model that is trained; {HOW_TO_START}"
            )
        started = time.monotonic()
        while not self._answer(await self._send("reset_prefix_cache", {}, BUSY), "to empty its cache").get("success"):
            if time.monotonic() - started > 60 * self._patience_minutes:
                raise EngineError(
                    f"{self.shown} can not empty its prefix cache of what it computed with other weights: it answers somebody "
                    "else's requests all the time; a server whose weights are replaced is for one run"
                )
            await asyncio.sleep(FIRST_PAUSE_SECONDS)
        self._answer(await self._send("update_weight_version", {"new_version": name}, BUSY), "to name its weights")


class WeightsHere(VllmHere):
    """It is given all weights of the policy after each step."""

    def __init__(self, model: str, **more: Any) -> None:
        """As VllmHere."""
        super().__init__(model, form={"worker_extension_cls": WORKER}, **more)
        self._name = ""

    async def loaded(self) -> list[str]:
        return [self._name] if self._name else []

    async def load(self, name: str, folder: Path) -> None:
        """Reads the weights in `folder`, which are version `name`."""
        await self.wake()
        with self._telling(f"take the weights in {folder}"):
            await self._llm.collective_rpc("take_policy", args=(str(folder.resolve()),))
            if not await self._llm.reset_prefix_cache():
                raise EngineError("its prefix cache is in use")
            await self._llm.update_weight_version(name)
        self._name = name

    async def unload(self, name: str) -> None:
        """Nothing is left of weights that were written over."""

    async def forget(self, name: str) -> bool:
        return True

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt; None if they are not by the version that is asked."""
        found, versions = await self._responses(body)
        return found if versions == {body["model"]} else None


def _read_choice(choice: Mapping[str, Any]) -> Sampled:
    """One response that a server gave by its tokens. Raises KeyError, TypeError or ValueError for what is none."""
    ids, content = choice["token_ids"], choice["logprobs"]["content"]
    if not ids or len(ids) != len(content):
        raise ValueError(f"{len(ids or ())} tokens with {len(content)} log-probs")
    return as_sampled(ids, [token["logprob"] for token in content], choice["finish_reason"])
