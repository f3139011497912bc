"""Files that are there whole or not at all, files that only their owner may read, and the text of files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgefleet_cli.core.errors import UnreadableFileError, UsageError

STANDARD_INPUT = "standard input"


def read_text(path: Path | None, most: int) -> str:
    """Return the first characters of a file of YAML or JSON; None: of standard input. Raises UnreadableFileError, UsageError."""
    origin = path or STANDARD_INPUT
    try:
        if path is None:
            return sys.stdin.read(most)
        with path.open(encoding="utf-8") as stream:
            return stream.read(most)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {origin}", why=error.strerror or str(error), next_step="check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{origin} is not text", why=str(error), next_step="write it as YAML or JSON in UTF-8"
        ) from error


def lines_of(node: Any, path: str = "$") -> Iterator[tuple[str, int]]:
    """Yield the places of a node of YAML, such as `$.spec.require[1]`, with their lines."""
    import yaml

    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for place, line in lines_of(value, f"{path}.{key.value}"):
                yield place, key.start_mark.line + 1 if place == f"{path}.{key.value}" else line
    elif isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield from lines_of(item, f"{path}[{at}]")


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner can read; it appears whole or not at all. Raises OSError."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".edgectl-")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_whole(file: Path, data: bytes) -> None:
    """Write `data` into `file`, through a temporary file next to it. Raises UnreadableFileError."""
    with whole_file(file, "--out", replace=True) as sink:
        sink.write(data)


@contextmanager
def whole_file(file: Path, flag: str, *, replace: bool) -> Iterator[BinaryIO]:
    """Yield a temporary file that becomes `file` when the block ends, and is gone when it fails. Raises UnreadableFileError.

    replace: whether a file may be there already; flag: what the user gave that named it.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())  # else a power cut can leave the name with no bytes
        if replace:
            os.replace(part, file)  # noqa: PTH105 - Path.replace is the same call; this names the guarantee
        else:
            os.link(part, file)  # fails where there is one, in one step
    except OSError as error:
        raise UnreadableFileError(
            f"cannot write {file}", why=error.strerror or str(error), next_step=f"give another {flag}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
