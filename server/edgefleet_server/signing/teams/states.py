"""States of requests for signatures, of holders and of teams. Stored and public: never renamed."""

from typing import Final

WAITING: Final = "waiting"
READY: Final = "ready"
"""Signed by the team; the holders of targets have still to let it sign."""
DONE: Final = "done"
DROPPED: Final = "dropped"
