"""The walk of a TUF client from the root of trust that this machine pinned to a target, over the files that the server shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgefleet_cli.audit.audit_state import AuditState
from edgefleet_cli.audit.errors import TrailNotProvenError
from edgefleet_cli.core.errors import ApiError, CliError, UnreadableFileError

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # documented there, but not in __all__
    from tuf.ngclient.updater import Updater

    from edgefleet_cli.core.transport.api_client import ApiClient

_URL = "ef://repository/"
_GONE = 404


def walked(
    api: ApiClient, state: AuditState, root: bytes, now: datetime, path: str, *, may_be_over: bool = False
) -> tuple[Updater, TargetFile | None]:
    """Return the client after its walk to a target, and the target, None where nothing signed names it. root: the pinned one.

    may_be_over: take a delegated role whose life has ended, as who is to prolong it has to; the snapshot that names it must hold today.
    What an earlier walk trusted is kept in `state`: a server that shows something older is found out. Raises TrailNotProvenError, CliError.
    """
    from tuf.api import exceptions as tuf_errors
    from tuf.ngclient.config import UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface
    from tuf.ngclient.updater import Updater

    failed: list[CliError] = []

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.removeprefix(_URL)
            try:
                return iter([metadata_file(api, name)])
            except ApiError as error:
                if error.status == _GONE:
                    raise tuf_errors.DownloadHTTPError(f"the server has no {name}", _GONE) from error
                failed.append(error)
                raise tuf_errors.DownloadError(error.message) from error
            except CliError as error:
                failed.append(error)
                raise tuf_errors.DownloadError(error.message) from error

    try:
        state.tuf_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        updater = Updater(
            str(state.tuf_folder), _URL, fetcher=Fetcher(), config=UpdaterConfig(max_delegations=8), bootstrap=root
        )
        updater._trusted_set.reference_time = now  # the client has no argument for its clock
        updater.refresh()
        if may_be_over:
            updater._trusted_set.reference_time = datetime.min.replace(tzinfo=UTC)
        return updater, updater.get_targetinfo(path)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot use {state.tuf_folder}", why=str(error), next_step="check its owner and mode"
        ) from error
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
        if failed:
            raise failed[-1] from error
        raise TrailNotProvenError(
            "the server's signed metadata does not hold",
            why=str(error),
            next_step=f"where the server was made anew, put {state.folder} aside; else tell its owner",
        ) from error


def metadata_file(api: ApiClient, name: str) -> bytes:
    """Return a TUF file by the name that clients ask for. Raises ApiError."""
    return api.read(f"/trust/metadata/{name}")
