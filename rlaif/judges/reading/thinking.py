"""A reasoning model's thinking is set aside: what is said there is no verdict."""

import re

_TAGS = re.compile(
    r"(?i)(?P<open><(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷)"
    r"|</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷"
)
_CHANNEL = re.compile(r"<\|channel\|>\s{0,4}(\w{1,20})")
_MESSAGE, _END = "<|message|>", re.compile(r"<\|(?:end|return|start|call)\|>")
_BARE_ANALYSIS, _BARE_FINAL = re.compile(r"analysis(?=[A-Z])"), "assistantfinal"
"""gpt-oss's channels where the special tokens were removed."""


def visible_text(text: str) -> str:
    """The answer without its thinking; empty if the thinking never ended.

    Thinking is what stands in <think>, <thinking>, <thought>, <reasoning>, [THINK] and the like, all that comes before a
    closing tag whose opening one stood in the prompt, all after one that is never closed, and every channel of gpt-oss but
    the final one.
    """
    return _outside_tags(_final_channel(text)).strip()


def _outside_tags(text: str) -> str:
    kept: list[str] = []
    position, inside = 0, False
    for tag in _TAGS.finditer(text):
        if tag["open"]:
            if not inside:
                kept.append(text[position : tag.start()])
            inside = True
        else:
            if not inside:
                kept.clear()  # the opening tag stood in the prompt
            inside, position = False, tag.end()
    return "".join(kept) if inside else "".join(kept) + text[position:]


def _final_channel(text: str) -> str:
    channels = list(_CHANNEL.finditer(text))
    if not channels:
        if _BARE_ANALYSIS.match(text):
            return text.rpartition(_BARE_FINAL)[2] if _BARE_FINAL in text else ""
        return text
    last = channels[-1]
    if last[1] != "final":
        return ""
    content = text[last.end() :].partition(_MESSAGE)[2]
    return _END.split(content, maxsplit=1)[0]
