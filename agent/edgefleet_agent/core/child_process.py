"""One short child of agentd that works alone: nothing on its standard input, its end seen by the loop through its pidfd."""

import os
import signal
from collections.abc import Callable
from typing import Any

from edgefleet_agent.core.loop import Loop


class ChildProcess:
    """A running child. on_end: called once, in the loop, with its exit code (negative: the signal) and what it printed."""

    def __init__(
        self, loop: Loop, argv: list[str], on_end: Callable[[int, bytes], None], *, output_bytes: int = 0
    ) -> None:
        """Start it. output_bytes: of its standard output, so much is kept at most; 0: it goes where ours goes. Raises OSError."""
        self._loop = loop
        self._on_end = on_end
        self._output_bytes = output_bytes
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        self._output, write = os.pipe2(os.O_CLOEXEC) if output_bytes else (-1, -1)
        try:
            if output_bytes:
                actions.append((os.POSIX_SPAWN_DUP2, write, 1))
            self.pid = os.posix_spawnp(argv[0], argv, dict(os.environ), file_actions=actions)
        except OSError:
            self._close(self._output)
            raise
        finally:
            self._close(write)
        self._pidfd = os.pidfd_open(self.pid)
        loop.watch(self._pidfd, self._ended)

    def kill(self) -> None:
        """Have it end at once; `on_end` follows."""
        os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """End it and wait for that, without `on_end`."""
        self.kill()
        os.waitpid(self.pid, 0)
        self._release()

    def _ended(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        output = os.read(self._output, self._output_bytes) if self._output_bytes else b""
        self._release()
        self._on_end(os.waitstatus_to_exitcode(status), output)

    def _release(self) -> None:
        self._loop.unwatch(self._pidfd)
        self._close(self._pidfd)
        self._close(self._output)

    @staticmethod
    def _close(fd: int) -> None:
        if fd >= 0:
            os.close(fd)
