"""The prompts of an online run: as token ids, and in which order they are answered."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rlaif.chat import encode_all, render_prompt
from rlaif.errors import DataError, EngineError, TrainError
from rlaif.inputs import read_prompts
from rlaif.models import load_config, load_tokenizer
from rlaif.training.config.online import OnlineConfig
from rlaif.training.rows import Row, Rows, Skipped
from rlaif.types import Prompt


@dataclass
class PromptRows(Rows):
    """Prompts as rows without completions. prompts: by id."""

    prompts: dict[str, Prompt] = field(default_factory=dict)

    def prompt(self, row: Row) -> Prompt:
        return self.prompts[row.id]


def prompt_rows(config: OnlineConfig) -> PromptRows:
    """The prompts of the data, rendered with the chat template and tokenised; what is left out is told why.

    Raises DataError for a file that can not be read, TrainError for `truncation: raise` and a prompt too long.
    """
    tokenizer = load_tokenizer(config.model)
    found = read_prompts(config.data)
    result = PromptRows(prompts={prompt.id: prompt for prompt in found.prompts})
    result.skipped += [Skipped(item["id"], f"repeats a prompt: {item['first']}") for item in found.duplicates]
    texts = {}
    for prompt in found.prompts:
        try:
            texts[prompt.id] = render_prompt(
                tokenizer, prompt.messages, chat_template_kwargs=config.chat_template_kwargs
            )
        except DataError as error:
            result.skipped.append(Skipped(prompt.id, str(error)))
        except EngineError as error:
            raise TrainError(str(error)) from None
    room = _room(config)
    for name, ids in zip(texts, encode_all(tokenizer, list(texts.values())), strict=True):
        if not ids:
            result.skipped.append(Skipped(name, "the prompt has no tokens"))
        elif len(ids) <= room:
            result.rows.append(Row(name, ids, ()))
        elif config.truncation == "truncate-prompt-left":
            result.rows.append(Row(name, ids[-room:], ()))
        elif config.truncation == "raise":
            raise TrainError(
                f"{config.data}: prompt {name}: {len(ids)} tokens, and max_length leaves {room} beside max_tokens "
                f"({config.max_tokens}); raise --max-length, or set truncation to 'drop' or 'truncate-prompt-left'"
            )
        else:
            result.skipped.append(Skipped(name, f"too long: {len(ids)} tokens, and there is room for {room}"))
    return result


def _room(config: OnlineConfig) -> int:
    """Most tokens of a prompt. Raises TrainError if max_tokens leaves none in the model's context."""
    context = None if config.model.endswith(".gguf") else load_config(config.model).get_text_config()
    limit = getattr(context, "max_position_embeddings", None) or config.max_length
    room = min(config.max_length, limit) - config.max_tokens
    if room < 1:
        raise TrainError(
            f"max_tokens: {config.max_tokens} leaves no room for a prompt in the model's context of {limit} tokens; lower it"
        )
    return room


@dataclass(frozen=True)
class PromptStream:
    """Prompts without end: all of them in each epoch, shuffled anew by (seed, epoch).

    indexes: of the prompts that are trained on.
    """

    indexes: tuple[int, ...]
    seed: int

    def weighed(self, weight: Callable[[int], float]) -> "WeighedStream":
        """The same prompts, each drawn as often as it weighs at the time."""
        return WeighedStream(self.indexes, self.seed, weight)

    def at(self, position: int) -> int:
        """The index of the prompt at a position from 0."""
        epoch, place = divmod(position, len(self.indexes))
        return self.indexes[_order(self.seed, epoch, len(self.indexes))[place]]

    def take(self, start: int, count: int) -> list[tuple[int, int]]:
        """(position, index) of `count` prompts from a position on."""
        return [(position, self.at(position)) for position in range(start, start + count)]


@dataclass(frozen=True)
class WeighedStream(PromptStream):
    """Prompts drawn by their weights, each at most once until all were (Efraimidis and Spirakis 2006): a function of (seed,
    position, the weights at the time). weight: of a prompt by its index, above 0."""

    weight: Callable[[int], float]

    def take(self, start: int, count: int) -> list[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        drawn: list[int] = []
        while len(drawn) < count:
            uniform = torch.rand(len(self.indexes), generator=generator, dtype=torch.float64)
            keys = [
                number ** (1 / self.weight(index)) for number, index in zip(uniform.tolist(), self.indexes, strict=True)
            ]
            order = sorted(range(len(keys)), key=lambda place: -keys[place])
            drawn += [self.indexes[place] for place in order]
        return list(zip(range(start, start + count), drawn[:count], strict=True))


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Sequence[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order
