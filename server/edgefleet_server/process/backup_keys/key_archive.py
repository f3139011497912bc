"""The part of a backup that must stay secret: keys, settings and the first token, as one tar archive."""

import io
import os
import tarfile
from pathlib import Path
from typing import Final

from edgefleet_server.process.backup.errors import DamagedBackupError

FOLDER: Final = "keys"
FILES: Final = ("server.toml", "admin.token")


def archive_of(data: Path) -> bytes:
    """Return keys, settings and first token of a data folder as a tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path in sorted((data / FOLDER).rglob("*")):
            if path.is_file() and not path.is_symlink():
                _add(tar, data, path)
        for name in FILES:
            if (data / name).is_file():
                _add(tar, data, data / name)
    return made.getvalue()


def settings_of(data: Path) -> bytes:
    """Return an archive of the settings alone."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        _add(tar, data, data / FILES[0])
    return made.getvalue()


def _add(tar: tarfile.TarFile, data: Path, path: Path) -> None:
    info = tarfile.TarInfo(path.relative_to(data).as_posix())
    body = path.read_bytes()
    info.size, info.mode = len(body), path.stat().st_mode & 0o700
    tar.addfile(info, io.BytesIO(body))


def unpack(archive: bytes, data: Path) -> list[str]:
    """Write the files of an archive into a data folder; return their names. Raises DamagedBackupError, OSError."""
    names: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            parts = Path(info.name).parts
            if not info.isfile() or ".." in parts or not (parts[0] == FOLDER or info.name in FILES):
                raise DamagedBackupError(f"the archive of keys holds {info.name!r}", next_step="use another backup")
            body = tar.extractfile(info)
            assert body is not None
            path = data / info.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, info.mode & 0o700)
            with os.fdopen(descriptor, "wb") as file:
                file.write(body.read())
                file.flush()
                os.fsync(file.fileno())
            names.append(info.name)
    return names
