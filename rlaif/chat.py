"""Conversations to token ids, the same way for every engine and for training.

The prompt is rendered once with the chat template and the assistant's opening, and tokenised by itself, exactly as at
inference; a completion is tokenised as a separate piece, so no token ever spans the boundary.
"""

from typing import Any

from rlaif.errors import DataError, EngineError
from rlaif.types import Messages

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>", "<|end_of_text|>")


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """The prompt as text, ending with the opening of the assistant's turn.

    Raises EngineError if the tokenizer has no chat template, DataError if the template refuses the conversation.
    """
    return _render(tokenizer, messages, add_generation_prompt=True)


def render_completion(tokenizer: Any, prompt: Messages, completion: Messages) -> str:
    """The text that follows the rendered prompt when `completion` is the answer.

    Raises DataError if the rendered prompt is not a prefix of the whole rendered conversation.
    """
    head = render_prompt(tokenizer, prompt)
    whole = _render(tokenizer, (*prompt, *completion), add_generation_prompt=False)
    if not whole.startswith(head):
        raise DataError(
            "the chat template renders the prompt differently when an answer follows, so the prompt is not a prefix "
            "of the conversation"
        )
    return whole[len(head) :]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of already rendered text: special tokens in it are read, none are added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> set[int]:
    """Every token id that ends an assistant's turn: the model's declared ones and the known turn ends it has."""
    found: set[int] = set()
    declared = getattr(generation_config, "eos_token_id", None)
    if declared is not None:
        found.update(declared if isinstance(declared, list | tuple) else [declared])
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    known = set(getattr(tokenizer, "all_special_tokens", ())) | set(getattr(tokenizer, "added_tokens_encoder", {}))
    for token in TURN_ENDS:
        if token in known:
            found.add(tokenizer.convert_tokens_to_ids(token))
    return found


def _render(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(
            f"{tokenizer.name_or_path}: the model has no chat template, so conversations can not be shown to it; "
            "use a chat (instruct) model, or put a chat_template.jinja into the model folder"
        )
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            [message.as_dict() for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses the conversation: {error}") from None
    return text
