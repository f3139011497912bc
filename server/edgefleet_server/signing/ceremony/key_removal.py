"""Removes private keys that no root names any more: overwritten, then unlinked. On flash and copying file systems old blocks may remain."""

import os
from collections.abc import Sequence
from pathlib import Path


def destroy(files: Sequence[Path]) -> list[str]:
    """Overwrite and unlink those files that are there; return their names. May be done again after a crash. Blocks on fsync."""
    gone = []
    for path in files:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        with os.fdopen(fd, "wb", buffering=0) as out:
            size = os.fstat(out.fileno()).st_size
            out.write(b"\0" * size)
            os.fsync(out.fileno())
        path.unlink(missing_ok=True)
        gone.append(path.name)
    if gone:
        folder = os.open(files[0].parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return gone
