"""What making or checking an archive of evidence can end with."""

from __future__ import annotations

from edgefleet_cli.core.errors import CliError


class EvidenceNotProvenError(CliError):
    """An archive was changed, is damaged, or is not signed by whom it should be."""

    code = "cli.evidence_not_proven"


class EvidenceFailedError(CliError):
    """The server could not finish an archive."""

    code = "cli.evidence_failed"
    default_next_step = "see the server's log, and make the archive again"
