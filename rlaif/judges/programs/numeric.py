r"""Numeric answers: the number a response ends on, `#### 72` of GSM8K, or \boxed{72}, against an expected number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rlaif.judges.programs.base import BaseCheck, Finding, expected_values, nothing_expected
from rlaif.types import Response

Reading = Literal["auto", "last", "gsm8k", "boxed"]

MAX_DIGITS = 400
"""Longer numbers are not read: exact arithmetic on an exponent of a million digits would take all memory."""
DECIMAL = (
    r"(?:(?:[0-9]{1,3}(?:[,\u00a0\u202f_][0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)
NUMBER = re.compile(
    rf"""
    (?=[-+−$€£.0-9\\])(?<![^\W_])                          # not inside a word: x2 and H2O hold no number
    (?:(?<![\w)\]}}])(?P<sign>[-+−]))?                      # 5-3 is not a negative number
    [$€£]?
    (?:(?<=[$€£])(?P<inner>[-−]))?
    (?: \\[dt]?frac\{{(?P<top>{DECIMAL})\}}\{{(?P<bottom>{DECIMAL})\}}
      | (?P<whole>[0-9]+)[ ](?P<over>[0-9]+)/(?P<under>[0-9]+)
      | (?P<numerator>{DECIMAL})(?:/(?P<denominator>{DECIMAL}))?
    )
    (?P<percent>\s?(?:%|percent\b|per\ cent\b))?
    """,
    re.VERBOSE,
)
LATEX = [("{,}", ","), (r"\,", ""), (r"\!", ""), (r"\$", "$"), (r"\%", "%"), (r"\ ", " ")]
FINAL_MARK = re.compile(r"^[^\w\n#]*####(?P<rest>[^\n]*)$", re.MULTILINE)
BRACE = re.compile(r"\\(?:boxed|fbox)\s?\{|[{}]")


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number, and whether it was written as a percentage (12 for 12 %)."""

    value: Fraction
    is_percent: bool = False

    def is_near(self, other: "Number", tolerance: float, relative: float) -> bool:
        """Whether it is as near to `other` as allowed. Where only one is a percentage, 12 % is both 12 and 0.12."""
        readings = [(self.value, other.value)]
        if self.is_percent and not other.is_percent:
            readings.append((self.value / 100, other.value))
        if other.is_percent and not self.is_percent:
            readings.append((self.value, other.value / 100))
        return any(
            abs(found - wanted) <= max(Fraction(tolerance), Fraction(relative) * abs(wanted))
            for found, wanted in readings
        )

    def __str__(self) -> str:
        shown = str(self.value)
        return (shown if len(shown) <= 40 else f"a number of {len(shown)} digits") + ("%" if self.is_percent else "")


class NumericCheck(BaseCheck):
    """The response's answer is the expected number: a fixed one, or what the prompt's metadata has under a key."""

    check: Literal["numeric"]
    number: float | str | None = None
    """The expected number, the same for every prompt; a text may hold a fraction ("1/3") or a percentage."""
    metadata: str | None = None
    """The metadata key of the expected number: a number, or a text read like a response (GSM8K's solutions as they
    are); where it holds a list, any of it will do."""
    read: Reading = "auto"
    r"""boxed: the last \boxed{}; gsm8k: after the last ####; last: the last number; auto: the first of these there is."""
    tolerance: float = Field(default=0.0, ge=0)
    """How far from the expected number passes; by default only exactly the same value (72, 72.0 and 144/2 are)."""
    relative_tolerance: float = Field(default=0.0, ge=0)
    """The same as a share of the expected number; the wider of the two counts."""

    @field_validator("number")
    @classmethod
    def _is_number(cls, number: float | str | None) -> float | str | None:
        if number is not None and to_number(number) is None:
            raise ValueError(f"'{number}' holds no number")
        return number

    @model_validator(mode="after")
    def _one_of(self) -> "NumericCheck":
        if (self.number is None) == (self.metadata is None):
            raise ValueError("give either number or metadata (the key of the expected number)")
        return self

    def examine(self, response: Response) -> Finding:
        accepted = expected_values(self.number, self.metadata, response.prompt.metadata)
        if not accepted:
            return nothing_expected(self.metadata)
        wanted = [number for number in map(to_number, accepted) if number is not None]
        if not wanted:
            return Finding(None, f"nothing to compare with: the prompt's metadata has no number in '{self.metadata}'")
        expected = " or ".join(map(str, wanted))
        found = read_number(response.text, self.read)
        if found is None:
            return Finding(False, f"no number is given, expected {expected}")
        passes = any(found.is_near(number, self.tolerance, self.relative_tolerance) for number in wanted)
        return Finding(passes, f"read {found}, expected {expected}")


def to_number(value: Any) -> Number | None:
    """A value of a configuration or of metadata as a number; None if it holds none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return read_number(repr(value), "last")
    return read_number(value, "auto") if isinstance(value, str) else None


def read_number(text: str, read: Reading = "auto") -> Number | None:
    """The number that a text gives as its answer; None if it gives none in the form asked for."""
    for written, plain in LATEX:
        text = text.replace(written, plain)
    if read in ("auto", "boxed"):
        box = _last_box(text)
        if box is not None or read == "boxed":
            return None if box is None else _last_number(box)
    if read == "gsm8k":
        _, mark, rest = text.rpartition("####")
        return next(_numbers(rest.split("\n", 1)[0]), None) if mark else None
    marked = _last_marked(text) if read == "auto" else None
    return marked if marked is not None else _last_number(text)


def _last_box(text: str) -> str | None:
    r"""What stands inside the last \boxed{} that is closed."""
    opened: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for brace in BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.end(), brace[0] != "{"))
        elif opened:
            start, is_box = opened.pop()
            last = (start, brace.start()) if is_box and (last is None or start > last[0]) else last
    return None if last is None else text[last[0] : last[1]]


def _last_marked(text: str) -> Number | None:
    """The number of the last line `#### 72` that holds nothing else: #### is also a heading of Markdown."""
    lines = [match["rest"] for match in FINAL_MARK.finditer(text)]
    alone = [line for line in lines if not any(character.isalpha() for character in NUMBER.sub("", line, count=1))]
    return next((number for line in reversed(alone) for number in _numbers(line)), None)


def _numbers(text: str) -> Iterator[Number]:
    for match in NUMBER.finditer(text):
        number = _value(match)
        if number is not None:
            yield number


def _last_number(text: str) -> Number | None:
    matches = reversed(list(NUMBER.finditer(text)))
    return next((number for number in map(_value, matches) if number is not None), None)


def _value(match: re.Match[str]) -> Number | None:
    """The exact value; None for one that is too long or divided by zero."""
    if len(match[0]) > MAX_DIGITS:
        return None
    parts = {name: _exact(part) for name, part in match.groupdict().items() if part and name not in SIGNS}
    try:
        if "whole" in parts:
            value = parts["whole"] + parts["over"] / parts["under"]
        elif "top" in parts:
            value = parts["top"] / parts["bottom"]
        else:
            value = parts["numerator"] / parts.get("denominator", Fraction(1))
    except ZeroDivisionError:
        return None
    negative = "-" in _minus(match["sign"]) or "-" in _minus(match["inner"])
    return Number(-value if negative else value, is_percent=match["percent"] is not None)


SIGNS = {"sign", "inner", "percent"}


def _minus(sign: str | None) -> str:
    return (sign or "").replace("−", "-")


def _exact(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,\u00a0\u202f_]", "", digits))
