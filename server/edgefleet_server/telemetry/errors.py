"""Errors of the telemetry feature."""

from edgefleet_protocol.errors import EdgefleetError


class CaptureUnknownError(EdgefleetError):
    """There is no such fetch or record of that device."""

    code = "telemetry.capture_unknown"


class NoCaptureKeyError(EdgefleetError):
    """The tenant has no key that captured records could be sealed to."""

    code = "telemetry.no_capture_key"
