"""What `/readyz` asks of the database, the keys and a server that is about to stop."""

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.composition.container import Parts
from edgefleet_server.setting_sources import SettingsError


class StoppingError(EdgefleetError):
    """The server has been asked to stop."""

    code = "server.stopping"


def refuse_to_be_ready() -> str:
    """Raise StoppingError. Source: ADR 0145."""
    raise StoppingError("the server is about to stop", next_step="send requests to another one")


def database_line(parts: Parts) -> str:
    """Return which database is used, after it has taken a write. Raises DatabaseUnavailableError."""
    parts.db.ping()
    parts.db.check_writing()
    return "sqlite" if parts.db.is_sqlite else "postgresql"


def keys_line(parts: Parts) -> str:
    """Return that the keys are there. Raises SettingsError."""
    if not parts.signing.is_initialised():
        raise SettingsError("keys or TUF metadata are missing", next_step="restore the key folder from the backup")
    return "keys and TUF metadata are there"
