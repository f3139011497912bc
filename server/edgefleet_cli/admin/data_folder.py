"""Where a server's data lies when no folder is named, and which folders a new server may take. Source: ADR 0075."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgefleet_cli.core.errors import UsageError

SYSTEM_DATA = Path("/var/lib/edgefleet-server")
"""Of the systemd unit."""

_SECRET = ("admin.token", "keys", "edgefleet.db", "server.toml", "blobs", "broker", "run")
"""What a server puts there."""
_KEYS = ("device-ca.crt", "root.pem", "targets.pem")
"""Of the files in `keys`: one of them is left even where some were moved to a safe place."""


def default_data(environment: Mapping[str, str] = os.environ, system: Path = SYSTEM_DATA) -> Path:
    """Return the data folder when none is named: EDGEFLEET_SERVER_DATA; else that of an installed service, where it exists and this user
    may write there; else one in the user's data folder, `$XDG_DATA_HOME/edgefleet/server` or `~/.local/share/edgefleet/server`.
    """
    if named := environment.get("EDGEFLEET_SERVER_DATA"):
        return Path(named).absolute()
    if os.access(system, os.W_OK | os.X_OK):
        return system
    import platformdirs

    return Path(platformdirs.user_data_path("edgefleet")) / "server"


def data_flag(folder: Path) -> str:
    """Return ` --data DIR` as a command that is suggested needs it: nothing for the default folder."""
    return "" if folder.absolute() == default_data().absolute() else f" --data {folder}"


def holds_server(folder: Path) -> bool:
    """Say whether a server was made in a folder."""
    return (folder / "server.toml").is_file() or any((folder / "keys" / name).is_file() for name in _KEYS)


def check_new(folder: Path) -> None:
    """Raise UsageError where a new server must not be made: among other files, or where git would commit its keys."""
    from edgefleet_agent.enrolment.folder_guard import look, refusal

    try:
        found = refusal(look(folder, _SECRET), (), "--data", default_data())
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be used", why=error.strerror or str(error), next_step="choose a folder with --data DIR"
        ) from error
    if found is not None:
        raise UsageError(found.what, why=found.why, next_step=found.next_step)
