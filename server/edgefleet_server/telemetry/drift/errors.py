"""Errors of drift."""

from edgefleet_protocol.errors import EdgefleetError


class SignalUnknownError(EdgefleetError):
    """The release has no such signal."""

    code = "drift.signal_unknown"


class NoBaselineError(EdgefleetError):
    """No period was chosen as normal for the release."""

    code = "drift.no_baseline"
    default_next_step = "choose one: `edgectl drift baseline set MODEL@VERSION --since 7d`"


class NothingCountedError(EdgefleetError):
    """Devices counted nothing of the release in the period, or too little."""

    code = "drift.nothing_counted"


class BadPeriodError(EdgefleetError):
    """The period is none, or longer ago than what is kept."""

    code = "drift.bad_period"
