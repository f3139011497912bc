"""How tests are spread over the processes of a parallel run: whole files, as fixtures are made once, and of some files each test alone.

Its own module because only the controlling process of a run needs it, and only where pytest-xdist is there.
"""

from typing import Final

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

EACH_ALONE: Final = (
    "tests/agent/test_going_back.py",
    "tests/agent/test_withdrawing.py",
    "tests/house/test_docs.py",
    "tests/sim/test_many.py",
)
"""Long files whose tests share nothing: as one piece of work each would keep one process busy for minutes while others wait."""


class Spreading(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives whole files away, and single tests of the files above."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(EACH_ALONE) else str(super()._split_scope(nodeid))
