"""Starts whatever a program does with a CloudEvent of type `edgefleet.retraining.start`. Pure.

Made and signed as the messages of webhooks are (`webhook.rules`): every try of one retraining has the same `webhook-id`. A webhook of Argo
Events takes it as it is; it checks no signature but a bearer token, so a secret that is no signing key is sent as one.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from edgefleet_server.retraining.launchers.launch_notice import message_of
from edgefleet_server.retraining.launchers.model import Launched, LaunchNotice, LaunchRequest, WebhookTarget
from edgefleet_server.webhook.rules import SECRET_PREFIX, cloud_event, headers_of

TYPE: Final = "edgefleet.retraining.start"


def request_of(to: WebhookTarget, secret: str, notice: LaunchNotice, source: str, now: datetime) -> LaunchRequest:
    """Return the request. source: of the CloudEvents of this server."""
    number = f"start-{notice.retraining}"
    body = msgspec.json.encode(cloud_event(number, TYPE, source, now, notice.retraining, message_of(notice)))
    is_key = secret.startswith(SECRET_PREFIX)
    headers = headers_of(number, body, [secret] if is_key else [], now)
    if not is_key:
        del headers["webhook-signature"]
        headers["authorization"] = f"Bearer {secret}"
    return LaunchRequest(to.url, headers, body)


def launched_of(answer: Any) -> Launched:
    """Return what was started. answer: the JSON of it; its `id` and `url` are taken where it has them."""
    if not isinstance(answer, dict):
        return Launched()
    return Launched(str(answer.get("id") or "")[:100], str(answer.get("url") or ""))
