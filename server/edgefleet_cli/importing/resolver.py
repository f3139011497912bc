"""MODEL as a command takes it: a local file or folder as it is, an address as what is fetched from there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgefleet_cli.core.session import Session
from edgefleet_cli.importing.addresses import Address, DvcAddress, HttpAddress, MlflowAddress, S3Address
from edgefleet_cli.importing.fetch_context import FetchContext, Fetched, ImportFailedError, budget_from
from edgefleet_cli.release.conversion.model_files import locate


@contextmanager
def resolved(session: Session, model: str, address: Address | None, mlflow_url: str | None = None) -> Iterator[Fetched]:
    """Yield the local file or folder that MODEL stands for; what was fetched is gone afterwards.

    address: what `parse_address` or `pinned` made of MODEL. Raises UsageError, UnreadableFileError, ImportFailedError,
    MissingPartError.
    """
    if address is None:
        from edgefleet_cli.importing.git import lineage_of

        path = locate(model)
        yield Fetched(path, lineage_of(path))
        return
    with tempfile.TemporaryDirectory(prefix="edgefleet-import-") as folder:
        yield fetch(address, Path(folder), fetch_context_of(session, mlflow_url))


def fetch_context_of(
    session: Session, mlflow_url: str | None = None, environ: Mapping[str, str] | None = None
) -> FetchContext:
    """Return what a command fetches with."""
    env = dict(os.environ if environ is None else environ)
    return FetchContext(budget_from(env), session.clock, session.out.note, env, mlflow_url or "")


def fetch(address: Address, folder: Path, context: FetchContext) -> Fetched:
    """Fetch what an address stands for into `folder`. Raises ImportFailedError and what the sources raise."""
    try:
        if isinstance(address, MlflowAddress):
            from edgefleet_cli.importing.mlflow import fetch_mlflow

            return fetch_mlflow(address, folder, context)
        if isinstance(address, HttpAddress):
            from edgefleet_cli.importing.http_source import fetch_http

            return fetch_http(address, folder, context)
        if isinstance(address, S3Address):
            from edgefleet_cli.importing.s3 import fetch_s3

            return fetch_s3(address, folder, context)
        assert isinstance(address, DvcAddress)
        from edgefleet_cli.importing.dvc import fetch_dvc

        return fetch_dvc(address, folder, context)
    except OSError as error:  # a full disk, or names of the source that get in each other's way
        raise ImportFailedError(
            f"cannot write what {address} holds",
            why=error.strerror or str(error),
            next_step="check the space in the temporary folder (TMPDIR) and in the cache",
        ) from error
