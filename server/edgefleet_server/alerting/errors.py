"""What alert receivers refuse."""

from edgefleet_protocol.errors import EdgefleetError


class AlertError(EdgefleetError):
    """Base of all refusals of this feature."""

    code = "alert.failed"


class BadHookTokenError(AlertError):
    """The token in the URL is unknown or malformed. Says no more, so that nothing can be learned by guessing."""

    code = "alert.unauthorized"


class ReceiverUnknownError(AlertError):
    """No alert receiver has this id."""

    code = "alert.receiver_unknown"


class BadMatcherError(AlertError):
    """A matcher cannot be read."""

    code = "alert.bad_matcher"


class BadPayloadError(AlertError):
    """The body is not a notification of Alertmanager's webhook, version 4."""

    code = "alert.bad_payload"
