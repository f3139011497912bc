"""What every source is fetched with: limits, clock and environment, and the folder that fetched files go to.

Names of files come from a server that we do not trust: each is checked before it becomes a path, and what is written is below
the folder of this one import. Bytes are counted while they come.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError, UsageError

MAX_FILES: Final = 2000
DEFAULT_MAX_BYTES: Final = 4 * 1024**3
LIMIT_VARIABLE: Final = "EDGECTL_IMPORT_MAX_BYTES"
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@ -]{0,127}")
"""As the server takes the files of a source."""


class ImportFailedError(CliError):
    """The model could not be fetched from where it is stored."""

    code = "cli.import"


class HostileNameError(ImportFailedError):
    """The source names a file in a way that could leave the folder it belongs to."""

    code = "cli.import_name"


class ImportTooLargeError(ImportFailedError):
    """The source holds more than may be fetched."""

    code = "cli.import_size"


class WrongDigestError(ImportFailedError):
    """The downloaded file does not have the named digest."""

    code = "cli.import_digest"


@dataclass
class Budget:
    """Bytes and files that one import may still take. Raises ImportTooLargeError when they are used up."""

    left_bytes: int
    left_files: int = MAX_FILES
    limit_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit_bytes = self.left_bytes

    def announce(self, length: int) -> None:
        """Refuse a file that says beforehand that it is too long."""
        if length > self.left_bytes:
            raise self._too_large()

    def take(self, count: int) -> None:
        """Count bytes that came."""
        self.left_bytes -= count
        if self.left_bytes < 0:
            raise self._too_large()

    def take_file(self) -> None:
        """Count a file."""
        self.left_files -= 1
        if self.left_files < 0:
            raise ImportTooLargeError(
                f"the source holds more than {MAX_FILES} files",
                why="a model has fewer",
                next_step="name the folder of one model",
            )

    def _too_large(self) -> ImportTooLargeError:
        return ImportTooLargeError(
            f"the source holds more than {self.limit_bytes} bytes",
            why=f"so much is fetched at most, unless {LIMIT_VARIABLE} says otherwise",
            next_step=f"set {LIMIT_VARIABLE}, or publish a smaller model",
        )


@dataclass(frozen=True)
class Fetched:
    """A model that was fetched: `path` is a local file or folder. lineage: where it came from, without secrets."""

    path: Path
    lineage: dict[str, str]


def budget_from(environ: dict[str, str] | os._Environ[str] | None = None) -> Budget:
    """Return what an import may take. Raises UsageError for a bad limit in the environment."""
    given = (os.environ if environ is None else environ).get(LIMIT_VARIABLE) or str(DEFAULT_MAX_BYTES)
    if not given.isascii() or not given.isdigit() or int(given) == 0:
        raise UsageError(
            f"{LIMIT_VARIABLE} is {given!r}", why="expected a number of bytes", next_step=f"unset {LIMIT_VARIABLE}"
        )
    return Budget(int(given))


def place_for(folder: Path, name: str) -> Path:
    """Return where a file that the source calls `name` goes: below `folder`. Raises HostileNameError.

    Refused are absolute names, `..`, hidden names, backslashes, control characters and whatever else a server's source may
    not be called; an address that is percent-encoded is decoded before.
    """
    parts = name.split("/")
    if len(name) > 255 or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise HostileNameError(
            f"the source names a file {name[:120]!r}, which is not written here",
            why="names are relative, of letters, digits and ._+@- and space, without hidden files and without `..`",
            next_step="rename the file where it is stored",
        )
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class FetchContext:
    """For one import. environ: the environment of the command; mlflow_url: of the registry, "" for that of the environment."""

    budget: Budget
    clock: SystemClock
    note: Callable[[str], None]
    environ: Mapping[str, str]
    mlflow_url: str = ""
