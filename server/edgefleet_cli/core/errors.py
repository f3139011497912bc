"""What can go wrong in `edgectl`, and the exit code of each.

An error is always four lines: what failed, why, what to do next, and its code. Exit codes are part of the interface:

0 done, 1 failed, 2 wrong usage, 3 cancelled or declined, 4 not logged in or not allowed, 5 not found,
6 conflict, 7 rollout failed, went back or finished in part, 8 timed out waiting, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgefleet_protocol.errors import EdgefleetError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CANCELLED = 3
EXIT_AUTH = 4
EXIT_NOT_FOUND = 5
EXIT_CONFLICT = 6
EXIT_ROLLOUT_FAILED = 7
EXIT_TIMEOUT = 8
EXIT_INTERRUPTED = 130

_EXIT_BY_STATUS = {
    400: EXIT_USAGE,
    401: EXIT_AUTH,
    403: EXIT_AUTH,
    404: EXIT_NOT_FOUND,
    409: EXIT_CONFLICT,
    410: EXIT_NOT_FOUND,
    412: EXIT_CONFLICT,
    422: EXIT_USAGE,
}

_EXIT_BY_CODE = {"id.bad": EXIT_USAGE, "profile.bad": EXIT_USAGE, "profile.unknown": EXIT_NOT_FOUND}


def exit_code_of(error: EdgefleetError) -> int:
    """Return the exit code for any edgefleet error; errors of other packages know none and are looked up by code."""
    if isinstance(error, CliError):
        return error.exit_code
    return _EXIT_BY_CODE.get(error.code, EXIT_FAILED)


class CliError(EdgefleetError):
    """The command failed.

    Attributes: `message` says what failed, `why` the cause, `next_step` what to do; `foreign_code` is the code of the server or of a child
    process where it refused something.
    """

    code = "cli.failed"
    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, why: str = "", next_step: str = "", foreign_code: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.why = why
        self.foreign_code = foreign_code


class UsageError(CliError):
    """The command line is not valid."""

    code = "cli.usage"
    exit_code = EXIT_USAGE


class DeclinedError(CliError):
    """A confirmation was refused, or was needed and could not be asked."""

    code = "cli.declined"
    exit_code = EXIT_CANCELLED


class NotLoggedInError(CliError):
    """There is no token for this server."""

    code = "cli.not_logged_in"
    exit_code = EXIT_AUTH


class NotYetError(CliError):
    """This version does not support the request yet."""

    code = "cli.not_yet"
    exit_code = EXIT_USAGE


class WaitTimeoutError(CliError):
    """The wait timed out; nothing was undone."""

    code = "cli.wait_timeout"
    exit_code = EXIT_TIMEOUT


class DeviceNotShownError(CliError):
    """The device does not show its answers."""

    code = "cli.device_not_shown"


class ServerUnreachableError(CliError):
    """No answer from the server: refused, no such host, bad certificate or silence."""

    code = "cli.server_unreachable"


class UntrustedServerError(ServerUnreachableError):
    """The server's certificate is not one that is trusted: waiting does not mend that."""


class BadAnswerError(CliError):
    """The answer is not from an edgefleet server."""

    code = "cli.bad_answer"


class ApiError(CliError):
    """The server answered with a problem document.

    Attributes: `status` HTTP status, `foreign_code` the server's stable code, `request_id` for its log.
    """

    def __init__(
        self, message: str, *, status: int, code: str, request_id: str, why: str = "", next_step: str = ""
    ) -> None:
        super().__init__(message, why=why, next_step=next_step, foreign_code=code)
        self.status = status
        self.request_id = request_id
        self.exit_code = _EXIT_BY_STATUS.get(status, EXIT_FAILED)


@contextmanager
def explained() -> Iterator[None]:
    """Add why and the next step to a refusal as notes: a caller in Python sees only its traceback."""
    try:
        yield
    except EdgefleetError as error:
        for word, text in (("why", error.why if isinstance(error, CliError) else ""), ("next", error.next_step)):
            if text:
                error.add_note(f"{word}: {text}")
        raise


class UnreadableFileError(CliError):
    """A named file is not there or cannot be read."""

    code = "cli.unreadable_file"
    exit_code = UsageError.exit_code
