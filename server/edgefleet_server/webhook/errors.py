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
    """These are not types of events."""

    code = "webhook.bad_types"


class TooManyWebhooksError(WebhookError):
    """The limit of webhooks is reached."""

    code = "webhook.limit_conflict"


class SecretMissingError(WebhookError):
    """The webhook has no secret that signs what it sends: it was deleted with a lost sealing key."""

    code = "webhook.secret_missing"
    default_next_step = "make another secret: `edgectl webhook rotate WEBHOOK_ID`"


class WebhookDisabledError(WebhookError):
    """The webhook is disabled: nothing is sent to it any more."""

    code = "webhook.disabled_conflict"
