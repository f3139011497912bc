"""What alerts, their rules, silences and maintenance windows refuse."""

from edgefleet_server.alerting.errors import AlertError


class AlertUnknownError(AlertError):
    """No alert has this id."""

    code = "alert.unknown"


class RuleUnknownError(AlertError):
    """No rule has this name."""

    code = "alert.rule_unknown"


class BadRuleError(AlertError):
    """A rule cannot be changed like this."""

    code = "alert.bad_rule"


class SilenceUnknownError(AlertError):
    """No silence has this id."""

    code = "alert.silence_unknown"


class BadSilenceError(AlertError):
    """A silence that would match nothing, or that is over already."""

    code = "alert.bad_silence"


class WindowUnknownError(AlertError):
    """No maintenance window has this id."""

    code = "alert.window_unknown"


class BadWindowError(AlertError):
    """The times of a maintenance window cannot be read."""

    code = "alert.bad_window"


class AlertOverError(AlertError):
    """The alert has ended, so nobody needs to take care of it."""

    code = "alert.over_conflict"
