"""Why a captured answer cannot be explained."""

from __future__ import annotations

from edgefleet_cli.core.errors import EXIT_NOT_FOUND, CliError


class NotCapturedError(CliError):
    """The server has no captured record of this trace."""

    code = "cli.not_captured"
    exit_code = EXIT_NOT_FOUND


class OtherKeyError(CliError):
    """The record is sealed to another capture key."""

    code = "cli.other_key"


class NotExplainableError(CliError):
    """The record, the model or the data to compare with is not enough to explain the answer."""

    code = "cli.not_explainable"
