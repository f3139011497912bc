"""What goes wrong around a conversion (not what the converters refuse: that is theirs to say)."""

from edgefleet_protocol.errors import EdgefleetError


class ConversionError(EdgefleetError):
    """Base of all failures of this feature."""

    code = "conversion.failed"


class LeaseLostError(ConversionError):
    """Another worker took the job over, because this one was silent too long."""

    code = "conversion.lease_lost"


class ChildCrashError(ConversionError):
    """The conversion process ended without an answer."""

    code = "conversion.child_crashed"


class SandboxMissingError(ConversionError):
    """The conversion process would have run with rights that it must not have, so it was not started."""

    code = "conversion.no_sandbox"


class ChildKilledError(ConversionError):
    """The conversion process was ended by SIGKILL from outside, as a system without memory does."""

    code = "conversion.child_killed"


class ChildTimeoutError(ConversionError):
    """The conversion process took longer than it is allowed to."""

    code = "conversion.timeout"


class OutputTooLargeError(ConversionError):
    """The conversion process wrote more than it is allowed to."""

    code = "conversion.output_too_large"


class BadAnswerError(ConversionError):
    """The answer of the conversion process cannot be trusted."""

    code = "conversion.bad_answer"


class ChildRefusalError(ConversionError):
    """The converters refused the whole job; `code` of the instance is theirs."""

    code = "conversion.refused"

    def __init__(self, message: str, *, code: str, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.child_code = code


class NothingToCancelError(ConversionError):
    """The release has no queued or running conversion."""

    code = "conversion.over"


class ReportUnknownError(ConversionError):
    """No conversion of the release has left a report (yet)."""

    code = "conversion.report_unknown"


class ReportBrokenError(ConversionError):
    """The stored report cannot be shown as a page."""

    code = "conversion.report_broken"


class ReportUnavailableError(ConversionError):
    """Too many report pages are being made at the same time."""

    code = "conversion.report_unavailable"


class ProofNotMadeError(ConversionError):
    """The server could not check a release itself, which says nothing about it."""

    code = "conversion.proof_not_made"


class StoppedError(ConversionError):
    """The worker was asked to stop in the middle of a job."""

    code = "conversion.stopped"
