"""Which version an address stands for, and what the release made of it is called."""

from __future__ import annotations

from dataclasses import replace

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.importing.addresses import Address, MlflowAddress, parse_address


def pinned(session: Session, model: str, mlflow_url: str | None) -> Address | None:
    """Return the address that MODEL is, an alias with the version that it stands for now; None for what lies here.

    Everything afterwards goes by the version: an alias may move between two questions. Raises UsageError, ImportFailedError.
    """
    address = parse_address(model)
    if not isinstance(address, MlflowAddress) or address.version:
        return address
    from edgefleet_cli.importing.mlflow import Registry
    from edgefleet_cli.importing.resolver import fetch_context_of

    with Registry(fetch_context_of(session, mlflow_url)) as registry:
        found = replace(address, version=registry.resolve(address).version)
    session.out.note(f"{address} is version {found.version}")
    return found


def registered(address: Address | None, name: str | None, version: str | None) -> tuple[str | None, str | None]:
    """Return the name and version that the flags give, else those of a registry; None for what neither says."""
    if isinstance(address, MlflowAddress):
        return name or address.release_name, version or address.version
    return name, version


def named(
    session: Session, model: str, address: Address | None, name: str | None, version: str | None
) -> tuple[str, str]:
    """Return name and version of a release as `registered` does, else those in the name of its file; what was taken from there is noted.

    Raises UsageError where no version is found, UnreadableFileError for a file that is not there.
    """
    from edgefleet_cli.release.conversion.conversion_options import DEFAULT_VERSION, named_by
    from edgefleet_cli.release.conversion.model_files import locate

    if address is None:
        locate(model)
    name, version = registered(address, name, version)
    own_name, own_version = named_by(model, name, version)
    if not version and own_version == DEFAULT_VERSION:
        raise UsageError(
            "--version is missing",
            why="the file's name has none, as digits-1.0.0.onnx would",
            next_step="add --version 1.0.0",
        )
    if not name or not version:
        taken = [word for word, given in (("name", name), ("version", version)) if not given]
        session.out.note(f"publishing {own_name}@{own_version}: {' and '.join(taken)} from the file's name")
    return own_name, own_version
