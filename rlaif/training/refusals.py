"""Errors of the libraries under a run, as messages that say what to do."""

import contextlib
from collections.abc import Iterator

import torch

from rlaif.errors import ConfigError, TrainError


@contextlib.contextmanager
def setting_errors(what: str) -> Iterator[None]:
    """Turns the error of an optimizer or schedule that does not take its settings into a message."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"trainer: the {what} refuses its settings: {error}") from None


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turns running out of memory into a message that says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainError(
            f"out of memory: {advice}; or set gradient_checkpointing: true. What is done is kept: the same command "
            "with the new value continues"
        ) from None
