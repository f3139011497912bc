"""Calls of a part that is made later than the one that calls it, so that parts which need each other are all given to constructors."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def late(find: Callable[[], Callable[P, R]]) -> Callable[P, R]:
    """Return a function that does what `find()` returns, which is asked for at each call: `late(lambda: self._link.recycle)`."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return find()(*args, **kwargs)

    return call
