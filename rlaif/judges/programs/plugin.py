"""Checks that an installed package brings along: Python functions under the entry point group `rlaif.checks`.

In the package's pyproject.toml:

    [project.entry-points."rlaif.checks"]
    rhymes = "my_package.checks:rhymes"

and in it `def rhymes(response: rlaif.types.Response, **arguments) -> bool | float | None`, a float in [0, 1] being the
share that is satisfied and None what can not be known.
"""

import importlib.metadata
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from pydantic import PrivateAttr, model_validator

from rlaif.errors import did_you_mean, on_one_line
from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.types import Response

GROUP = "rlaif.checks"


class PluginCheck(BaseCheck):
    """A Python function of an installed package, found by its entry point, decides."""

    check: Literal["plugin"]
    name: str
    """The entry point in the group rlaif.checks."""
    arguments: dict[str, Any] = {}
    """What the function is given besides the response."""
    _function: Callable[..., Any] = PrivateAttr()
    _distribution: str = PrivateAttr()

    @model_validator(mode="after")
    def _load(self) -> "PluginCheck":
        entry = _find(self.name)
        self._distribution = _distribution(entry)
        where = f"the check '{self.name}' of {self._distribution}"
        try:
            self._function = entry.load()
        except Exception as error:  # whatever the package does when it is imported
            raise ValueError(f"{where} can not be loaded: {on_one_line(error)}") from None
        if not callable(self._function):
            raise ValueError(f"{where} is not a function but {type(self._function).__name__}")
        _check_arguments(where, self._function, self.arguments)
        return self

    def examine(self, response: Response) -> Finding:
        try:
            value = self._function(response, **self.arguments)
        except Exception as error:  # whatever the function does: the run goes on
            return Finding(None, f"{self._distribution}: {on_one_line(error)}")
        return self._finding(value)

    def findings(self, response: Response) -> dict[str, Finding]:
        return {f"{self.check}:{self.name}": self.examine(response)}

    def provenance(self) -> tuple[str, ...]:
        return (self._distribution,)

    def _finding(self, value: object) -> Finding:
        if value is None:
            return Finding(None, f"{self._distribution}: can not be known")
        if isinstance(value, bool):
            return Finding(value, self._distribution)
        if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1:
            return Finding(float(value), self._distribution)
        found = repr(value)[:100] if isinstance(value, int | float) else type(value).__name__
        return Finding(None, f"{self._distribution}: gave {found}, not true, false, a number from 0 to 1 or None")


def _find(name: str) -> importlib.metadata.EntryPoint:
    """The one entry point of this name. Raises ValueError if there is none, or several."""
    installed = importlib.metadata.entry_points(group=GROUP)
    found = {(entry.value, _distribution(entry)): entry for entry in installed if entry.name == name}
    if not found:
        names = sorted({f"{entry.name} ({_distribution(entry)})" for entry in installed})
        raise ValueError(
            f"no installed package has a check '{name}'{did_you_mean(name, installed.names)}; installed under the entry "
            f"point group {GROUP}: {', '.join(names) or 'none'}"
        )
    if len(found) > 1:
        owners = " and ".join(sorted(owner for _, owner in found))
        raise ValueError(f"the check '{name}' is in {owners}; uninstall one of them")
    (entry,) = found.values()
    return entry


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed package"


def _check_arguments(where: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function without one, such as of a compiled module: its first call will tell
        return
    try:
        signature.bind(object(), **arguments)
    except TypeError as error:
        raise ValueError(f"{where} can not be called with these arguments: {error}; it is {signature}") from None
