"""Errors of the telemetry feature."""

from edgefleet_protocol.errors import EdgefleetError


class CaptureUnknownError(EdgefleetError):
    """The device has no such fetch or record."""

    code = "telemetry.capture_unknown"


class NoCaptureKeyError(EdgefleetError):
    """The tenant has no key to seal captured records to."""

    code = "telemetry.no_capture_key"


class BadSpanError(EdgefleetError):
    """A span of time that ends before it begins."""

    code = "telemetry.bad_span"
    default_next_step = "choose a `since` that is before `until`; without `until` it ends now"
