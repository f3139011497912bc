"""What keeping the files of a broker can end with."""

from __future__ import annotations

from edgefleet_cli.core.errors import CliError


class BrokerTrustError(CliError):
    """What the server gave, or what lies in the folder, must not be put before a broker. Nothing was changed."""

    code = "cli.broker_trust"


class BrokerReloadError(CliError):
    """The files are there, and the command that has the broker read them failed."""

    code = "cli.broker_reload"
    default_next_step = "mend the command; the next run calls it again"
