"""Revisions as the other stages read them: preference pairs, and responses to be judged."""

from collections.abc import Iterable, Iterator

from rlaif.types import PreferencePair, Response, Revision

RULE = "revision"
"""Stands in the provenance of a pair: that the revision is the better one is by the constitution, judged by nobody."""


def pairs_of(revisions: Iterable[Revision]) -> Iterator[PreferencePair]:
    """Of each response with a revision: the revision chosen, the original rejected."""
    for row in revisions:
        if row.revision is not None:
            yield _pair(row, row.revision)


def responses_of(revisions: Iterable[Revision]) -> Iterator[Response]:
    """Each original that has a revision, then the revision, with the same prompt and sample index."""
    for row in revisions:
        if row.revision is not None:
            yield from (row.original, row.revision)


def _pair(row: Revision, revision: Response) -> PreferencePair:
    return PreferencePair.of(
        revision,
        row.original,
        provenance={
            "rule": RULE,
            "constitution": row.constitution,
            "principles": row.principles,
            "revision_id": row.id,
        },
    )
