"""What a look at an audit trail can end with."""

from __future__ import annotations

from edgefleet_cli.core.errors import CliError


class TrailNotProvenError(CliError):
    """What was shown of the audit trail does not hold, or is not signed by whom it should be."""

    code = "cli.audit_not_proven"


class NoHeadYetError(CliError):
    """The server has published no head of its audit trail yet."""

    code = "cli.audit_no_head"
