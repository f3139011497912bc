"""How many files this process may open: raised at the start, and shared out between the listeners and everything else."""

import logging
import resource
from typing import Final

_log = logging.getLogger(__name__)
MOST: Final = 65_536
OWN_FILES: Final = 1024
"""What is kept for the database, blobs, the broker, children and the log; also all that `select` knows."""


def raise_file_limit() -> int:
    """Raise the soft limit as far as the hard one allows, to MOST at most; return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def share_of(limit: int, wanted: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the first descriptor of a connection, and the caps of listeners that fit a file limit.

    Where the limit has no room for all that is wanted, each gets the same part of the half that is not ours, and at least 16.
    """
    if limit >= OWN_FILES + sum(wanted):
        return OWN_FILES, wanted
    part = limit / 2 / sum(wanted)
    return 0, tuple(max(16, int(one * part)) for one in wanted)
