"""What judges say: Jinja templates, sandboxed, in which a misspelt variable is an error and never an empty string."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
from jinja2.exceptions import SecurityError

from rlaif.errors import ConfigError, did_you_mean
from rlaif.types import Messages


class _Missing(jinja2.StrictUndefined):
    """Says of a key that a row's metadata lacks which there are, and what to do."""

    @property
    def _undefined_message(self) -> str:
        if not isinstance(self._undefined_obj, Mapping) or self._undefined_hint:
            return super()._undefined_message
        there = ", ".join(sorted(map(str, self._undefined_obj))) or "none"
        return (
            f"the row has no '{self._undefined_name}' (keys there: {there}); add it to the metadata of every prompt, or use a "
            "template without it"
        )


_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=_Missing, keep_trailing_newline=False, trim_blocks=True, lstrip_blocks=True
)


class Template:
    """A template whose variables are known when it is loaded."""

    def __init__(self, source: str, where: str, allowed: set[str]) -> None:
        """Raises ConfigError for a syntax error (with its line) or a variable that is not in `allowed`."""
        self.source = source
        self.where = where
        try:
            tree = _ENVIRONMENT.parse(source)
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{where}:{error.lineno}: broken template: {error.message}") from None
        self.variables = jinja2.meta.find_undeclared_variables(tree)
        unknown = sorted(self.variables - allowed)
        if unknown:
            told = "; ".join(f"'{name}'{did_you_mean(name, allowed)}" for name in unknown)
            raise ConfigError(f"{where}: undefined variable {told}; allowed: {', '.join(sorted(allowed))}")

    @classmethod
    def load(cls, path: Path, allowed: set[str]) -> "Template":
        try:
            return cls(path.read_text(encoding="utf-8"), str(path), allowed)
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not UTF-8 text") from None

    def render(self, values: Mapping[str, Any], *, row: str = "") -> str:
        """The text with the values in place; the values themselves are never rendered again.

        row: what an error names as its place, beside the template.
        """
        try:
            return self._template.render({name: values[name] for name in self.variables if name in values}).strip()
        except (jinja2.UndefinedError, SecurityError, TypeError, ZeroDivisionError) as error:
            place = f"{self.where}, {row}" if row else self.where
            raise ConfigError(f"{place}: {error}") from None


def conversation_text(messages: Messages) -> str:
    """A conversation as a judge reads it: one user turn as it is, several turns with their roles named."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)
