"""The policy as a judge of its own responses, with its weights as they are (Yuan et al. 2024, arXiv 2401.10020)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rlaif.chat import stop_token_ids
from rlaif.engines.transformers import Answer, Row, TransformersEngine
from rlaif.training.config.rewards import POLICY
from rlaif.training.logps import unpatched
from rlaif.training.online.decode import as_written, evaluating


class PolicyEngine(TransformersEngine):
    """The model in training behind the seam of engines: no second copy of it, and never used by two threads at a time."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        start: str,
        turn: AbstractContextManager[Any],
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """start: the model that the policy started from. turn: is held while it computes, here and in whatever else uses it.
        context: in which it computes, as autocast."""
        # On the CPU one at a time: rounding hangs on what is in a batch, and that on when judgments come to be asked.
        on_cpu = next(model.parameters()).device.type == "cpu"
        super().__init__(POLICY, batch_size=1 if on_cpu else 32)
        self.start = start
        self._lm, self._tokenizer = model, tokenizer
        self._stops = stop_token_ids(tokenizer, model.generation_config)
        self._turn, self._computing = turn, context

    async def open(self) -> None:
        """Nothing: the model is there."""

    async def close(self) -> None:
        """Nothing: it goes on being trained."""

    def _answer(self, batch: list[Row]) -> list[Answer]:
        with self._turn, unpatched(self._lm), evaluating(self._lm), as_written(self._lm), self._computing():
            return super()._answer(batch)
