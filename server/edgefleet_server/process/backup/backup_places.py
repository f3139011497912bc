"""Where backups are: a folder, one tar file, or a bucket. All have names with `/`, like paths.

Nothing is seen under its name before it is whole and on the disk: folders rename, buckets put, and a tar file is appended to under the
name `FILE.part` until it is whole.
"""

import fcntl
import io
import os
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import obstore
from obstore.store import ObjectStore

from edgefleet_server.process.backup.errors import BackupPlaceError, DamagedBackupError
from edgefleet_server.process.backup.row_files import Source
from edgefleet_server.registry.object_store.opened_store import is_remote, open_object_store
from edgefleet_server.registry.object_store.store_failures import meaning_of
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings
from edgefleet_server.signing.keys.key_files import sync_folder

NO_SERVER: Final = Path("/nonexistent")
"""A data folder that is none: only the environment has settings."""
_CHECK: Final = "check the path, its rights and its space, or the bucket's address and keys"


class BackupPlace(Protocol):
    """What a backup is written to and read from. All calls block and raise BackupPlaceError."""

    is_private: bool
    """Whether only this user can read it."""
    holds_one: bool
    """Whether it takes one backup only."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the names that begin with a folder's name, with their lengths in bytes."""
        ...

    def scratch(self) -> Path:
        """Return a new file name in a local folder from which `put` takes files."""
        ...

    def put(self, name: str, file: Path) -> None:
        """Take a file under a name, durably. The file is gone afterwards."""
        ...

    def open(self, name: str) -> "closing[Any]":
        """Open one for reading from its beginning."""
        ...

    def remove(self, name: str) -> None:
        """Remove one."""
        ...

    def finish(self) -> None:
        """Make the place whole, after the last `put`."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FolderPlace:
    """A folder, 0700 where it is made here."""

    holds_one = False

    def __init__(self, folder: Path, *, is_new: bool) -> None:
        if is_new:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.is_private = folder.stat().st_mode & 0o077 == 0 and folder.stat().st_uid == os.getuid()
        self._lock: BinaryIO | None = None
        if is_new:
            self._lock = _locked(folder / ".lock")
            shutil.rmtree(folder / "tmp", ignore_errors=True)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return names and lengths."""
        found: dict[str, int] = {}
        for parent, _, files in os.walk(self._folder / prefix):
            for name in files:
                path = Path(parent, name)
                found[path.relative_to(self._folder).as_posix()] = path.stat().st_size
        return found

    def scratch(self) -> Path:
        """Return a new file name."""
        return _scratch(self._folder / "tmp")

    def put(self, name: str, file: Path) -> None:
        """Bring the file to the disk and rename it."""
        target = self._folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(target)
        sync_folder(target.parent)

    def open(self, name: str) -> "closing[Any]":
        """Open one."""
        return closing((self._folder / name).open("rb"))

    def remove(self, name: str) -> None:
        """Remove one, and its folder where that is empty then."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self._folder:
                break
            with suppress(OSError):
                parent.rmdir()

    def finish(self) -> None:
        """Bring the names of folders to the disk."""
        for folder, folders, _ in os.walk(self._folder):
            if "tmp" in folders:
                folders.remove("tmp")
            sync_folder(Path(folder))

    def close(self) -> None:
        """Give the lock back."""
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


class TarPlace:
    """One tar file, 0600: written under `FILE.part`, to whose whole members a later run appends."""

    holds_one = True
    is_private = True

    def __init__(self, file: Path, *, is_new: bool) -> None:
        self._final = file
        self._part = file.with_name(f"{file.name}.part")
        self._file = self._part if is_new else file
        self._lock = _locked(self._part) if is_new else None
        if is_new:
            self._part.chmod(0o600)
        self._members = _members_of(self._file, cuts=is_new)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return names and lengths."""
        return {
            name: one.size for name, one in self._members.items() if name.startswith(f"{prefix}/") and one.size >= 0
        }

    def scratch(self) -> Path:
        """Return a new file name."""
        return _scratch(self._final.with_name(f"{self._final.name}.tmp"))

    def put(self, name: str, file: Path) -> None:
        """Append the file; of two with one name the later one counts."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = file.stat().st_size, 0o600
        end = max((one.offset_data + _padded(one.size) for one in self._members.values()), default=0)
        header = info.tobuf(tarfile.PAX_FORMAT)
        with self._part.open("r+b") as tar, file.open("rb") as body:
            tar.seek(end)
            tar.truncate()
            tar.write(header)
            shutil.copyfileobj(body, tar, 1 << 20)
            tar.write(bytes(_padded(info.size) - info.size))
            tar.flush()
        info.offset, info.offset_data = end, end + len(header)
        self._members[name] = info
        file.unlink()

    def open(self, name: str) -> "closing[Any]":
        """Open one."""
        info = self._members[name]
        return closing(_Slice(self._file, info.offset_data, info.size))

    def remove(self, name: str) -> None:
        """Replace one by nothing: what was appended stays in the file until it is whole."""
        del name

    def finish(self) -> None:
        """End the tar file, bring it to the disk and give it its name."""
        end = max((one.offset_data + _padded(one.size) for one in self._members.values()), default=0)
        with self._part.open("r+b") as tar:
            tar.seek(end)
            tar.truncate()
            tar.write(bytes(2 * tarfile.BLOCKSIZE))
            tar.flush()
            os.fsync(tar.fileno())
        self._part.rename(self._final)
        sync_folder(self._final.absolute().parent)

    def close(self) -> None:
        """Give the lock back."""
        shutil.rmtree(self._final.with_name(f"{self._final.name}.tmp"), ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


class BucketPlace:
    """A bucket, or a folder in one, reached as that of blobs is (ADR 0154)."""

    is_private = False
    holds_one = False

    def __init__(self, store: ObjectStore, scratch: Path) -> None:
        """scratch: a folder of this machine; what this process writes there is in a folder of its own."""
        self._store = store
        self._scratch = _ScratchFolder(scratch)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return names and lengths."""
        with _bucket_errors("list"):
            return {
                str(one["path"]): int(one["size"]) for some in obstore.list(self._store, f"{prefix}/") for one in some
            }

    def scratch(self) -> Path:
        """Return a new file name."""
        return _scratch(self._scratch.folder())

    def put(self, name: str, file: Path) -> None:
        """Put the file."""
        with _bucket_errors("write"):
            obstore.put(self._store, name, file)
        file.unlink()

    def open(self, name: str) -> "closing[Any]":
        """Open one."""
        with _bucket_errors("read"):
            return closing(_BucketFile(obstore.open_reader(self._store, name)))

    def remove(self, name: str) -> None:
        """Remove one."""
        with _bucket_errors("remove from"):
            obstore.delete(self._store, name)

    def finish(self) -> None:
        """Do nothing: what was put is there."""

    def close(self) -> None:
        """Remove the local files."""
        self._scratch.close()


class _ScratchFolder:
    """A folder of one process below `parent`, made when it is first asked for, and locked as long as it is used.

    What processes have left there that were killed is not locked any more: it goes first. On a file system without locks it stays.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._made: tuple[Path, int] | None = None

    def folder(self) -> Path:
        """Return it. Raises OSError."""
        if self._made is None:
            self._parent.parent.mkdir(exist_ok=True)
            self._parent.mkdir(mode=0o700, exist_ok=True)
            # or another process takes this one for left behind before it is locked
            with _folder_lock(self._parent, fcntl.LOCK_EX):
                for left in self._parent.iterdir():
                    with suppress(OSError), _folder_lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB, is_needed=True):
                        shutil.rmtree(left)
                folder = Path(tempfile.mkdtemp(dir=self._parent))
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._made = folder, descriptor
        return self._made[0]

    def close(self) -> None:
        """Remove it."""
        if self._made is not None:
            shutil.rmtree(self._made[0], ignore_errors=True)
            os.close(self._made[1])
            self._made = None


class _Slice(io.RawIOBase):
    """The bytes of one member of a tar file."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._opened = path.open("rb")
        self._opened.seek(start)
        self._left = length

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self._opened.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


class _BucketFile:
    """A file of a bucket, as other files are read."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        with _bucket_errors("read"):
            return bytes(self._reader.read(size))

    def close(self) -> None:
        """Close it."""
        self._reader.close()


def bucket_settings(data: Path = NO_SERVER, file: Path | None = None) -> ServerSettings:
    """Return what reaches a bucket: the settings of blobs in a file of its own, else of the server in `data`, else of the environment.

    Raises SettingsError.
    """
    if file is None:
        return load_settings(data)
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the bucket settings {file} cannot be read: {error}", next_step="check its path and rights"
        ) from error
    wrong = [name for name in given if not name.startswith("blob_") or name == "blob_url"]
    if wrong:
        raise SettingsError(
            f"{file} has the settings {', '.join(wrong[:5])}, which say nothing of a bucket's access",
            next_step="name only settings such as blob_endpoint and blob_region there (docs/operate/object-store.md)",
        )
    return load_settings(data, **given)


@contextmanager
def opened_place(
    where: str, *, is_new: bool, settings: Callable[[], ServerSettings] = bucket_settings
) -> Iterator[BackupPlace]:
    """Open the place that a command names, for writing where `is_new`. settings: reach a bucket.

    Raises BackupPlaceError, SettingsError, BlobStoreError.
    """
    place = _open(where, is_new=is_new, settings=settings)
    try:
        yield place
    finally:
        place.close()


def _open(where: str, *, is_new: bool, settings: Callable[[], ServerSettings] = bucket_settings) -> BackupPlace:
    if is_remote(where):
        access = settings().model_copy(update={"blob_url": where})
        return BucketPlace(open_object_store(access), access.run_dir / "backup")
    if "://" in where and not where.startswith("file://"):
        raise BackupPlaceError(
            f"{where} is no place of backups", next_step="use a folder, FILE.tar, s3://NAME/PATH, gs://… or az://…"
        )
    path = Path(where.removeprefix("file://")).absolute()
    is_tar = path.name.endswith(".tar")
    try:
        if not is_new and not (path.is_file() if is_tar else path.is_dir()):
            raise BackupPlaceError(
                f"there is no {'tar file' if is_tar else 'folder'} {path}", next_step="name where backups are"
            )
        if is_new and is_tar and path.exists():
            raise BackupPlaceError(
                f"{path} is there already", next_step="choose another name: a tar file holds one backup"
            )
        return TarPlace(path, is_new=is_new) if is_tar else FolderPlace(path, is_new=is_new)
    except OSError as error:
        raise BackupPlaceError(f"{path} cannot be used: {error.strerror or error}", next_step=_CHECK) from error


def _locked(path: Path) -> BinaryIO:
    """Return a file that is locked while it is open. Raises BackupPlaceError where another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BackupPlaceError(
            f"another backup is being written to {path.parent}", next_step="wait until it has ended"
        ) from None
    return file


@contextmanager
def _folder_lock(folder: Path, how: int, *, is_needed: bool = False) -> Iterator[None]:
    """Hold the lock of a folder. Raises OSError; where there are no locks only if it is needed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with nullcontext() if is_needed else suppress(OSError):
            fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _scratch(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mktemp(dir=folder))  # noqa: S306  # in a folder that is ours alone


def _padded(length: int) -> int:
    return -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _members_of(path: Path, *, cuts: bool) -> dict[str, tarfile.TarInfo]:
    """Return the whole members of a tar file. cuts: what is cut off at its end is left out; else that is an error."""
    found: dict[str, tarfile.TarInfo] = {}
    length = path.stat().st_size
    with path.open("rb") as file:
        if length == 0 and cuts:
            return found
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    if info.offset_data + info.size > length:
                        break
                    found[info.name] = info
        except (tarfile.TarError, EOFError) as error:
            if not cuts:
                raise DamagedBackupError(
                    f"{path} is no whole tar file: {error}", next_step="use another backup"
                ) from error
    return found


@contextmanager
def _bucket_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        why, following = meaning_of(error, is_write=what == "write") or (" ".join(str(error).split())[:300], _CHECK)
        raise BackupPlaceError(f"the bucket cannot be used to {what} backups: {why}", next_step=following) from error


def read_small(place: BackupPlace, name: str, limit: int = 64 << 20) -> bytes:
    """Return one that is small, such as a manifest. Raises BackupPlaceError, DamagedBackupError."""
    pieces: list[bytes] = []
    with place.open(name) as file:
        source: Source = file
        while piece := source.read(1 << 20):
            pieces.append(piece)
            if sum(map(len, pieces)) > limit:
                raise DamagedBackupError(f"{name} is too large", next_step="use another backup")
    return b"".join(pieces)
