"""What Ctrl-C does while a conversion searches: the first one keeps the best candidate, the next one ends everything."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_BEST = "best so far "
"""How a message of the converter begins once a candidate has passed."""
_ENDING = "ending the search (Ctrl-C again stops it all); "


@dataclass
class SearchInterrupt:
    """Until a candidate has passed, there is nothing to keep, and Ctrl-C ends the command as ever.

    ask: called at the first Ctrl-C after that, within a signal handler.
    """

    ask: Callable[[], None] = lambda: None
    has_best: bool = False
    is_asked: bool = False

    def heard(self, message: str) -> None:
        """Note what the converter said."""
        self.has_best = self.has_best or message.startswith(_BEST)

    def shown(self, message: str) -> str:
        """Return a message as it is shown."""
        return f"{_ENDING}{message}" if self.is_asked else message

    @contextlib.contextmanager
    def ended_by_ctrl_c(self) -> Iterator[None]:
        """Answer Ctrl-C inside in this way, where that is the main thread's to do."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def answer(_number: int, _frame: object) -> None:
            if self.is_asked or not self.has_best:
                raise KeyboardInterrupt
            self.is_asked = True
            self.ask()

        before = signal.signal(signal.SIGINT, answer)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
