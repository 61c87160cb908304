"""The errors a user can mend. Every one prints as one message and no traceback.

RlaifError                  exit 2: the message says what, where, what is allowed, what to do
├── ConfigError             a YAML file, a flag, or a combination of them
├── DataError               a prompt, response, judgment or preference file
├── EngineError             a model or an endpoint
│   ├── BudgetReached       --max-requests: the work done so far is saved
│   └── Unavailable         an endpoint that gives no answer now, and may later
├── TrainError              training can not start or go on
├── OutageError             exit 3: a judge or rollout server is away for too long; all is saved, and the same command goes on
└── QualityGateError        exit 3: finished, but too many calls failed or too many votes were unparsed
"""

import difflib
from collections.abc import Iterable
from typing import Any


class RlaifError(Exception):
    """Something the user can mend; the message is meant for them."""

    exit_status = 2


class ConfigError(RlaifError):
    """A configuration file, flag or combination that is not allowed."""


class DataError(RlaifError):
    """A data file that can not be read as what it should be."""


class EngineError(RlaifError):
    """A model or endpoint that can not answer."""


class BudgetReached(EngineError):
    """The request budget is used up; everything answered so far is saved."""


class Unavailable(EngineError):
    """An endpoint gives no answer now. Another attempt, later, may get one."""


class TrainError(RlaifError):
    """Training can not start or can not go on."""


class OutageError(RlaifError):
    """A judge or a rollout server gave no answer for longer than a run waits. All is saved, and the same command goes on."""

    exit_status = 3


class QualityGateError(RlaifError):
    """The work is finished and saved, but a stated quality gate failed. `result` is what the function would return."""

    exit_status = 3

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


def on_one_line(error: Exception) -> str:
    """The kind of an error of some library and the start of its message, for use inside a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def missing_extra(package: str, extra: str) -> EngineError:
    """The error for an optional dependency that is not installed."""
    return EngineError(f"{package} is not installed; install it with: pip install 'rlaif-toolkit[{extra}]'")
