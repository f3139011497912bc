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


def named(address: Address | None, name: str | None, version: str | None) -> tuple[str, str]:
    """Return name and version of a release as `registered` does. Raises UsageError when one is missing."""
    name, version = registered(address, name, version)
    for flag, given, example in (("--name", name, "digits"), ("--version", version, "1.0.0")):
        if not given:
            raise UsageError(
                f"{flag} is missing",
                why="only an mlflow: address has one of its own",
                next_step=f"add {flag} {example}",
            )
    return str(name), str(version)
