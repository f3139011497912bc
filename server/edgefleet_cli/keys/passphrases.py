"""Passphrases of private keys: asked for, or the first line of a file. Never on the command line, where other users see it."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edgefleet_cli.core.errors import UnreadableFileError, UsageError

LEAST = 12
Passphrase = Callable[[str], bytes]
"""Gives the passphrase of what the text names."""


def sources_of(files: Sequence[Path], count: int, *, may_ask: bool, is_new: bool = False) -> list[Passphrase]:
    """Return where the passphrase of each of `count` media comes from: one file for all, one each in order, or the person.

    Raises UsageError; what is returned raises UsageError, UnreadableFileError.
    """
    if len(files) not in {0, 1, count}:
        raise UsageError(
            f"{len(files)} passphrase files do not go with {count} media",
            next_step="give --passphrase-file once for all, or once for each in order",
        )
    of_each: Sequence[Path | None] = files if len(files) == count else [files[0] if files else None] * count
    return [partial(_read, file, may_ask=may_ask, is_new=is_new) for file in of_each]


def _read(file: Path | None, what: str, *, may_ask: bool, is_new: bool) -> bytes:
    if file is not None:
        return _checked(_first_line(file), what, is_new=is_new)
    if not may_ask:
        raise UsageError(
            f"the passphrase of {what} cannot be asked for",
            why="this is no terminal",
            next_step="write it into a file that only you can read, and give --passphrase-file FILE",
        )
    given = getpass.getpass(f"Passphrase of {what}: ")
    if is_new and getpass.getpass("The same again: ") != given:
        raise UsageError("the two passphrases differ", next_step="run the command again")
    return _checked(given.encode(), what, is_new=is_new)


def _checked(passphrase: bytes, what: str, *, is_new: bool) -> bytes:
    if is_new and len(passphrase) < LEAST:
        raise UsageError(
            f"the passphrase of {what} has {len(passphrase)} characters",
            why=f"a lost medium can be tried as often as a finder likes; it must have at least {LEAST}",
            next_step="take five words at random",
        )
    return passphrase


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {path}", why=error.strerror or str(error), next_step="check the path and its permissions"
        ) from error
