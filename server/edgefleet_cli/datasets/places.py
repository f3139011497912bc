"""Where a data set lies: a folder, or a prefix of S3. It is filled next to its place and put there when it is complete.

A folder takes its name in one step. In S3 `dataset.json` is sent last: without it there is no data set.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from edgefleet_cli.core.errors import EXIT_CONFLICT, UsageError
from edgefleet_cli.datasets.model import MANIFEST, DataSetError

S3: Final = "s3://"


class PlaceTakenError(DataSetError):
    """There is something where the data set would be."""

    code = "cli.data_set_exists"
    default_next_step = "name another place with --out, or replace it with --force"
    exit_code = EXIT_CONFLICT


class Place(Protocol):
    """Where a data set lies."""

    def filled(self) -> Any:
        """Return a context manager of an empty folder; what is in it at the end is the data set, after an error nothing."""
        ...

    def changed(self) -> Any:
        """Return a context manager of a folder with the data set; what is in it at the end is the new one, after an error the old."""
        ...

    def manifest(self) -> bytes:
        """Return `dataset.json`. Raises DataSetError."""
        ...


def place_of(text: str, environ: Mapping[str, str], *, replace: bool = False) -> Place:
    """Return a place by its address. replace: whether a data set may be there already. Raises UsageError."""
    if not text.startswith(S3):
        return FolderPlace(Path(text), replace)
    bucket, _, key = text[len(S3) :].partition("/")
    if not bucket or not key.strip("/"):
        raise UsageError(
            f"{text} names no place for a data set", why="it needs a prefix", next_step="give s3://BUCKET/PREFIX"
        )
    return S3Place(bucket, key.strip("/"), environ, replace)


@dataclass(frozen=True)
class FolderPlace:
    """A folder of this machine, readable by its owner only."""

    path: Path
    replace: bool = False

    def __str__(self) -> str:
        return str(self.path.absolute())

    @contextmanager
    def filled(self) -> Iterator[Path]:
        """Yield an empty folder next to its place. Raises PlaceTakenError, DataSetError."""
        self._check()
        with self._next_to() as part:
            yield part

    @contextmanager
    def changed(self) -> Iterator[Path]:
        """Yield a copy of the data set. Raises DataSetError."""
        self.manifest()
        with self._next_to() as part:
            shutil.copytree(self.path, part, dirs_exist_ok=True)
            yield part

    def manifest(self) -> bytes:
        """Return `dataset.json`. Raises DataSetError."""
        try:
            return (self.path / MANIFEST).read_bytes()
        except OSError as error:
            raise DataSetError(
                f"there is no data set in {self.path}",
                why=f"{MANIFEST}: {error.strerror}",
                next_step="give the folder that a data set was exported to",
            ) from error

    def _check(self) -> None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.replace or not (self.path / MANIFEST).is_file():
            raise PlaceTakenError(
                f"{self.path} exists already",
                why="a data set never mixes with what is there",
                next_step="give another --out"
                + (", or add --force to replace it" if (self.path / MANIFEST).is_file() else ""),
            )

    @contextmanager
    def _next_to(self) -> Iterator[Path]:
        target = self.path.absolute()
        part = old = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))  # 0700
            yield part
            _sync(part)
            if target.exists():
                old = part.with_name(f"{part.name}.old")
                target.rename(old)
            part.rename(target)
        except OSError as error:
            if old is not None and not target.exists():
                old.rename(target)
            raise DataSetError(
                f"cannot write {self.path}", why=error.strerror or str(error), next_step="give another --out"
            ) from error
        finally:
            for left in (part, old):
                if left is not None and left.exists():
                    shutil.rmtree(left, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Write all to the disk: else a power cut can leave names without bytes."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class S3Place:
    """A prefix of a bucket. Credentials, region and endpoint come from the `AWS_…` variables, as those of `edgectl publish s3://…`."""

    bucket: str
    prefix: str
    environ: Mapping[str, str]
    replace: bool = False

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}"

    @contextmanager
    def filled(self) -> Iterator[Path]:
        """Yield an empty folder, which is sent at the end. Raises PlaceTakenError, DataSetError, MissingPartError."""
        old = self._names()
        if old and (not self.replace or MANIFEST not in old):
            raise PlaceTakenError(
                f"{self} is not empty",
                why="a data set never mixes with what is there",
                next_step="give another --out" + (", or add --force to replace it" if MANIFEST in old else ""),
            )
        with tempfile.TemporaryDirectory(prefix="edgectl-data-") as name:
            folder = Path(name)
            yield folder
            self._send(folder, old)

    @contextmanager
    def changed(self) -> Iterator[Path]:
        """Yield a folder with the data set; what is different at the end is sent. Raises DataSetError, MissingPartError."""
        self.manifest()
        with tempfile.TemporaryDirectory(prefix="edgectl-data-") as name:
            folder = Path(name)
            old = self._names()
            for one in old:
                path = folder / one
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise DataSetError(f"{self} holds a name that leads elsewhere", why=one[:80], next_step="remove it")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._read(one))
            yield folder
            self._send(folder, old)

    def manifest(self) -> bytes:
        """Return `dataset.json`. Raises DataSetError, MissingPartError."""
        return self._read(MANIFEST)

    def _send(self, folder: Path, old: list[str]) -> None:
        import obstore

        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        store, sent = self._store(), []
        try:
            for name in sorted(names, key=lambda one: one == MANIFEST):
                obstore.put(store, f"{self.prefix}/{name}", (folder / name).read_bytes())
                sent.append(name)
            for name in sorted(set(old) - set(names)):
                obstore.delete(store, f"{self.prefix}/{name}")
        except (OSError, obstore.exceptions.BaseError) as error:
            if not old:
                self._drop(store, sent)
            raise self._failed("write to", error) from error

    def _drop(self, store: Any, names: list[str]) -> None:
        import obstore

        for name in names:
            try:
                obstore.delete(store, f"{self.prefix}/{name}")
            except (OSError, obstore.exceptions.BaseError):
                return

    def _names(self) -> list[str]:
        store = self._store()
        import obstore

        try:
            found = [str(one["path"]) for page in obstore.list(store, prefix=self.prefix) for one in page]
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._failed("list", error) from error
        return sorted(one[len(self.prefix) + 1 :] for one in found if one.startswith(f"{self.prefix}/"))

    def _read(self, name: str) -> bytes:
        store = self._store()
        import obstore

        try:
            return bytes(obstore.get(store, f"{self.prefix}/{name}").bytes())
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._failed("read", error) from error

    def _store(self) -> Any:
        from edgefleet_cli.importing.addresses import S3Address
        from edgefleet_cli.importing.s3 import s3_store

        return s3_store(S3Address(self.bucket, self.prefix), self.environ)

    def _failed(self, verb: str, error: Exception) -> DataSetError:
        return DataSetError(
            f"cannot {verb} {self}",
            why=" ".join(str(error).split())[:240] or type(error).__name__,
            next_step="check the bucket, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
        )
