"""The policy: which role each route under `/api/v1` needs, and what of the fleet. One table; a route that is not in it is refused to all.

A row that says no more than a role needs it over the whole fleet; `on` says what else a request touches, and so which scopes of grants
suffice. To read needs no scope: each person who is signed in sees the whole fleet (ADR 0123).

A token is `edg_<id>_<secret>`: id 12 characters of lower-case base32, secret 256 random bits in base64url. The code of a login
link and the cookie of a session are `<id>_<secret>` of the same kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgefleet_server.access.grants.grant_scope import Touch
from edgefleet_server.access.model import Role

_TOKEN = re.compile(r"edg_([a-z2-7]{12})_([A-Za-z0-9_-]{43})")
_KEY = re.compile(r"([a-z2-7]{12})_([A-Za-z0-9_-]{43})")

API_PREFIX: Final = "/api/v1"


@dataclass(frozen=True, slots=True)
class Scoped:
    """A row for which a grant of a part of the fleet may suffice."""

    role: Role
    touch: Touch


def on(touch: Touch, role: Role) -> Scoped:
    """Return a row: the role is needed over what a request touches."""
    return Scoped(role, touch)


POLICY: Final[Mapping[tuple[str, str], Role | Scoped]] = {
    ("GET", "/whoami"): Role.VIEWER,
    ("GET", "/tokens"): Role.ADMIN,
    ("POST", "/tokens"): Role.ADMIN,
    ("GET", "/tokens/{token_id}"): Role.ADMIN,
    ("DELETE", "/tokens/{token_id}"): Role.ADMIN,
    ("GET", "/own-tokens"): Role.VIEWER,
    ("POST", "/own-tokens"): Role.VIEWER,
    ("DELETE", "/own-tokens/{token_id}"): Role.VIEWER,
    ("GET", "/people"): Role.ADMIN,
    ("POST", "/people"): Role.ADMIN,
    ("GET", "/people/{person_id}"): Role.ADMIN,
    ("PATCH", "/people/{person_id}"): Role.ADMIN,
    ("POST", "/invitations"): Role.ADMIN,
    ("GET", "/identities"): Role.ADMIN,
    ("GET", "/identities/{identity_id}"): Role.ADMIN,
    ("POST", "/identities/{identity_id}:link"): Role.ADMIN,
    ("POST", "/identities/{identity_id}:unlink"): Role.ADMIN,
    ("POST", "/people/{person_id}:grant"): Role.ADMIN,
    ("POST", "/people/{person_id}:revoke-grant"): Role.ADMIN,
    ("GET", "/trusted-pipelines"): Role.ADMIN,
    ("POST", "/trusted-pipelines"): Role.ADMIN,
    ("GET", "/trusted-pipelines/{name}"): Role.ADMIN,
    ("DELETE", "/trusted-pipelines/{name}"): Role.ADMIN,
    ("POST", "/login-links"): Role.VIEWER,
    ("GET", "/audit"): Role.AUDITOR,
    ("GET", "/audit/chain"): Role.AUDITOR,
    ("GET", "/audit/entries"): Role.AUDITOR,
    ("GET", "/audit/entries/{n}/proof"): Role.AUDITOR,
    ("GET", "/audit/heads"): Role.AUDITOR,
    ("GET", "/audit/heads/{size}"): Role.AUDITOR,
    ("GET", "/models/{name}/evidence"): Role.AUDITOR,
    ("GET", "/release-policies"): Role.VIEWER,
    ("GET", "/release-policies/{name}"): Role.VIEWER,
    ("PUT", "/release-policies/{name}"): Role.ADMIN,
    ("POST", "/release-policies/{name}:end"): Role.ADMIN,
    ("POST", "/release-policies/{name}:keep"): Role.ADMIN,
    ("POST", "/release-policies/{name}:approve"): Role.ADMIN,
    ("GET", "/releases/{ref}/policy-check"): Role.VIEWER,
    ("PUT", "/blobs/{sha256}"): on(Touch.NOTHING, Role.PUBLISHER),
    ("HEAD", "/blobs/{sha256}"): Role.VIEWER,
    ("GET", "/blobs/{sha256}"): Role.VIEWER,
    ("POST", "/releases"): on(Touch.STATED, Role.PUBLISHER),
    ("GET", "/releases"): Role.VIEWER,
    ("GET", "/releases/{ref}"): Role.VIEWER,
    ("GET", "/releases/{ref}/source"): on(Touch.MODEL, Role.PUBLISHER),
    ("GET", "/releases/{ref}/devices"): Role.VIEWER,
    ("GET", "/releases/{ref}/report"): Role.VIEWER,
    ("GET", "/releases/{ref}/card"): Role.VIEWER,
    ("GET", "/releases/{ref}/card.md"): Role.VIEWER,
    ("GET", "/releases/{ref}/card.pdf"): Role.VIEWER,
    ("PUT", "/releases/{ref}/card"): on(Touch.MODEL, Role.PUBLISHER),
    ("GET", "/releases/{ref}/report.html"): Role.VIEWER,
    ("GET", "/tools"): on(Touch.NOTHING, Role.PUBLISHER),
    ("DELETE", "/releases/{ref}"): on(Touch.MODEL, Role.PUBLISHER),
    ("POST", "/releases/{ref}:cancel"): on(Touch.MODEL, Role.PUBLISHER),
    ("POST", "/releases/{ref}:end-search"): on(Touch.MODEL, Role.PUBLISHER),
    ("POST", "/releases/{ref}:withdraw"): on(Touch.MODEL_EVERYWHERE, Role.OPERATOR),
    ("GET", "/releases/{ref}/performance"): Role.VIEWER,
    ("GET", "/models/{name}/accuracy"): Role.VIEWER,
    ("POST", "/models/{name}/feedback"): on(Touch.MODEL_EVERYWHERE, Role.OPERATOR),
    ("GET", "/models/{name}/feedback"): Role.VIEWER,
    ("GET", "/models/{name}/feedback/{upload_id}"): Role.VIEWER,
    ("GET", "/releases/{ref}/drift-baseline"): Role.VIEWER,
    ("PUT", "/releases/{ref}/drift-baseline"): on(Touch.MODEL_EVERYWHERE, Role.OPERATOR),
    ("DELETE", "/releases/{ref}/drift-baseline"): on(Touch.MODEL_EVERYWHERE, Role.OPERATOR),
    ("POST", "/releases/{ref}:deploy"): on(Touch.STATED, Role.OPERATOR),
    ("GET", "/models"): Role.VIEWER,
    ("GET", "/models/{name}"): Role.VIEWER,
    ("GET", "/models/{name}/aliases"): Role.VIEWER,
    ("GET", "/models/{name}/aliases/{alias}"): Role.VIEWER,
    ("PUT", "/models/{name}/aliases/{alias}"): on(Touch.MODEL, Role.PUBLISHER),
    ("DELETE", "/models/{name}/aliases/{alias}"): on(Touch.MODEL, Role.PUBLISHER),
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
    ("GET", "/team-requests"): Role.VIEWER,
    ("GET", "/team-requests/{request_id}"): Role.VIEWER,
    ("POST", "/team-requests/{request_id}:sign"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/team-requests/{request_id}:drop"): Role.OPERATOR,
    ("POST", "/models/{name}:team"): Role.ADMIN,
    ("POST", "/models/{name}:renew-team"): on(Touch.MODEL, Role.PUBLISHER),
    ("POST", "/releases/{ref}:ask-team"): on(Touch.MODEL, Role.PUBLISHER),
    ("GET", "/signing-progress"): Role.VIEWER,
    ("GET", "/trust"): Role.VIEWER,
    ("GET", "/trust/broker"): Role.VIEWER,
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
    ("DELETE", "/devices/{device_id}"): on(Touch.DEVICE, Role.OPERATOR),
    ("POST", "/devices/{device_id}:clear-suspicion"): on(Touch.DEVICE, Role.OPERATOR),
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
    ("POST", "/devices/{device_id}:watch"): on(Touch.DEVICE, Role.OPERATOR),
    ("GET", "/devices/{device_id}/predictions"): on(Touch.DEVICE, Role.OPERATOR),
    ("POST", "/devices/{device_id}/captures:fetch"): on(Touch.DEVICE, Role.OPERATOR),
    ("GET", "/devices/{device_id}/captures:fetch/{fetch_id}"): on(Touch.DEVICE, Role.OPERATOR),
    ("GET", "/devices/{device_id}/captures"): on(Touch.DEVICE, Role.OPERATOR),
    ("GET", "/devices/{device_id}/captures/{record}"): on(Touch.DEVICE, Role.OPERATOR),
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
    ("GET", "/data-sets"): Role.VIEWER,
    ("POST", "/data-sets"): Role.VIEWER,  # and operator, or publisher of the model, as for reading its captured records
    ("GET", "/data-sets/{data_set_id}/records"): Role.VIEWER,
    ("POST", "/data-sets/{data_set_id}:purge"): Role.VIEWER,  # and what noting one needs
    ("POST", "/erasures"): Role.ADMIN,
    ("GET", "/erasures"): Role.AUDITOR,
    ("GET", "/erasures/{erasure_id}"): Role.AUDITOR,
    ("POST", "/devices/{device_id}/tasks"): on(Touch.DEVICE, Role.OPERATOR),
    ("POST", "/devices:task"): on(Touch.STATED, Role.OPERATOR),
    ("GET", "/devices/{device_id}/tasks"): Role.VIEWER,
    ("GET", "/devices/{device_id}/tasks/{task_id}"): Role.VIEWER,
    ("GET", "/devices/{device_id}/tasks/{task_id}/result"): on(Touch.DEVICE, Role.OPERATOR),
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
    ("POST", "/rollouts"): on(Touch.STATED, Role.OPERATOR),
    ("POST", "/rollouts:plan"): Role.VIEWER,
    ("POST", "/rollouts:undo"): on(Touch.STATED, Role.OPERATOR),
    ("GET", "/rollouts"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/plan"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/devices"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/decisions"): Role.VIEWER,
    ("POST", "/rollouts/{rollout_id}:pause"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:resume"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:abort"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:promote"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:skip"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:retry"): on(Touch.ROLLOUT, Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}:approve"): Role.VIEWER,  # and the role that the stage asks for, over the rollout
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
    ("GET", "/triggers"): Role.VIEWER,
    ("POST", "/triggers"): on(Touch.STATED, Role.PUBLISHER),  # and operator over what its rollout touches
    ("GET", "/triggers/{name}"): Role.VIEWER,
    ("PATCH", "/triggers/{name}"): on(Touch.STATED, Role.PUBLISHER),
    ("DELETE", "/triggers/{name}"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/triggers/{name}:start"): on(Touch.STATED, Role.PUBLISHER),
    ("GET", "/retrainings"): Role.VIEWER,
    ("GET", "/retrainings/{retraining_id}"): Role.VIEWER,
    ("POST", "/retrainings/{retraining_id}:approve"): Role.VIEWER,  # and approver of the model, by a second person
    ("POST", "/retrainings/{retraining_id}:reject"): Role.VIEWER,
    ("POST", "/retrainings/{retraining_id}:cancel"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/retrainings:lease"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/retrainings/{retraining_id}:renew"): on(Touch.STATED, Role.PUBLISHER),
    ("GET", "/retrainings/{retraining_id}/captures"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/retrainings/{retraining_id}:complete"): on(Touch.STATED, Role.PUBLISHER),
    ("POST", "/retrainings/{retraining_id}:fail"): on(Touch.STATED, Role.PUBLISHER),
    ("GET", "/cost"): Role.VIEWER,
    ("POST", "/cost:price"): Role.VIEWER,
    ("GET", "/prices"): Role.VIEWER,
    ("PUT", "/prices"): Role.OPERATOR,
    ("DELETE", "/prices"): Role.OPERATOR,
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
    ("GET", "/readmissions"): Role.VIEWER,
    ("POST", "/readmissions:approve"): Role.OPERATOR,
    ("POST", "/readmissions:refuse"): Role.OPERATOR,
    ("GET", "/server-moves"): Role.VIEWER,
    ("POST", "/server-moves"): Role.ADMIN,
    ("POST", "/server-moves:start"): Role.ADMIN,
    ("POST", "/server-moves:undo"): Role.ADMIN,
    ("POST", "/server-moves:finish"): Role.ADMIN,
    ("GET", "/ca-rotations"): Role.VIEWER,
    ("POST", "/ca-rotations"): Role.ADMIN,
    ("POST", "/ca-rotations:undo"): Role.ADMIN,
    ("POST", "/ca-rotations:finish"): Role.ADMIN,
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
"""The route that takes a token of its own, in its address: no log has the address."""


ID_TOKEN_PATH: Final = "/pipeline-tokens"  # noqa: S105  # an address, not a token
"""The one route that takes an ID token of another issuer, in its body: a job of CI gets its operator token here."""

OPEN_PATHS: Final = frozenset({OWN_TOKEN_PATH, ID_TOKEN_PATH})
"""Routes that take no operator token. They stand in no table, and each checks its callers itself."""


def is_own_token_path(path: str) -> bool:
    """Return whether an address (with the prefix) has a token in it."""
    return path.startswith(API_PREFIX + OWN_TOKEN_PATH.removesuffix("{token}"))


def role_of(method: str, path: str) -> Role | None:
    """Return the role that a route (its template, not the address) needs; None = nobody may.

    Whether a template carries the prefix of its router depends on FastAPI's version, so it is taken off.
    """
    row = POLICY.get((method, path.removeprefix(API_PREFIX)))
    return row.role if isinstance(row, Scoped) else row


def touch_of(method: str, path: str) -> Touch | None:
    """Return what requests to a route touch; None: the whole fleet, as far as its row says no more than a role."""
    row = POLICY.get((method, path.removeprefix(API_PREFIX)))
    return row.touch if isinstance(row, Scoped) else None


def split_token(token: str) -> tuple[str, str] | None:
    """Return (id, secret) of a well-formed token, else None."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match.group(1), match.group(2))


def split_key(text: str) -> tuple[str, str] | None:
    """Return (id, secret) of the code of a login link or the cookie of a session, None when it is malformed."""
    match = _KEY.fullmatch(text)
    return None if match is None else (match.group(1), match.group(2))
