import pytest

from rlaif.errors import ConfigError
from rlaif.prompts import Template, conversation_text
from rlaif.types import Message


def test_a_misspelt_variable_is_refused_on_load_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"t.j2: undefined variable 'respons' \(did you mean 'response'\?\)"):
        Template("{{ respons }}", "t.j2", {"response", "prompt"})


def test_values_are_never_rendered_again() -> None:
    template = Template("{{ response }}|{{ prompt }}", "t", {"response", "prompt"})
    hostile = "{{ prompt }} {% if 1 %}x{% endif %}"
    assert template.render({"response": hostile, "prompt": "p"}) == f"{hostile}|p"


def test_the_sandbox_holds_and_missing_keys_are_errors() -> None:
    with pytest.raises(ConfigError):
        Template("{{ metadata.__class__.__mro__ }}", "t", {"metadata"}).render({"metadata": {}})
    with pytest.raises(ConfigError, match="subject"):
        Template("{{ metadata.subject }}", "t", {"metadata"}).render({"metadata": {}})


def test_a_broken_template_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"t.j2:2: broken template"):
        Template("a\n{% if %}", "t.j2", set())


def test_one_user_turn_is_shown_as_it_is_and_several_with_their_roles() -> None:
    user, system = Message(role="user", content="q"), Message(role="system", content="s")
    assert conversation_text((user,)) == "q"
    assert conversation_text((system, user)) == "System: s\n\nUser: q"
