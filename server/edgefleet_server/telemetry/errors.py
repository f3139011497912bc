"""Errors of the telemetry feature."""

from edgefleet_protocol.errors import EdgefleetError


class CaptureUnknownError(EdgefleetError):
    """The device has no such fetch or record."""

    code = "telemetry.capture_unknown"


class NoCaptureKeyError(EdgefleetError):
    """The tenant has no key to seal captured records to."""

    code = "telemetry.no_capture_key"
