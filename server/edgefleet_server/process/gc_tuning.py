"""How often the process looks for cycles of garbage. A matter of the whole process.

A look at a rollout of 100,000 devices makes millions of objects that live as long as the look and refer to each other in no circle.
Python's own setting searches them again and again: a third of the processor time of such a look (`./dev bench rollout-scale`).
"""

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 50)
"""Objects made until the youngest are searched; how often that is until the next older ones are; instead of 700, 10, 10."""


def collect_seldom() -> None:
    """Search for cycles less often in this process from now on. What nothing refers to any more is freed at once, as ever."""
    gc.set_threshold(*THRESHOLDS)


def settle() -> None:
    """Leave out of every search what was made while the process started, most of which stays as long as it: modules, routes, schemas.

    It is not searched once more before: that takes 0.27 s of processor time, a twelfth of a start, and finds some hundred objects of
    300,000.
    """
    gc.freeze()
