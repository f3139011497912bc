"""What webhooks refuse."""

from edgefleet_protocol.errors import EdgefleetError


class WebhookError(EdgefleetError):
    """Base of all refusals of this feature."""

    code = "webhook.failed"


class WebhookUnknownError(WebhookError):
    """No webhook has this id."""

    code = "webhook.unknown"


class DeliveryUnknownError(WebhookError):
    """The webhook has no such delivery."""

    code = "webhook.delivery_unknown"


class BadTypesError(WebhookError):
    """What is to be sent is not named by types of events."""

    code = "webhook.bad_types"


class TooManyWebhooksError(WebhookError):
    """There are as many webhooks as there may be."""

    code = "webhook.limit_conflict"


class WebhookDisabledError(WebhookError):
    """The webhook was switched off: nothing is sent to it any more."""

    code = "webhook.disabled_conflict"
