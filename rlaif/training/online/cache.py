"""Keys and values of prompts, each once, and of what each row adds to its prompt."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SharedLayer(CacheLayerMixin):
    """One layer's keys and values: of prompts, (P, heads, L, D), which the first call gives, and of what the rows add,
    (R, heads, room, D), of which the first `length` places are filled.

    transformers' caches hold the prompt once for each row, so that a step reads, and a dropped row copies, all of that. And its
    static layers hand out all places, so that attention goes over what is not there yet; its dynamic ones copy everything for
    each token.
    """

    is_sliding = False

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0
        self.prompts: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_empty(*states.shape[:2], self.room, states.shape[-1]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Takes in the prompts' keys and values, and gives them back; later those of new tokens, (R, heads, new, D), and gives
        back views of all that the rows added."""
        if self.prompts is None:
            self.prompts = key_states, value_states
            return self.prompts
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def keep(self, rows: Tensor, prompts: Tensor) -> None:
        """Drops all but these rows, and all but these prompts."""
        assert self.prompts is not None
        for name in ("keys", "values") if self.is_initialized else ():
            old = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows.to(old.device))
            setattr(self, name, new)
        keys, values = self.prompts
        if len(prompts) < len(keys):
            prompts = prompts.to(keys.device)
            self.prompts = keys.index_select(0, prompts), values.index_select(0, prompts)

    @property
    def filled(self) -> int:
        """Places of a row, its prompt's among them."""
        return self.length + (self.prompts[0].shape[-2] if self.prompts is not None else 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return -1


def shared_cache(layers: int, room: int) -> Cache:
    """A cache for a model of so many attention layers. room: most tokens that a row adds to its prompt."""
    return Cache(layers=[SharedLayer(room) for _ in range(layers)])
