"""What every check shares: what it finds, and how it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.types import Response


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found in one response.

    value: whether it passes, or a share in [0, 1]; None when that can not be known. detail: why, for the reader.
    """

    value: bool | float | None
    detail: str


class BaseCheck(Config):
    """Base of all checks: a key `check` that names it, and `examine` or `findings`."""

    check: str

    def examine(self, response: Response) -> Finding:
        """What the check finds in the response. Never raises, whatever the text is."""
        raise NotImplementedError

    def findings(self, response: Response) -> dict[str, Finding]:
        """By name; most checks find one thing, called as the check itself."""
        return {self.check: self.examine(response)}

    def provenance(self) -> tuple[str, ...]:
        """The installed packages, with versions, that could change what the check finds."""
        return ()


class BoundedCheck(BaseCheck):
    """Base of the checks that count something."""

    min: int = Field(default=0, ge=0)
    """The least that passes."""
    max: int | None = Field(default=None, ge=0)
    """The most that passes; no bound by default."""

    @model_validator(mode="after")
    def _possible(self) -> "BoundedCheck":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is above max {self.max}, so nothing could pass")
        return self

    def within(self, count: int, unit: str) -> Finding:
        passes = count >= self.min and (self.max is None or count <= self.max)
        bounds = f"at least {self.min}" if self.max is None else f"{self.min} to {self.max}"
        return Finding(passes, f"{count} {unit}, {bounds} allowed")


def expected_values(fixed: Any, key: str | None, metadata: Mapping[str, Any]) -> list[Any]:
    """The accepted answers: the fixed one, or what the metadata has under the key (a list: any of it). Empty if none."""
    value = fixed if key is None else metadata.get(key)
    values = value if isinstance(value, list) else [value]
    return [each for each in values if each is not None]


def nothing_expected(key: str | None) -> Finding:
    return Finding(None, f"nothing to compare with: the prompt's metadata has no '{key}'")
