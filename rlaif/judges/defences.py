"""What judges are shown, made harmless: data stands between fences, and control tokens in it are no control tokens.

A response that is judged can be written to win: it can close the template's sections and open new ones (the null model,
arXiv 2410.07137), or carry the tokens that open a turn of the judge's chat template. Both are answered before the
template is rendered, so that every template is defended.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlaif.prompts import conversation_text
from rlaif.types import Prompt

SALT = "rlaif fence 1"
"""Goes into every fence, so that its digits are no plain hash of the text. It is public: the fence does not rest on it."""
FENCE_DIGITS = 12

TOKENS_WITH_PIPES = r"(?:[|｜][^\s<>|｜]{1,64}[|｜]?|[^\s<>|｜]{1,64}[|｜])>"
"""What follows the < of <|im_start|>, <|eot_id|>, <|channel|>, <|user|> and all others with pipes, fullwidth ones too."""
CONTROL_TOKENS = (
    "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<sop>", "<eop>", "<eod>", "<start_of_turn>",
    "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[BOS]", "[EOS]",
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[sMASK]", "<think>", "</think>", "<tool_call>",
    "</tool_call>", "<tool_response>", "</tool_response>", "<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>",
    "]~b]", "]~!b[", "[e~[",
)  # fmt: skip
"""The tokens without pipes of the chat templates in use: Llama 2, Mistral, Gemma, GLM, Qwen, Seed, MiniMax, BERT."""


class Data(str):
    """A text of the data as templates see it: written out it is fenced, compared it is the text itself.

    raw: the text without its fence, for a template that must write it within a line.
    """

    raw: str

    def __new__(cls, raw: str, written: str) -> "Data":
        data = super().__new__(cls, written)
        data.raw = raw
        return data

    def __eq__(self, other: object) -> bool:
        return self.raw == (other.raw if isinstance(other, Data) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.raw)

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __contains__(self, part: str) -> bool:  # type: ignore[override]
        return part in self.raw


def fence_digits(text: str) -> str:
    """The 12 hex digits of a text's fence: a salted hash of the text itself, the same on every run.

    They never occur in the text: where they would, a counter goes into the hash as well. So nothing inside the fence
    can close it, even written by someone who knows this function.
    """
    plain = text.casefold()
    count = 0
    while True:
        hashed = hashlib.sha256(f"{SALT}\n{count}\n{text}".encode("utf-8", "surrogatepass"))
        digits = hashed.hexdigest()[:FENCE_DIGITS]
        if digits not in plain:
            return digits
        count += 1


def fence(text: str) -> str:
    """The text between two lines that bear its digits."""
    digits = fence_digits(text)
    return f"<data {digits}>\n{text}\n</data {digits}>"


def escape_control_tokens(text: str, own: tuple[str, ...] = ()) -> str:
    r"""The text with a backslash after the first character of every control token: <|im_start|> becomes <\|im_start|>.

    Tokenizers read special tokens by their exact text, so an escaped one is plain text to all of them. own: further
    tokens, as of `own_control_tokens`. Injective: one that has backslashes there already gets one more, and
    `unescape_control_tokens` gives the text back.
    """
    return _pattern(own, r"\\*").sub(lambda token: f"{token[0][0]}\\{token[0][1:]}", text)


def unescape_control_tokens(text: str, own: tuple[str, ...] = ()) -> str:
    """The text that was escaped."""
    return _pattern(own, r"\\+").sub(lambda token: token[0][0] + token[0][2:], text)


@lru_cache(maxsize=64)
def _pattern(own: tuple[str, ...], backslashes: str) -> re.Pattern[str]:
    """Control tokens with these backslashes after the first character, grouped by it: such a pattern skips prose fast."""
    tails = {"<": [TOKENS_WITH_PIPES]}
    for token in sorted({*CONTROL_TOKENS, *own}, key=len, reverse=True):
        tails.setdefault(token[0], []).append(re.escape(token[1:]))
    return re.compile("|".join(f"{re.escape(first)}{backslashes}(?:{'|'.join(ends)})" for first, ends in tails.items()))


@lru_cache(maxsize=64)
def own_control_tokens(model: str) -> tuple[str, ...]:
    """The special tokens of the tokenizer in a model folder; none for a model that is no folder on this machine."""
    tokens: set[str] = set()
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        try:
            added = json.loads((Path(model) / name).read_text(encoding="utf-8")).get(key) or ()
        except (OSError, ValueError):  # not there, or broken: the engine says so when it loads the model
            continue
        entries = added.values() if isinstance(added, Mapping) else added
        tokens.update(entry["content"] for entry in entries if entry.get("special"))
    return tuple(sorted(token for token in tokens if len(token.strip()) > 1))


def defended(value: Any, *, fences: bool, escape: bool, own: tuple[str, ...] = ()) -> Any:
    """A JSON value with every text in it as `Data`: its control tokens escaped, and fenced where it is written.

    Keys are escaped only: templates look values up by them.
    """
    if isinstance(value, str):
        return _data(value, fences, escape, own)
    if isinstance(value, Mapping):
        return {
            escape_control_tokens(key, own) if escape else key: defended(item, fences=fences, escape=escape, own=own)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [defended(item, fences=fences, escape=escape, own=own) for item in value]
    return value


def shown_data(prompt: Prompt, others: Mapping[str, Any], *, fences: bool, escape: bool, model: str) -> dict[str, Any]:
    """What others wrote, as a template gets it, with the defences: `prompt`, `messages`, `metadata`, and further values.

    model: the one that will read it, whose own control tokens are escaped too.
    """
    data: dict[str, Any] = defended(
        {
            "prompt": conversation_text(prompt.messages),
            "messages": [message.as_dict() for message in prompt.messages],
            "metadata": prompt.metadata,
            **others,
        },
        fences=fences,
        escape=escape,
        own=own_control_tokens(model),
    )
    for message, turn in zip(prompt.messages, data["messages"], strict=True):
        turn["role"] = message.role  # one of the known roles, so no data
    return data


@lru_cache(maxsize=1024)  # a response is shown in many comparisons, a prompt with all its responses
def _data(text: str, fences: bool, escape: bool, own: tuple[str, ...]) -> Data:
    raw = escape_control_tokens(text, own) if escape else text
    return Data(raw, fence(raw) if fences else raw)
