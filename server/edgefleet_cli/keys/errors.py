"""What can go wrong with offline keys."""

from __future__ import annotations

from edgefleet_cli.core.errors import EXIT_USAGE, CliError


class RootNotTrustedError(CliError):
    """A request stands on a root of trust that this holder has never signed and that nobody vouches for."""

    code = "cli.root_not_trusted"


class ProposalRefusedError(CliError):
    """What a server asks a team to sign is not just what was to be signed."""

    code = "cli.proposal_refused"


class BadMediumError(CliError):
    """A medium holds something else than the keys that it should, or its keys do not open."""

    code = "cli.bad_medium"
    exit_code = EXIT_USAGE


class BadRequestFileError(CliError):
    """A file of a ceremony cannot be read, or is not of the kind that it should be."""

    code = "cli.bad_request_file"
    exit_code = EXIT_USAGE
