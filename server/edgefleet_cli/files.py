"""Writing a file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from edgefleet_cli.sources import UnreadableFileError


def write_whole(file: Path, data: bytes) -> None:
    """Write `data` into `file`, through a temporary file beside it. Raises UnreadableFileError."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, file)  # noqa: PTH105 - Path.replace is the same call; this names the guarantee
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UnreadableFileError(
            f"cannot write {file}", why=error.strerror or str(error), next_step="give another --out"
        ) from error
