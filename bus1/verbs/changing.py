"""changing: a verb that changes files says what it does, or would do, and does it wholly or not at all.

Not here: what changes are, and how they are undone (``bus1.changes``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..changes import FOR_ALL, Change, ChangeFailed, carry_out
from .verb import Failure


def carry_out_or_tell(changes: Sequence[Change], *, dry_run: bool) -> bool:
    """Print each change, and carry it out unless ``dry_run``; True if something was. Failure: nothing was."""
    if not changes:
        print("Nothing to do: it is as it should be.")
    for change in changes:
        print(f"{'would ' if dry_run else ''}{change}")
    if dry_run or not changes:
        return False
    try:
        carry_out(changes, umask=FOR_ALL)
    except ChangeFailed as error:
        raise Failure(f"{error}; everything is as it was") from error
    return True
