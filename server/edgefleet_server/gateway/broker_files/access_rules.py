"""The answers that RabbitMQ is given: who may connect, which queue is whose, who publishes and subscribes where. Pure.

RabbitMQ sends form fields and expects `allow` or `deny`. It writes MQTT topics as routing keys: `/` as `.`, `+` as `*`, and `.` as `/`.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX, parse_device_id
from edgefleet_protocol.topics import may

EXCHANGE = "amq.topic"
_TO_MQTT = str.maketrans({".": "/", "*": "+", "/": "."})


def is_allowed(tenant: str, question: str, fields: Mapping[str, str]) -> bool:
    """Answer one question. question: `user`, `vhost`, `resource` or `topic`; what is not understood is denied."""
    name = fields.get("username", "")
    if not _is_ours(name):
        return False
    match question:
        case "user":
            return fields.get("client_id") == name
        case "vhost":
            return fields.get("vhost") == "/"
        case "resource":
            return _may_use(name, fields.get("resource", ""), fields.get("name", ""), fields.get("permission", ""))
        case "topic":
            topic = fields.get("routing_key", "").translate(_TO_MQTT)
            return fields.get("name") == EXCHANGE and may(tenant, name, topic, fields.get("permission") == "write")
    return False


def _is_ours(name: str) -> bool:
    if name.startswith(SERVER_ACCOUNT_PREFIX):
        return True
    try:
        parse_device_id(name)
    except EdgefleetError:
        return False
    return True


def _may_use(name: str, kind: str, resource: str, permission: str) -> bool:
    if kind == "exchange":
        return resource == EXCHANGE and permission in ("read", "write")
    return kind == "queue" and resource in {
        f"mqtt-subscription-{name}qos0",
        f"mqtt-subscription-{name}qos1",
        f"mqtt-will-{name}",
    }
