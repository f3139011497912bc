"""What can go wrong with a backup, a restore or a migration."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BackupPlaceError(EdgefleetError):
    """The place of backups cannot be read or written."""

    code = "backup.bad_place"


class NoBackupError(EdgefleetError):
    """There is no whole backup in that place."""

    code = "backup.not_found"


class DamagedBackupError(EdgefleetError):
    """A backup is not what was written: something is missing or differs."""

    code = "backup.damaged"


class KeysLockedError(EdgefleetError):
    """The keys of a backup need a passphrase or an identity, or another one."""

    code = "backup.keys_locked"


class BackupKeyError(EdgefleetError):
    """A file of a key pair for backups cannot be used."""

    code = "backup.bad_key"


class PlainKeysError(EdgefleetError):
    """Keys would be written in plain where others may read them."""

    code = "backup.plain_keys"


class TargetNotEmptyError(EdgefleetError):
    """Something is there already where a server is to be restored or moved to."""

    code = "backup.target_not_empty"


class UnstorableRowError(EdgefleetError):
    """The target database refuses a row that the source has."""

    code = "backup.unstorable_row"


class DifferentRowsError(EdgefleetError):
    """The rows that were written are not the rows that were read."""

    code = "backup.different_rows"


class MissingBlobError(EdgefleetError):
    """The server's own blob store lacks a blob that its database names."""

    code = "backup.missing_blob"


class NoSpaceError(EdgefleetError):
    """The disk is full."""

    code = "backup.no_space"


@contextmanager
def space_checked(what: str) -> Iterator[None]:
    """Raise NoSpaceError where the block fails because a disk is full. what: what was being written."""
    try:
        yield
    except (OSError, sqlite3.OperationalError, SQLAlchemyError) as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        if not (is_full or "disk is full" in str(error) or "No space left" in str(error)):
            raise
        raise NoSpaceError(
            f"no space is left for {what}",
            next_step="free some space and run the same command again; it goes on with what is there",
        ) from error
