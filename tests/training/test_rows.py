"""From the data file to token ids: what is kept, what ends a completion, what is left out and why."""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import TrainError
from rlaif.training.formats import Kind, read_examples
from rlaif.training.rows import Completion, Row, Rows, Skipped, tokenize

STOP = 2  # <|im_end|>


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(**changes: Any) -> dict[str, Any]:
    return {"id": "p", "prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")], **changes}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenized(
    tokenizer: Any, path: Path, kind: Kind = "pairs", max_length: int = 500, truncation: Any = "drop", **keywords: Any
) -> Rows:
    return tokenize(read_examples(path, kind), tokenizer, max_length, truncation, chat_template_kwargs=keywords or None)


def learned_texts(tokenizer: Any, completion: Completion) -> list[str]:
    """The runs of learned tokens, each decoded."""
    flags = completion.learned or (True,) * len(completion)
    runs = itertools.groupby(zip(flags, completion.ids, strict=True), key=lambda pair: pair[0])
    return [tokenizer.decode([token for _, token in run]) for learned, run in runs if learned]


def test_prompt_and_completion_are_the_ids_of_inference(tokenizer: Any, tmp_path: Path) -> None:
    (row,) = tokenized(tokenizer, write(tmp_path, pair())).rows
    opening = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.prompt) == opening
    assert list(row.prompt) == tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(completion.ids) for completion in row.completions] == ["yes<|im_end|>", "no<|im_end|>"]


def test_the_last_trained_token_is_the_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    (row,) = tokenized(tokenizer, write(tmp_path, pair())).rows
    assert [completion.ids[-1] for completion in row.completions] == [STOP, STOP]


def test_a_completion_cut_for_length_has_no_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(chosen_finish_reason="length", rejected_finish_reason="stop"))
    (row,) = tokenized(tokenizer, path).rows
    assert tokenizer.decode(row.completions[0].ids) == "yes"
    assert tokenizer.decode(row.completions[1].ids) == "no<|im_end|>"


def test_a_template_that_closes_no_turn_gets_the_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    from tiny import build_tokenizer

    open_ended = build_tokenizer()
    open_ended.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (row,) = tokenized(open_ended, write(tmp_path, pair(rejected_finish_reason="length"))).rows
    assert row.completions[0].ids[-1] == STOP
    assert STOP not in row.completions[1].ids


def test_identical_pairs_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    same_text = pair(id="text", rejected=[assistant("yes")])
    same_tokens = pair(id="tokens", chosen=[assistant("yes")], rejected=[{**assistant("yes"), "name": "x"}])
    rows = tokenized(tokenizer, write(tmp_path, pair(), same_text, same_tokens))
    assert [row.id for row in rows.rows] == ["p"]
    assert [(row.id, row.reason) for row in rows.skipped] == [
        ("text", "chosen and rejected are the same text"),
        ("tokens", "chosen and rejected are the same tokens"),
    ]


def test_pairs_that_only_truncation_would_make_equal_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    """The answers differ in their last word alone: cut at max_length they would be the same, and without their end."""
    path = write(tmp_path, pair(chosen=[assistant("x" * 60 + "good")], rejected=[assistant("x" * 60 + "bad")]))
    for truncation in ("drop", "truncate-prompt-left"):
        rows = tokenized(tokenizer, path, max_length=50, truncation=truncation)
        assert rows.rows == []
        assert "too long" in rows.skipped[0].reason


def test_answers_that_can_not_be_learnt_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    empty = pair(id="empty", chosen=[assistant("")], chosen_finish_reason="length")
    foreign = pair(id="foreign", rejected=[user("b")])
    half = pair(id="half", chosen=[assistant("\ud83d")])
    rows = tokenized(tokenizer, write(tmp_path, empty, foreign, half))
    assert {row.id: row.reason for row in rows.skipped} == {
        "empty": "an answer has no tokens",
        "foreign": "an answer begins with a turn that is neither the assistant's nor the prompt's",
        "half": "the text holds half of a character (a lone surrogate), which has no tokens",
    }


def test_every_row_in_is_a_row_out_or_left_out_with_a_reason(tokenizer: Any, tmp_path: Path) -> None:
    """600 rows, more than are encoded at once; of every five one prompt is too long and one pair is equal."""
    long, equal = [user("x" * 90)], [assistant("no")]
    made = [
        pair(id=str(number), **[{}, {"prompt": long}, {"chosen": equal}, {}, {}][number % 5]) for number in range(600)
    ]
    rows = tokenized(tokenizer, write(tmp_path, *made), max_length=80)
    assert (len(rows.rows), len(rows.skipped)) == (360, 240)
    assert sorted([row.id for row in rows.rows] + [row.id for row in rows.skipped], key=int) == [
        str(number) for number in range(600)
    ]
    assert [row.id for row in rows.rows] == sorted((row.id for row in rows.rows), key=int)
    assert all(row.reason for row in rows.skipped)


def test_a_template_where_the_prompt_is_no_prefix_is_told_per_row(tmp_path: Path) -> None:
    from tiny import build_tokenizer

    odd = build_tokenizer()
    odd.chat_template = "{{ messages | length }}:{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = tokenized(odd, write(tmp_path, pair()))
    assert "not a prefix" in rows.skipped[0].reason


def test_truncation_strategies(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(prompt=[user("x" * 50)]))
    (whole,) = tokenized(tokenizer, path).rows
    dropped = tokenized(tokenizer, path, max_length=40)
    assert dropped.rows == []
    assert dropped.skipped[0].reason == f"too long: {len(whole.prompt) + 4} tokens, max_length is 40"
    (cut,) = tokenized(tokenizer, path, max_length=40, truncation="truncate-prompt-left").rows
    assert cut.prompt == whole.prompt[-36:]
    assert cut.completions == whole.completions
    with pytest.raises(TrainError, match=r"row p: .* more than max_length 40"):
        tokenized(tokenizer, path, max_length=40, truncation="raise")


def test_a_completion_longer_than_max_length_is_never_cut(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(chosen=[assistant("y" * 50)]))
    assert tokenized(tokenizer, path, max_length=40, truncation="truncate-prompt-left").rows == []


def test_no_chat_template_is_refused(tmp_path: Path) -> None:
    from tiny import build_tokenizer

    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(TrainError, match="no chat template"):
        tokenized(bare, write(tmp_path, pair()))


def test_no_token_spans_the_boundary_of_prompt_and_completion(real_model_folder: Path, tmp_path: Path) -> None:
    """The template ends the prompt without a separator; tokenised together, "he" and "llo" would be one."""
    from rlaif.models import load_tokenizer

    tokenizer = load_tokenizer(str(real_model_folder))
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (row,) = tokenized(tokenizer, write(tmp_path, {"prompt": "Say he", "completion": "llo"}), "answers").rows
    assert list(row.prompt) == tokenizer("Say he", add_special_tokens=False)["input_ids"]
    assert list(row.completions[0].ids) == [
        *tokenizer("llo", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id
    ]  # fmt: skip
    assert tokenizer("Say hello")["input_ids"] != [*row.prompt, *row.completions[0].ids[:-1]]


def test_of_several_turns_only_the_assistants_are_learned(tokenizer: Any, tmp_path: Path) -> None:
    row = {
        "chosen": [user("u1"), assistant("a1"), user("u2"), assistant("good")],
        "rejected": [user("u1"), assistant("b1"), user("u2"), assistant("bad")],
    }
    (read,) = tokenized(tokenizer, write(tmp_path, row)).rows
    assert tokenizer.decode(read.prompt) == "<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n"
    between = "\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n"
    chosen, rejected = read.completions
    assert tokenizer.decode(chosen.ids) == f"a1<|im_end|>{between}good<|im_end|>"
    assert learned_texts(tokenizer, chosen) == ["a1<|im_end|>", "good<|im_end|>"]
    assert learned_texts(tokenizer, rejected) == ["b1<|im_end|>", "bad<|im_end|>"]
    assert read.completion_tokens == sum(map(len, ["a1.good.", "b1.bad."]))


@pytest.mark.parametrize("cut", [False, True])
def test_every_turn_of_a_real_conversation_ends_with_its_stop(
    real_model_folder: Path, tmp_path: Path, cut: bool
) -> None:
    from rlaif.models import load_tokenizer

    tokenizer = load_tokenizer(str(real_model_folder))
    turns = [
        user("Hi."),
        assistant("Hello!"),
        user("What is 1+1?"),
        assistant("Two."),
        user("Thanks."),
        assistant("OK"),
    ]
    row = {"messages": turns, "finish_reason": "length" if cut else "stop"}
    (read,) = tokenized(tokenizer, write(tmp_path, row), "conversations").rows
    last = "OK" if cut else "OK<|im_end|>"
    assert learned_texts(tokenizer, read.completions[0]) == ["Hello!<|im_end|>", "Two.<|im_end|>", last]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    together = tokenizer.decode(read.prompt + read.completions[0].ids)
    assert together + ("<|im_end|>\n" if cut else "\n") == whole


def test_a_declared_stop_token_ends_the_completion(tokenizer: Any, tmp_path: Path) -> None:
    """The tokenizer's own end is <|im_end|>; a model may declare another, with which its template closes turns."""
    from types import SimpleNamespace

    from tiny import build_tokenizer

    other = build_tokenizer()
    other.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|endoftext|>\n")
    declared = SimpleNamespace(eos_token_id=[0])
    rows = tokenize(read_examples(write(tmp_path, pair()), "pairs"), other, 500, "drop", declared)
    assert [other.decode(completion.ids) for completion in rows.rows[0].completions] == [
        "yes<|endoftext|>",
        "no<|endoftext|>",
    ]


THINKING = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool.function.name }}
{% endfor %}<|im_end|>
{% endif %}
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.asked and (loop.last or m.reasoning_content) %}
{{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}
{%- endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function.name + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""
"""Writes thinking only after the last question, an empty block where there is none, as the Qwen3 family does."""


@pytest.fixture
def thinker() -> Any:
    from tiny import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


def test_thinking_is_part_of_the_completion(thinker: Any, tmp_path: Path) -> None:
    row = {"messages": [user("q"), {**assistant("a"), "reasoning_content": "hm"}]}
    (read,) = tokenized(thinker, write(tmp_path, row), "answers").rows
    assert thinker.decode(read.completions[0].ids) == "<think>\nhm\n</think>\n\na<|im_end|>"
    (empty,) = tokenized(thinker, write(tmp_path, pair())).rows
    assert thinker.decode(empty.completions[0].ids) == "<think>\n\n</think>\n\nyes<|im_end|>"


def test_without_thinking_its_empty_block_belongs_to_the_prompt(thinker: Any, tmp_path: Path) -> None:
    """Set for all rows; a row's own keyword goes before it."""
    path = write(tmp_path, pair(), pair(id="own", chat_template_kwargs={"enable_thinking": True}))
    off, own = tokenized(thinker, path, enable_thinking=False).rows
    assert thinker.decode(off.prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert thinker.decode(off.completions[0].ids) == "yes<|im_end|>"
    assert thinker.decode(own.prompt).endswith("<|im_start|>assistant\n")


def test_a_prompt_that_the_template_rewrites_is_told_per_row(thinker: Any, tmp_path: Path) -> None:
    """With thinking the earlier answer is not what the model would have said after its empty block."""
    several = {"id": "several", "messages": [user("q"), assistant("a"), user("w"), assistant("b")]}
    path = write(tmp_path, several, {"messages": [user("q"), assistant("a")]})
    rows = tokenized(thinker, path, "conversations", enable_thinking=False)
    assert [row.id for row in rows.rows] == ["line-2"]
    assert [(row.id, "not a prefix" in row.reason) for row in rows.skipped] == [("several", True)]
    assert len(tokenized(thinker, path, "answers", enable_thinking=False).rows) == 2


def test_earlier_turns_end_where_the_whole_conversation_ends_them(thinker: Any, tmp_path: Path) -> None:
    """The first answer would get an empty block if it were the last: its end is found in the whole."""
    row = {"messages": [user("q"), assistant("a"), user("w"), assistant("b")]}
    (read,) = tokenized(thinker, write(tmp_path, row), "conversations").rows
    assert learned_texts(thinker, read.completions[0]) == [
        "a<|im_end|>",
        "<think>\n\n</think>\n\nb<|im_end|>",
    ]
    assert thinker.decode(read.prompt + read.completions[0].ids) + "\n" == thinker.apply_chat_template(
        row["messages"], tokenize=False
    )


def test_tools_are_shown_and_calls_are_learned(thinker: Any, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [user("1+1?"), {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "add"},
             {"role": "tool", "content": "2"}, {**assistant("two"), "reasoning_content": "so"}]  # fmt: skip
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    (read,) = tokenized(thinker, write(tmp_path, {"messages": turns, "tools": [tool]}), "conversations").rows
    assert thinker.decode(read.prompt).startswith("<|im_start|>system\nadd\n<|im_end|>")
    assert learned_texts(thinker, read.completions[0]) == [
        "<think>\nadd\n</think>\n\n<tool_call>add</tool_call><|im_end|>",
        "<think>\nso\n</think>\n\ntwo<|im_end|>",
    ]


def test_a_keyword_that_follows_from_the_data_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="add_generation_prompt can not be set"):
        tokenized(tokenizer, write(tmp_path, pair()), add_generation_prompt=False)


@pytest.mark.parametrize("opening", ["Step 1: 12.\nStep 2: ", ""])
def test_steps_follow_the_opening_and_have_no_end(tokenizer: Any, tmp_path: Path, opening: str) -> None:
    row = {"prompt": "q", "initial_reason_steps": opening, "chosen": "14.\n", "rejected": "15.\n"}
    (read,) = tokenized(tokenizer, write(tmp_path, row), "steps").rows
    prompt = f"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{opening.rstrip(' ')}"
    assert list(read.prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    space = " " if opening else ""
    assert [tokenizer.decode(completion.ids) for completion in read.completions] == [f"{space}14.\n", f"{space}15.\n"]
    assert all(completion.learned is None for completion in read.completions)


def test_labels_margins_and_confidences_reach_the_rows(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(margin=0.5, confidence=0.75))
    (row,) = tokenized(tokenizer, path).rows
    assert (row.label, row.margin, row.confidence) == (None, 0.5, 0.75)
    labelled = tokenized(tokenizer, path, "labels").rows
    assert [(row.id, row.label, row.confidence) for row in labelled] == [
        ("p/chosen", True, 0.75),
        ("p/rejected", False, 0.75),
    ]
    assert [labelled[0].completions[0], labelled[1].completions[0]] == list(row.completions)


def test_the_hash_is_of_everything_in_the_rows() -> None:
    base = Row("a", (1, 2), (Completion((3, 4)),))
    variants = [
        base,
        Row("b", (1, 2), (Completion((3, 4)),)),
        Row("a", (1,), (Completion((3, 4)),)),
        Row("a", (1, 2), (Completion((3, 4), (True, False)),)),
        Row("a", (1, 2), (Completion((3,)), Completion((4,)))),
        Row("a", (1, 2), (Completion((3, 4)),), label=True),
        Row("a", (1, 2), (Completion((3, 4)),), margin=0.5),
        Row("a", (1, 2), (Completion((3, 4)),), confidence=0.5),
    ]
    assert len({Rows([row]).hash() for row in variants}) == len(variants)
    assert Rows([base]).hash() == Rows([base], [Skipped("x", "why")]).hash()


def test_ten_thousand_rows_take_seconds(real_model_folder: Path, tmp_path: Path) -> None:
    from rlaif.models import load_tokenizer

    tokenizer = load_tokenizer(str(real_model_folder))
    path = write(tmp_path, *(
        pair(id=str(number), chosen=[assistant(f"yes {number}")]) for number in range(10_000)
    ))  # fmt: skip
    start = time.monotonic()
    assert len(tokenized(tokenizer, path).rows) == 10_000
    assert time.monotonic() - start < 30  # about 2 s on an idle machine


def test_every_published_dialogue_becomes_a_row(real_model_folder: Path, tmp_path: Path) -> None:
    import gzip

    from rlaif.models import load_tokenizer

    folder = os.environ.get("RLAIF_GOLD")
    if not folder:
        pytest.skip("RLAIF_GOLD names no folder of gold data")
    tokenizer = load_tokenizer(str(real_model_folder))
    path = tmp_path / "hh.jsonl"
    path.write_bytes(gzip.decompress((Path(folder) / "hh_rlhf" / "harmless-base_test.jsonl.gz").read_bytes()))
    for kind, count in (("pairs", 2312), ("answers", 2312), ("labels", 4624)):
        rows = tokenized(tokenizer, path, kind, max_length=1024)  # type: ignore[arg-type]
        assert len(rows.rows) + len(rows.skipped) == count
        assert {row.reason.split(":")[0] for row in rows.skipped} <= {"too long", "the answer is empty"}
        assert len(rows.skipped) < 20
        for row in rows.rows:
            for completion in row.completions:
                assert completion.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
                assert not any("user\n" in text for text in learned_texts(tokenizer, completion))


def test_tools_that_the_template_does_not_show_are_told(tokenizer: Any, tmp_path: Path) -> None:
    """ChatML knows no tools: an answer that is a tool call would be an empty one, and the offer of a tool unseen."""
    call = {"type": "function", "function": {"name": "a", "arguments": {"word": "tea"}}}  # a name that any text holds
    called = pair(id="called", chosen=[{"role": "assistant", "content": "", "tool_calls": [call]}])
    offered = pair(id="offered", tools=[{"type": "function", "function": {"name": "a", "parameters": {}}}])
    rows = tokenized(tokenizer, write(tmp_path, pair(), called, offered))
    assert [row.id for row in rows.rows] == ["p"]
    assert [row.id for row in rows.skipped] == ["called", "offered"]
    assert all("does not show the tool a" in row.reason for row in rows.skipped)


def test_reasoning_that_the_template_does_not_show_is_told(tokenizer: Any, tmp_path: Path) -> None:
    reasoned = pair(
        id="reasoned", chosen=[{"role": "assistant", "content": "4", "reasoning_content": "2 and 2 make 4."}]
    )
    rows = tokenized(tokenizer, write(tmp_path, pair(), reasoned))
    assert [row.id for row in rows.rows] == ["p"]
    assert "does not show the answer's reasoning" in rows.skipped[0].reason
