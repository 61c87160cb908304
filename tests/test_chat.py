"""A rendered conversation cut into pieces: where the assistant's turns begin and end under several chat templates."""

from typing import Any

import pytest

from rlaif.chat import Piece, encode, encode_all, render_pieces, render_prompt, stop_token_ids
from rlaif.errors import DataError
from rlaif.types import Message, Messages

LLAMA_2 = """
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}
{%- endfor %}"""
GEMMA = """
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
OPEN_ENDED = """
{%- for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
SHORTENED = """
{%- for m in messages %}
{{- '[' + m.role + ']' + (m.content if loop.last or m.role == 'user' else '...') + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
STOPS = ("</s>", "<end_of_turn>")


def build(template: str) -> Any:
    """A tokenizer of whole words with this template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["</s>", "<end_of_turn>", "?", "a", "b"])}
    inner = Tokenizer(models.WordLevel(vocab=words, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", extra_special_tokens=["<end_of_turn>"]
    )
    tokenizer.chat_template = template
    return tokenizer


def turns(*texts: str) -> Messages:
    """User and assistant by turns."""
    roles = ("user", "assistant")
    return tuple(Message.model_validate({"role": roles[i % 2], "content": text}) for i, text in enumerate(texts))


def pieces(template: str, conversation: Messages, asked: int = 1, **options: Any) -> list[tuple[str, bool]]:
    tokenizer = build(template)
    prompt, completion = conversation[:asked], conversation[asked:]
    head = render_prompt(tokenizer, prompt)
    found = render_pieces(tokenizer, head, prompt, completion, STOPS, **options)
    return [(piece.text, piece.learned) for piece in found]


def test_one_turn_ends_with_its_stop() -> None:
    assert pieces(GEMMA, turns("u", "a")) == [("a<end_of_turn>", True)]
    assert pieces(LLAMA_2, turns("u", "a")) == [(" a </s>", True)]


def test_a_turn_that_was_cut_has_no_stop() -> None:
    assert pieces(GEMMA, turns("u", "a"), cut=True) == [("a", True)]


def test_between_the_assistants_turns_nothing_is_learned() -> None:
    assert pieces(GEMMA, turns("u", "a", "w", "b")) == [
        ("a<end_of_turn>", True),
        ("\n<start_of_turn>user\nw<end_of_turn>\n<start_of_turn>model\n", False),
        ("b<end_of_turn>", True),
    ]
    assert pieces(LLAMA_2, turns("u", "a", "w", "b"), cut=True) == [
        (" a </s>", True),
        ("<s>[INST] w [/INST]", False),
        (" b ", True),
    ]


def test_pieces_join_to_the_rendered_conversation() -> None:
    conversation = turns("u", "a", "w", "b", "x", "c")
    tokenizer = build(GEMMA)
    whole = tokenizer.apply_chat_template([turn.as_dict() for turn in conversation], tokenize=False)
    for asked in (1, 3, 5):
        head = render_prompt(tokenizer, conversation[:asked])
        assert head + "".join(text for text, _ in pieces(GEMMA, conversation, asked)) + "\n" == whole


def test_an_answer_that_quotes_a_stop_is_learned_to_its_real_end() -> None:
    assert pieces(GEMMA, turns("u", "</s> is a token", "w", "b"))[0] == ("</s> is a token<end_of_turn>", True)


def test_a_template_without_ends_gives_whole_turns() -> None:
    assert pieces(OPEN_ENDED, turns("u", "a", "w", "b")) == [("a", True), ("[user]w[assistant]", False), ("b", True)]


def test_templates_that_rewrite_what_was_shown_are_refused() -> None:
    with pytest.raises(DataError, match="not a prefix"):
        pieces("{{ messages | length }}", turns("u", "a"))
    with pytest.raises(DataError, match="its end can not be found"):
        pieces(SHORTENED, turns("u", "a", "w", "b"))
    with pytest.raises(DataError, match="refuses the conversation: no system turn"):
        render_prompt(build(GEMMA), (Message(role="system", content="s"), *turns("u")))


def test_tools_and_keywords_reach_the_template() -> None:
    tokenizer = build("{{ tools | length }} {{ style }}")
    assert render_prompt(tokenizer, turns("u"), tools=[{}, {}], chat_template_kwargs={"style": "x"}) == "2 x"


def test_many_texts_are_encoded_as_one_by_one() -> None:
    tokenizer = build(GEMMA)
    texts = ["a b", "", "b </s>"]
    assert encode_all(tokenizer, texts) == [tuple(encode(tokenizer, text)) for text in texts] == [(3, 4), (), (4, 0)]
    assert encode_all(tokenizer, []) == []


def test_stop_tokens_are_the_declared_and_the_known_ones() -> None:
    from types import SimpleNamespace

    assert stop_token_ids(build(GEMMA)) == {0, 1}
    assert stop_token_ids(build(GEMMA), SimpleNamespace(eos_token_id=[0, 4])) == {0, 1, 4}
    assert Piece("a", learned=True) == Piece("a", True)
