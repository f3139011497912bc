"""The repository as a device finds it: TUF's own client walks from the first root to a bundle, over the files that are stored.

Nothing that the server remembers of its signing is believed. It is done where a device says that something signed is wrong.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.verify import PublicKey
from edgefleet_server.signing.errors import RepositoryMissingError, RepositoryStaleError, RepositoryUnsoundError

_URL: Final = "ef://repository/"
_DIRECTOR: Final = "director"


@dataclass(frozen=True, slots=True)
class FoundByClient:
    """What the client trusts. target: of the bundle's path, None when nothing signed names it. keys: of the director."""

    target: TargetFile | None
    keys: tuple[PublicKey, ...]
    threshold: int


def find_as_client(root: bytes, read: Callable[[str], bytes | None], path: str, now: datetime) -> FoundByClient:
    """Return how a device that pinned `root` finds a bundle's target path. read: a stored file by its name, None when there is none.

    Raises RepositoryUnsoundError, RepositoryStaleError, RepositoryMissingError. Writes into a temporary folder.
    """
    # not at the top: the client brings an HTTP library along, which a server that checks nothing need not hold
    from tuf.ngclient.config import UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface
    from tuf.ngclient.updater import Updater

    class Stored(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            data = read(url.removeprefix(_URL))
            if data is None:
                raise tuf_errors.DownloadHTTPError(f"no {url.removeprefix(_URL)} is stored", 404)
            return iter([data])

    with tempfile.TemporaryDirectory(prefix="ef-tuf-") as folder:
        try:
            updater = Updater(folder, _URL, fetcher=Stored(), config=UpdaterConfig(max_delegations=8), bootstrap=root)
            updater._trusted_set.reference_time = now  # the client has no argument for its clock
            updater.refresh()
            target = updater.get_targetinfo(path)
        except tuf_errors.DownloadError as error:
            raise RepositoryMissingError(
                f"the stored metadata is not whole: {error}", next_step="restore the database from a backup"
            ) from error
        except tuf_errors.ExpiredMetadataError as error:
            raise RepositoryStaleError(f"the stored metadata has expired: {error}") from error
        except tuf_errors.RepositoryError as error:
            raise RepositoryUnsoundError(f"the stored metadata does not hold: {error}") from error
        keys, threshold = _director(updater._trusted_set.targets)
    return FoundByClient(target, keys, threshold)


def _director(targets: Targets) -> tuple[tuple[PublicKey, ...], int]:
    """Return the keys that may sign desired documents, and how many must. Raises RepositoryUnsoundError when none may."""
    delegations = targets.delegations
    role = (delegations.roles or {}).get(_DIRECTOR) if delegations is not None else None
    if delegations is None or role is None:
        raise RepositoryUnsoundError("the targets role delegates no director")
    found = (delegations.keys[keyid] for keyid in role.keyids if keyid in delegations.keys)
    keys = tuple(PublicKey(key.keyid, key.keytype, key.scheme, str(key.keyval["public"])) for key in found)
    return keys, role.threshold
