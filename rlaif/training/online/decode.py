"""Sampling with the model that is trained: each prompt is read, and kept, once; rows that stopped are dropped.

Every response draws from a random stream of its own, so that it depends on (weights, prompt, seed) and not on what else is in
the batch, up to rounding.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from rlaif.engines.batching import padded
from rlaif.errors import TrainError
from rlaif.training.flex_attention import is_soft_capped
from rlaif.training.masks import AttentionPlan, attention_plan
from rlaif.training.online.cache import shared_cache
from rlaif.training.online.samples import Sampled, SampleRequest
from rlaif.training.online.shared_attention import Prompts, sharing, takes_shared_prompts

LEAST_DROPPED = 0.25
"""The share of rows that must have stopped before they are dropped: to drop them copies the others."""
BLOCK = 256
"""Tokens whose probabilities are summed first, so that only one block of a row has to be searched token by token."""


class Decoder:
    """Samples responses of a patched model as it is, with its adapter, in evaluation mode."""

    def __init__(
        self,
        model: Any,
        stops: Collection[int],
        *,
        temperature: float,
        max_tokens: int,
        most_rows: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """stops: tokens that end a response. temperature: 0 takes the likeliest token. most_rows: responses at a time.
        context: in which the model computes, as autocast."""
        self.model, self.stops = model, sorted(stops)
        self.temperature, self.max_tokens, self.most_rows = temperature, max_tokens, most_rows
        self.context = context
        self.plan = attention_plan(model.config)
        self.shares = takes_shared_prompts(model, self.plan)

    def batches(self, requests: Sequence[SampleRequest]) -> list[list[SampleRequest]]:
        """The requests in batches of at most `most_rows` responses, alike in length: the same for equal requests. A prompt with
        more responses goes alone.

        Of a model that keeps other things than keys and values, or attends in a way of its own, prompts of a batch have one
        length: padding would get into what it keeps.
        """
        ordered = sorted(requests, key=lambda request: (-len(request.prompt), request.key))
        made: list[list[SampleRequest]] = []
        for request in ordered:
            last = made[-1] if made else []
            rows = sum(len(other.seeds) for other in last) + len(request.seeds)
            alike = self.shares or (last and len(last[0].prompt) == len(request.prompt))
            if last and rows <= self.most_rows and alike:
                last.append(request)
            else:
                made.append([request])
        return made

    def sample(self, batch: Sequence[SampleRequest]) -> list[list[Sampled]]:
        """The responses to each prompt. Needs no gradients and leaves the model in the mode it was in."""
        with evaluating(self.model), as_written(self.model), torch.no_grad(), self.context(), ExitStack() as stack:
            rows = self._rows(batch, stack)
        found = iter(rows)
        return [[next(found) for _ in request.seeds] for request in batch]

    def read(self, batch: Sequence[SampleRequest], stack: ExitStack) -> "State":
        """What is kept of the prompts. stack: takes what must hold until the last token."""
        state = self.read_prompts(batch)
        if self.shares:
            stack.enter_context(sharing(self.model))
        return state

    def read_prompts(self, batch: Sequence[SampleRequest]) -> "State":
        """What the model keeps of the prompts; its steps are to be taken within `sharing`, if it shares."""
        return _Shared(self.model, batch, self.plan, self.max_tokens) if self.shares else _Plain(self.model, batch)

    def _rows(self, batch: Sequence[SampleRequest], stack: ExitStack) -> list[Sampled]:
        state = self.read(batch, stack)
        streams = [np.random.default_rng(seed) for request in batch for seed in request.seeds]
        ids: list[list[int]] = [[] for _ in streams]
        logps: list[list[float]] = [[] for _ in streams]
        active = list(range(len(streams)))  # the response of each row that is computed, stopped ones among them
        stopped = [False] * len(streams)
        logits = state.first_logits
        stops = torch.tensor(self.stops, dtype=torch.long, device=logits.device)
        for place in range(self.max_tokens):
            tokens, chosen = self._draw(logits, [streams[row] for row in active])
            ends = torch.isin(tokens, stops).tolist()
            for row, token, logp, end in zip(active, tokens.tolist(), chosen.tolist(), ends, strict=True):
                if not stopped[row]:
                    ids[row].append(token)
                    logps[row].append(logp)
                    stopped[row] = end
            going = [number for number, row in enumerate(active) if not stopped[row]]
            if not going or place == self.max_tokens - 1:
                break
            if len(going) <= (1 - LEAST_DROPPED) * len(active):
                state.keep(going)
                active = [active[number] for number in going]
                tokens = tokens[going]
            logits = state.step(tokens)
        return [Sampled(tuple(a), tuple(b), end) for a, b, end in zip(ids, logps, stopped, strict=True)]

    def _draw(self, logits: Tensor, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """A token for each row, (rows,), from logits (rows, V), and its log-prob in at least float32."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature == 0:
            tokens = logits.argmax(-1)
            return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        uniforms = torch.tensor([stream.random() for stream in streams], dtype=torch.float64).to(logits.device)
        return inverse_transform(logits if self.temperature == 1 else logits / self.temperature, uniforms)


class MixtureDecoder(Decoder):
    """Samples from a geometric mixture of two models: at each token, p(own)^(1 - share) p(other)^share, normalised (the
    opponent of Nash-MD, arXiv 2312.00886)."""

    def __init__(self, own: Decoder, other: Decoder, *, share: float) -> None:
        """other: its context is entered for each of its tokens, within that of `own`. share: of the other, in [0, 1]."""
        super().__init__(
            own.model, own.stops, temperature=own.temperature, max_tokens=own.max_tokens, most_rows=own.most_rows,
            context=own.context,
        )  # fmt: skip
        self.other, self.share = other, share

    def read(self, batch: Sequence[SampleRequest], stack: ExitStack) -> "State":
        stack.enter_context(evaluating(self.other.model))
        with self.other.context():
            other = self.other.read_prompts(batch)
        own = super().read(batch, stack)
        if self.other.shares and self.other.model is not self.model:
            stack.enter_context(sharing(self.other.model))
        return _Mixture(own, other, self.share, self.other.context)


def inverse_transform(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The token whose share of [0, 1) each uniform number falls in, (rows,), and its log-prob. logits: (rows, V); uniforms: in
    float64.

    Sums over more than a block are in float64, so that no share is lost to rounding; a token of probability 0 is never drawn.
    """
    rows, vocabulary = logits.shape
    top = logits.amax(-1, keepdim=True)
    weights = logits.new_zeros(rows, -(-vocabulary // BLOCK), BLOCK)
    torch.sub(logits, top, out=weights.flatten(1)[:, :vocabulary]).exp_()
    sums = weights.sum(-1).double()
    total = sums.sum(-1, keepdim=True)
    block, before = _search(sums, uniforms[:, None] * total)
    inside = weights.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    place, _ = _search(inside, uniforms[:, None] * total - before)
    tokens = block * BLOCK + place
    logps = (logits.gather(1, tokens) - top).double() - total.log()
    return tokens[:, 0], logps[:, 0].to(logits.dtype)


def _search(shares: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """In which share of each row a target falls, (rows, 1), and the sum of those before. Never in an empty one, and in the last
    other where the target is, by rounding, not below the sum of all."""
    ends = shares.cumsum(-1)
    total = ends[:, -1:]
    inside = targets.clamp(min=0).minimum(total.nextafter(torch.zeros_like(total)))
    found = torch.searchsorted(ends, inside, right=True)
    return found, ends.gather(1, found) - shares.gather(1, found)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within it the model is in evaluation mode; each of its modules is in its former one afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def as_written(model: Any) -> Iterator[None]:
    """Within it compiled layers are not: what is kept grows with each token, and each length would be compiled."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@contextmanager
def with_cap(model: Any) -> Iterator[None]:
    """Within it a model that caps its scores reads ordinary masks with the cap on: by eager attention, since what flex
    attention falls back to for those has none."""
    before = model.config._attn_implementation
    if not is_soft_capped(model.config) or before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class State(Protocol):
    """What is kept of the rows of a batch. first_logits: (rows, V), of the first token of each."""

    first_logits: Tensor

    def step(self, tokens: Tensor) -> Tensor:
        """The logits after one more token of each row, (rows, V)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows."""


class _Mixture:
    """What two models keep of the same rows."""

    def __init__(
        self, own: State, other: State, share: float, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self.own, self.other, self.share, self.context = own, other, share, context
        self.first_logits = self._mixed(own.first_logits, other.first_logits)

    def step(self, tokens: Tensor) -> Tensor:
        own = self.own.step(tokens)
        with self.context():
            other = self.other.step(tokens)
        return self._mixed(own, other)

    def keep(self, rows: Sequence[int]) -> None:
        self.own.keep(rows)
        self.other.keep(rows)

    def _mixed(self, own: Tensor, other: Tensor) -> Tensor:
        return own * (1 - self.share) + other * self.share


class _Shared:
    """What an attention model keeps of its rows: the keys and values of each prompt, and of what each row adds.

    Prompts are padded on the left, so that the distance of two tokens is that of their places.
    """

    def __init__(self, model: Any, batch: Sequence[SampleRequest], plan: AttentionPlan, room: int) -> None:
        self.model, self.plan = model, plan
        self.additive = plan.additive or is_soft_capped(model.config)
        device = next(model.parameters()).device
        inputs = padded([request.prompt for request in batch], 0, "left", device)
        mask = inputs["attention_mask"].bool()
        self.cache = shared_cache(model.config.get_text_config().num_hidden_layers, room)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with with_cap(model):
            logits = self._forward(inputs["input_ids"], positions, self._prompt_masks(mask))
        self.owners = [number for number, request in enumerate(batch) for _ in request.seeds]
        rows = torch.tensor(self.owners, device=device)
        self.seen, self.position = mask[rows], positions[rows, -1:]  # (rows, places), (rows, 1)
        self.prompts = Prompts.of(self.cache, self.owners, device)
        self.first_logits = logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """The logits after one more token of each row, (rows, V)."""
        self.seen = torch.cat([self.seen, torch.ones_like(self.seen[:, :1])], 1)
        self.position = self.position + 1
        return self._forward(tokens[:, None], self.position, self._step_masks())

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows, and prompts that have none left."""
        index = torch.tensor(rows, device=self.seen.device)
        owners = [self.owners[row] for row in rows]
        left = sorted(set(owners))
        for layer in self.cache.layers:
            layer.keep(index, torch.tensor(left, device=self.seen.device))
        self.owners = [left.index(owner) for owner in owners]
        self.seen, self.position = self.seen[index], self.position[index]
        self.prompts = Prompts.of(self.cache, self.owners, self.seen.device)

    def _forward(self, ids: Tensor, positions: Tensor, masks: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.model(
            input_ids=ids, position_ids=positions, attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        return logits[:, -1]

    def _step_masks(self) -> dict[str, Tensor]:
        """Which places the last one sees, (rows, 1, 1, places), by kind of layer."""
        seen = self.seen[:, None, None]
        order = torch.arange(seen.shape[-1], device=seen.device)
        near = order >= seen.shape[-1] - (self.plan.window or seen.shape[-1])
        return {
            kind: self.prompts.mark(seen.clone() if kind == "full_attention" else seen & near)
            for kind in self.plan.layers
        }

    def _prompt_masks(self, mask: Tensor) -> dict[str, Tensor]:
        """Which places each place of the prompts sees, (P, 1, L, L), by kind of layer. mask: which hold a token, (P, L)."""
        order = torch.arange(mask.shape[1], device=mask.device)
        distance = order[:, None] - order
        seen = (mask[:, None, None] & (distance >= 0)) | (
            distance == 0
        )  # padding sees itself: a row of nothing is no number
        near = distance < (self.plan.window or mask.shape[1])
        dtype = next(self.model.parameters()).dtype
        return {
            kind: self._as_taken(seen if kind == "full_attention" else seen & near, dtype) for kind in self.plan.layers
        }

    def _as_taken(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """As numbers to add to the scores where the attention takes those, or takes them faster."""
        if not self.additive and mask.device.type != "cpu":
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


class _Plain:
    """What any other model keeps, by the library's own cache; prompts have one length, and each is read once."""

    def __init__(self, model: Any, batch: Sequence[SampleRequest]) -> None:
        self.model = model
        device = next(model.parameters()).device
        output = model(
            input_ids=torch.tensor([request.prompt for request in batch], device=device),
            use_cache=True,
            logits_to_keep=1,
        )
        self._kept = _kept(model, output)
        rows = [number for number, request in enumerate(batch) for _ in request.seeds]
        self.keep(rows)
        self.first_logits = output.logits[rows, -1]

    def step(self, tokens: Tensor) -> Tensor:
        output = self.model(input_ids=tokens[:, None], use_cache=True, logits_to_keep=1, **self._kept)
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        (cache,) = self._kept.values()
        cache.reorder_cache(torch.tensor(rows, device=next(self.model.parameters()).device))


def _kept(model: Any, output: Any) -> dict[str, Cache]:
    """The library's cache under the name by which the model takes it. Raises TrainError if the model has another."""
    for name in ("past_key_values", "cache_params"):
        if isinstance(getattr(output, name, None), Cache):
            return {name: getattr(output, name)}
    raise TrainError(
        f"the policy is a {model.config.model_type}, which does not keep what it read in transformers' cache, so responses can "
        "not be sampled here; take another model, or a server (see `sampler`)"
    )
