"""The policy: which role each route under `/api/v1` needs. One table; a route that is not in it is refused to everybody.

A token is `edg_<id>_<secret>`: id 12 characters of lower-case base32, secret 256 random bits in base64url. The code of a login
link and the cookie of a session are `<id>_<secret>` of the same kind.
"""

import re
from collections.abc import Mapping
from typing import Final

from edgefleet_server.access.model import Role

_TOKEN = re.compile(r"edg_([a-z2-7]{12})_([A-Za-z0-9_-]{43})")
_KEY = re.compile(r"([a-z2-7]{12})_([A-Za-z0-9_-]{43})")

API_PREFIX: Final = "/api/v1"

POLICY: Final[Mapping[tuple[str, str], Role]] = {
    ("GET", "/whoami"): Role.VIEWER,
    ("GET", "/tokens"): Role.ADMIN,
    ("POST", "/tokens"): Role.ADMIN,
    ("GET", "/tokens/{token_id}"): Role.ADMIN,
    ("DELETE", "/tokens/{token_id}"): Role.ADMIN,
    ("GET", "/people"): Role.ADMIN,
    ("POST", "/people"): Role.ADMIN,
    ("GET", "/people/{person_id}"): Role.ADMIN,
    ("PATCH", "/people/{person_id}"): Role.ADMIN,
    ("POST", "/invitations"): Role.ADMIN,
    ("POST", "/login-links"): Role.VIEWER,
    ("GET", "/audit"): Role.AUDITOR,
    ("GET", "/audit/chain"): Role.AUDITOR,
    ("GET", "/audit/entries"): Role.AUDITOR,
    ("GET", "/audit/entries/{n}/proof"): Role.AUDITOR,
    ("GET", "/audit/heads"): Role.AUDITOR,
    ("GET", "/audit/heads/{size}"): Role.AUDITOR,
    ("PUT", "/blobs/{sha256}"): Role.PUBLISHER,
    ("HEAD", "/blobs/{sha256}"): Role.VIEWER,
    ("GET", "/blobs/{sha256}"): Role.VIEWER,
    ("POST", "/releases"): Role.PUBLISHER,
    ("GET", "/releases"): Role.VIEWER,
    ("GET", "/releases/{ref}"): Role.VIEWER,
    ("GET", "/releases/{ref}/devices"): Role.VIEWER,
    ("GET", "/releases/{ref}/report"): Role.VIEWER,
    ("GET", "/releases/{ref}/report.html"): Role.VIEWER,
    ("GET", "/tools"): Role.PUBLISHER,
    ("DELETE", "/releases/{ref}"): Role.PUBLISHER,
    ("POST", "/releases/{ref}:cancel"): Role.PUBLISHER,
    ("POST", "/releases/{ref}:end-search"): Role.PUBLISHER,
    ("POST", "/releases/{ref}:withdraw"): Role.OPERATOR,
    ("GET", "/releases/{ref}/performance"): Role.VIEWER,
    ("GET", "/models/{name}/accuracy"): Role.VIEWER,
    ("POST", "/models/{name}/feedback"): Role.OPERATOR,
    ("GET", "/models/{name}/feedback"): Role.VIEWER,
    ("GET", "/models/{name}/feedback/{upload_id}"): Role.VIEWER,
    ("GET", "/releases/{ref}/drift-baseline"): Role.VIEWER,
    ("PUT", "/releases/{ref}/drift-baseline"): Role.OPERATOR,
    ("DELETE", "/releases/{ref}/drift-baseline"): Role.OPERATOR,
    ("POST", "/releases/{ref}:deploy"): Role.OPERATOR,
    ("GET", "/models"): Role.VIEWER,
    ("GET", "/models/{name}"): Role.VIEWER,
    ("GET", "/models/{name}/aliases"): Role.VIEWER,
    ("GET", "/models/{name}/aliases/{alias}"): Role.VIEWER,
    ("PUT", "/models/{name}/aliases/{alias}"): Role.PUBLISHER,
    ("DELETE", "/models/{name}/aliases/{alias}"): Role.PUBLISHER,
    ("GET", "/models/{name}/compare"): Role.VIEWER,
    ("GET", "/models/{name}/drift"): Role.VIEWER,
    ("GET", "/models/{name}/drift/{signal}"): Role.VIEWER,
    ("GET", "/bundles"): Role.VIEWER,
    ("GET", "/bundles/{sha256}"): Role.VIEWER,
    ("GET", "/keys"): Role.VIEWER,
    ("GET", "/keys/{role}"): Role.VIEWER,
    ("GET", "/signing-requests"): Role.VIEWER,
    ("POST", "/signing-requests"): Role.ADMIN,
    ("GET", "/signing-requests/{request_id}"): Role.VIEWER,
    ("POST", "/signing-requests/{request_id}:sign"): Role.ADMIN,
    ("POST", "/signing-requests/{request_id}:drop"): Role.ADMIN,
    ("POST", "/keys/{role}:rotate"): Role.ADMIN,
    ("POST", "/keys/{role}:revoke"): Role.ADMIN,
    ("GET", "/signing-progress"): Role.VIEWER,
    ("GET", "/trust"): Role.VIEWER,
    ("GET", "/trust/metadata/{file}"): Role.VIEWER,
    ("GET", "/recovery"): Role.ADMIN,
    ("POST", "/recovery:sign"): Role.ADMIN,
    ("GET", "/search"): Role.VIEWER,
    ("GET", "/prometheus/sd"): Role.VIEWER,
    ("GET", "/profiles"): Role.VIEWER,
    ("GET", "/profiles/{name}"): Role.VIEWER,
    ("GET", "/profiles/{name}/cost"): Role.VIEWER,
    ("GET", "/devices"): Role.VIEWER,
    ("POST", "/devices:label"): Role.OPERATOR,
    ("GET", "/devices/{device_id}"): Role.VIEWER,
    ("PATCH", "/devices/{device_id}"): Role.OPERATOR,
    ("DELETE", "/devices/{device_id}"): Role.OPERATOR,
    ("POST", "/devices/{device_id}:clear-suspicion"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/events"): Role.VIEWER,
    ("GET", "/devices/{device_id}/explain"): Role.VIEWER,
    ("GET", "/devices/{device_id}/telemetry"): Role.VIEWER,
    ("GET", "/devices/{device_id}/metrics"): Role.VIEWER,
    ("GET", "/devices/{device_id}/metrics.csv"): Role.VIEWER,
    ("GET", "/groups/{name}/metrics"): Role.VIEWER,
    ("GET", "/groups/{name}/metrics.csv"): Role.VIEWER,
    ("GET", "/models/{name}/metrics"): Role.VIEWER,
    ("GET", "/models/{name}/metrics.csv"): Role.VIEWER,
    ("GET", "/models/{name}/latency-explanation"): Role.VIEWER,
    ("GET", "/fleet/metrics"): Role.VIEWER,
    ("GET", "/fleet/metrics.csv"): Role.VIEWER,
    ("POST", "/devices/{device_id}:watch"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/predictions"): Role.OPERATOR,
    ("POST", "/devices/{device_id}/captures:fetch"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/captures:fetch/{fetch_id}"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/captures"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/captures/{record}"): Role.OPERATOR,
    ("GET", "/capture-key"): Role.VIEWER,
    ("PUT", "/capture-key"): Role.ADMIN,
    ("DELETE", "/capture-key"): Role.ADMIN,
    ("GET", "/prediction-logs"): Role.VIEWER,
    ("GET", "/prediction-logs/{model}"): Role.VIEWER,
    ("PUT", "/prediction-logs/{model}"): Role.ADMIN,
    ("DELETE", "/prediction-logs/{model}"): Role.ADMIN,
    ("GET", "/prediction-logs/{model}/verification"): Role.AUDITOR,
    ("GET", "/prediction-logs/{model}/files"): Role.AUDITOR,
    ("GET", "/prediction-logs/{model}/files/{sha256}"): Role.AUDITOR,
    ("POST", "/erasures"): Role.ADMIN,
    ("GET", "/erasures"): Role.AUDITOR,
    ("GET", "/erasures/{erasure_id}"): Role.AUDITOR,
    ("POST", "/devices/{device_id}/tasks"): Role.OPERATOR,
    ("POST", "/devices:task"): Role.OPERATOR,
    ("GET", "/devices/{device_id}/tasks"): Role.VIEWER,
    ("GET", "/devices/{device_id}/tasks/{task_id}"): Role.VIEWER,
    ("GET", "/devices/{device_id}/tasks/{task_id}/result"): Role.OPERATOR,
    ("GET", "/enrollments"): Role.VIEWER,
    ("POST", "/enrollments"): Role.OPERATOR,
    ("GET", "/enrollments/{claim_id}"): Role.VIEWER,
    ("DELETE", "/enrollments/{claim_id}"): Role.OPERATOR,
    ("GET", "/enrollments/pending"): Role.VIEWER,
    ("POST", "/enrollments/pending:approve"): Role.OPERATOR,
    ("POST", "/enrollments/pending:reject"): Role.OPERATOR,
    ("GET", "/events"): Role.VIEWER,
    ("GET", "/events/stream"): Role.VIEWER,
    ("GET", "/fleet/summary"): Role.VIEWER,
    ("POST", "/rollouts"): Role.OPERATOR,
    ("POST", "/rollouts:plan"): Role.VIEWER,
    ("POST", "/rollouts:undo"): Role.OPERATOR,
    ("GET", "/rollouts"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/plan"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/devices"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/decisions"): Role.VIEWER,
    ("POST", "/rollouts/{rollout_id}:pause"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:resume"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:abort"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:promote"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:skip"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:retry"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}:approve"): Role.VIEWER,  # and the role that the stage asks for
    ("POST", "/rollouts/{rollout_id}:deny"): Role.VIEWER,
    ("GET", "/experiments"): Role.VIEWER,
    ("GET", "/experiments/{rollout_id}"): Role.VIEWER,
    ("GET", "/rollout-strategies"): Role.VIEWER,
    ("GET", "/rollout-strategies/{name}"): Role.VIEWER,
    ("POST", "/webhooks"): Role.ADMIN,
    ("GET", "/webhooks"): Role.OPERATOR,
    ("GET", "/webhooks/{webhook_id}"): Role.OPERATOR,
    ("DELETE", "/webhooks/{webhook_id}"): Role.ADMIN,
    ("POST", "/webhooks/{webhook_id}:rotate"): Role.ADMIN,
    ("POST", "/webhooks/{webhook_id}:ping"): Role.OPERATOR,
    ("GET", "/webhooks/{webhook_id}/deliveries"): Role.OPERATOR,
    ("GET", "/webhooks/{webhook_id}/deliveries/{delivery_id}"): Role.OPERATOR,
    ("POST", "/webhooks/{webhook_id}/deliveries/{delivery_id}:redeliver"): Role.OPERATOR,
    ("POST", "/alert-receivers"): Role.ADMIN,
    ("GET", "/alert-receivers"): Role.OPERATOR,
    ("GET", "/alert-receivers/{receiver_id}"): Role.OPERATOR,
    ("DELETE", "/alert-receivers/{receiver_id}"): Role.ADMIN,
    ("GET", "/alerts"): Role.VIEWER,
    ("GET", "/alerts/{alert_id}"): Role.VIEWER,
    ("POST", "/alerts/{alert_id}:ack"): Role.OPERATOR,
    ("GET", "/slos"): Role.VIEWER,
    ("GET", "/slos/{name}"): Role.VIEWER,
    ("PUT", "/slos/{name}"): Role.OPERATOR,
    ("DELETE", "/slos/{name}"): Role.OPERATOR,
    ("GET", "/alert-rules"): Role.VIEWER,
    ("GET", "/alert-rules/{rule}"): Role.VIEWER,
    ("PATCH", "/alert-rules/{rule}"): Role.OPERATOR,
    ("GET", "/alert-silences"): Role.VIEWER,
    ("POST", "/alert-silences"): Role.OPERATOR,
    ("GET", "/alert-silences/{silence_id}"): Role.VIEWER,
    ("DELETE", "/alert-silences/{silence_id}"): Role.OPERATOR,
    ("GET", "/maintenance-windows"): Role.VIEWER,
    ("POST", "/maintenance-windows"): Role.OPERATOR,
    ("GET", "/maintenance-windows/{window_id}"): Role.VIEWER,
    ("DELETE", "/maintenance-windows/{window_id}"): Role.OPERATOR,
    ("GET", "/contact-points"): Role.OPERATOR,
    ("POST", "/contact-points"): Role.ADMIN,
    ("GET", "/contact-points/{contact_id}"): Role.OPERATOR,
    ("PATCH", "/contact-points/{contact_id}"): Role.ADMIN,
    ("DELETE", "/contact-points/{contact_id}"): Role.ADMIN,
    ("POST", "/contact-points/{contact_id}:test"): Role.OPERATOR,
    ("GET", "/contact-points/{contact_id}/deliveries"): Role.OPERATOR,
    ("GET", "/protection-rules"): Role.VIEWER,
    ("POST", "/protection-rules"): Role.ADMIN,
    ("GET", "/protection-rules/{name}"): Role.VIEWER,
    ("POST", "/protection-rules/{name}:end"): Role.ADMIN,
    ("POST", "/protection-rules/{name}:keep"): Role.ADMIN,
    ("POST", "/protection-rules/{name}:break-glass"): Role.ADMIN,
    ("GET", "/groups"): Role.VIEWER,
    ("POST", "/groups"): Role.OPERATOR,
    ("GET", "/groups/{name}"): Role.VIEWER,
    ("GET", "/groups/{name}/members"): Role.VIEWER,
    ("PATCH", "/groups/{name}"): Role.OPERATOR,
    ("DELETE", "/groups/{name}"): Role.OPERATOR,
}


OWN_TOKEN_PATH: Final = "/hooks/alertmanager/{token}"  # noqa: S105  # an address, not a token
"""The one route that takes no operator token but one of its own, in its address: it stands in no table, and no log has the address."""


def is_own_token_path(path: str) -> bool:
    """Return whether an address (with the prefix) has a token in it."""
    return path.startswith(API_PREFIX + OWN_TOKEN_PATH.removesuffix("{token}"))


def role_of(method: str, path: str) -> Role | None:
    """Return the role that a route (its template, not the address) needs; None = nobody may.

    Whether a template carries the prefix of its router depends on FastAPI's version, so it is taken off.
    """
    return POLICY.get((method, path.removeprefix(API_PREFIX)))


def split_token(token: str) -> tuple[str, str] | None:
    """Return (id, secret) of a well-formed token, else None."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match.group(1), match.group(2))


def split_key(text: str) -> tuple[str, str] | None:
    """Return (id, secret) of the code of a login link or the cookie of a session, None when it is malformed."""
    match = _KEY.fullmatch(text)
    return None if match is None else (match.group(1), match.group(2))
