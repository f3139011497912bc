"""The command that trains: started with what it needs in its environment, listened to, and ended with all that it started.

It ends when nobody wants its result any more: also when the runner is killed, by the guard that watches the runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.demo.processes import Child, ProcessGroup

KEPT_LINES: Final = 30
TAIL_BYTES: Final = 16_000
MOST_CHARACTERS: Final = 400
_POLL_S: Final = 0.05
_NOT_NEEDED: Final = {"EDGECTL_TOKEN": "", "EDGEFLEET_ID_TOKEN": ""}
"""Secrets of the runner: the command reads its files and writes its result."""
_NAME: Final = "training"


class TrainingFailedError(CliError):
    """The command cannot start, or ended with another exit code than 0."""

    code = "training.failed"


class TrainingProcess:
    """One run of a command; its output is in `training.log`."""

    def __init__(self, child: Child, clock: SystemClock) -> None:
        self._child = child
        self._clock = clock

    @property
    def lines(self) -> list[str]:
        """The last lines that it wrote."""
        return last_lines(self._child.log)

    def wait(self, wait_s: float) -> bool:
        """Wait so long at most; return whether it has ended well. Raises TrainingFailedError with its last lines."""
        until_s = self._clock.monotonic_s() + wait_s
        while not self._child.has_ended:
            if self._clock.monotonic_s() >= until_s:
                return False
            self._clock.sleep(_POLL_S)
        code = self._child.process.wait()
        if code == 0:
            return True
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise TrainingFailedError(
            f"the command {how}",
            why="\n".join(self.lines) or "it wrote nothing",
            next_step="read what it wrote, and run it by hand with the same data",
        )


@contextmanager
def training(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, clock: SystemClock
) -> Iterator[TrainingProcess]:
    """Start a command; it and all that it started have ended when the block is left. folder: of its log. Raises TrainingFailedError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ProcessGroup(folder, clock) as group:
        try:
            child = group.start(_NAME, list(command), {**_NOT_NEEDED, "PYTHONUNBUFFERED": "1", **environment})
        except OSError as error:
            raise TrainingFailedError(
                f"cannot start {command[0]}",
                why=error.strerror or str(error),
                next_step="check the command behind `--` of edgectl retrain worker",
            ) from error
        yield TrainingProcess(child, clock)


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a file as text that can be shown, [] of none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            written = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = ["".join(one if one.isprintable() else " " for one in line).strip() for line in written.splitlines()]
    return [line[:MOST_CHARACTERS] for line in lines if line][-KEPT_LINES:]
