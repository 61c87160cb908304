"""How long an outage is waited through."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from rlaif.errors import OutageError
from rlaif.progress import say

FIRST_PAUSE_SECONDS = 1.0
"""The pause before a judge is asked again; it doubles with each further one, up to LONGEST_PAUSE_SECONDS."""
LONGEST_PAUSE_SECONDS = 60.0


@dataclass
class Patience:
    """Of one session. It begins anew whenever something was answered."""

    name: str
    """Of the source."""
    seconds: float
    folder: Path
    """Where what was answered is kept."""
    _since: float | None = None
    _pause: float = 0.0

    async def wait(self, problem: str, *, gained: bool) -> None:
        """Pauses before the next attempt. Raises OutageError when there is no time for it.

        gained: whether the last attempt got answers.
        """
        now = time.monotonic()
        if self._since is None:
            say(f"{self.name}: {problem}; it is asked again for up to {self.seconds / 60:g} minutes")
        if self._since is None or gained:
            self._since, self._pause = now, FIRST_PAUSE_SECONDS
        left = self.seconds - (now - self._since)
        if left <= 0:
            raise OutageError(
                f"the reward '{self.name}' gave no answer for {self.seconds / 60:g} minutes ({problem}). All that was sampled "
                f"and answered is saved (judgments in {self.folder}): once its judge answers again, the same command goes on "
                "from there"
            )
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def end(self) -> None:
        """Says that all is well again, if it was not."""
        if self._since is not None:
            say(f"{self.name}: answers again")
