"""A judge's text to the label it chose, strictly: all anchored verdicts must agree and be among those offered."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rlaif.types import NoOutcome

ANCHORED = re.compile(r"\[\[\s*([^\[\]]{1,20}?)\s*\]\]")
DECORATION = " \t\r\n*_`'\".,:;()[]"


class Reading(NamedTuple):
    """The chosen label, or None with the reason."""

    label: str | None
    reason: NoOutcome | None


def read_label(text: str, labels: Sequence[str], *, truncated: bool = False) -> Reading:
    """The label a judge chose: in its anchored form [[label]], else the whole answer must be the label.

    Conflicting anchored verdicts are a conflict, one that was not offered is unparsed; neither is a tie or a loss.
    """
    anchored = {match.group(1) for match in ANCHORED.finditer(text)}
    if anchored:
        offered = {label for label in labels if label in anchored}
        if len(offered) != len(anchored):
            return Reading(None, "unparsed")
        return Reading(offered.pop(), None) if len(offered) == 1 else Reading(None, "conflict")
    bare = text.strip(DECORATION)
    if bare in labels:
        return Reading(bare, None)
    return Reading(None, "truncated" if truncated else "unparsed")
