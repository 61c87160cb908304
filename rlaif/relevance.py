"""Does an answer belong to its prompt? Its log-probability there, against another prompt, under a reference model."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from rlaif.chat import encode, render_completion, render_prompt
from rlaif.types import Message, Messages

BATCH_TOKENS = 4096
T = TypeVar("T")


def relevance(model: Any, tokenizer: Any, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float | None]:
    """Per answer: (log p(answer | its prompt) - log p(answer | another prompt)) / tokens, in nats per token.

    model, tokenizer: the reference, as rlaif.models loads them. The other prompt is that of `other_prompt`.
    None for an empty answer, or when all prompts are the same. 0 means that the answer fits any prompt as well.
    """
    others = [other_prompt(prompts, i) for i in range(len(prompts))]
    kept = [i for i, answer in enumerate(answers) if answer.strip() and others[i] is not None]
    own = [_ids(tokenizer, prompts[i], answers[i]) for i in kept]
    elsewhere = [_ids(tokenizer, others[i] or (), answers[i]) for i in kept]
    logps = mean_logps(model, [*own, *elsewhere])
    result: list[float | None] = [None] * len(prompts)
    for place, i in enumerate(kept):
        result[i] = logps[place] - logps[place + len(kept)]
    return result


def mean_logps(model: Any, sequences: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """The mean log-probability per completion token of each (prompt ids, completion ids)."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i][0]) - len(sequences[i][1]))
    result = [0.0] * len(sequences)
    while order:
        longest = len(sequences[order[0]][0]) + len(sequences[order[0]][1])
        size = max(1, BATCH_TOKENS // longest)
        batch, order = order[:size], order[size:]
        for i, value in zip(batch, _batch_logps(model, [sequences[i] for i in batch]), strict=True):
            result[i] = value
    return result


def _batch_logps(model: Any, batch: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    import torch

    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(batch):
        size = len(prompt) + len(completion)
        ids[row, :size] = torch.tensor([*prompt, *completion])
        mask[row, :size] = 1
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    values = []
    for row, (prompt, completion) in enumerate(batch):
        predicted = logits[row, len(prompt) - 1 : len(prompt) + len(completion) - 1].float().log_softmax(-1)
        targets = torch.tensor(completion, device=predicted.device)
        values.append(float(predicted.gather(1, targets[:, None]).mean()))
    return values


def _ids(tokenizer: Any, prompt: Messages, answer: str) -> tuple[list[int], list[int]]:
    completion = render_completion(tokenizer, prompt, (Message(role="assistant", content=answer),))
    body = completion[: completion.rindex(answer) + len(answer)] if answer in completion else completion
    return encode(tokenizer, render_prompt(tokenizer, prompt)), encode(tokenizer, body)


def other_prompt(prompts: Sequence[T], index: int) -> T | None:
    """A prompt that differs from prompts[index], drawn by the index: prompts at a fixed distance are often of one kind (sorted,
    or the same questions in other words once more). None if all are the same."""
    others = [prompt for prompt in prompts if prompt != prompts[index]]
    return random.Random(index).choice(others) if others else None
