"""`edgectl` on a terminal, as a person runs it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from tests.cli.fleet_stub import Stub


class Terminal:
    """One command on a terminal of 80 columns and `rows` lines."""

    def __init__(self, fleet: Stub, *arguments: str, rows: int = 40, kind: str = "xterm") -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "EDGECTL_SERVER": fleet.url, "TERM": kind, "COLUMNS": "80", "LINES": str(rows)}
        command = [sys.executable, "-m", "edgefleet_cli.main", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._raw = b""
        self._rows = rows

    @property
    def shown(self) -> str:
        """What the terminal has shown so far, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw.decode(errors="replace")).replace("\r", "")

    @property
    def has_escapes(self) -> bool:
        """Tell whether it was sent colours or movements."""
        return b"\x1b" in self._raw

    @property
    def lines(self) -> list[str]:
        """What stands on the terminal in the end, with what has scrolled out of it: movements and erasures are obeyed."""
        lines, at, column = [""], 0, 0
        for word in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", self._raw.decode(errors="replace")):
            number, kind = re.sub(r"\D", "", word), word[-1]
            if word == "\n":
                at += 1
                lines += [""] * (at + 1 - len(lines))
            elif word == "\r":
                column = 0
            elif not word.startswith("\x1b"):
                lines[at] = lines[at][:column].ljust(column) + word + lines[at][column + 1 :]
                column += 1
            elif kind == "A":
                at = max(at - int(number or 1), len(lines) - self._rows, 0)
            elif kind == "K":
                lines[at] = "" if number == "2" else lines[at][:column]
        return lines

    def read_until(self, words: str) -> None:
        """Read until the terminal has shown `words`."""
        while words not in self.shown:
            self._raw += os.read(self._ours, 65536)

    def type(self, text: str) -> None:
        """Type `text`."""
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read the rest and return the exit code."""
        try:
            while True:
                self._raw += os.read(self._ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            pass
        os.close(self._ours)
        return self.process.wait(timeout=30)
