"""What a form does, as a command: one line of `edgectl` for each operation that changes something, and the same as `curl`. Pure.

In a line, `{path.name}` is a field of the form, and what stands in brackets is left out when its field is empty; with `?` before the
field, what stands before that is a flag of a field that is true. A field that the
user has yet to fill in is written in capitals. A test holds that every line is a command that exists.
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.operations import Operations

LINES: Final[Mapping[str, str]] = {
    "create_token": "edgectl token create --name {body.name} --role {body.roles}",
    "revoke_token": "edgectl token revoke {path.token_id}",
    "create_login_link": "edgectl dashboard",
    "create_release": "edgectl publish MODEL --name {body.name} --version {body.version}",
    "cancel_release": "edgectl release cancel {path.ref}",
    "create_enrollments": "edgectl device enroll[ --count {body.count}][ --uses {body.uses}]",
    "revoke_enrollment": "edgectl device revoke-claim {path.claim_id} --yes",
    "approve_pending_devices": "edgectl device approve {body.ids}",
    "reject_pending_devices": "edgectl device reject {body.ids}[ --reason {body.reason}]",
    "update_device": "edgectl device label {path.device_id} {body.labels}",
    "label_devices": "edgectl device label -l {body.selector} {body.labels}",
    "set_alias": "edgectl model alias set {path.name} {path.alias} {body.version}",
    "remove_alias": "edgectl model alias remove {path.name} {path.alias} --yes",
    "revoke_device": "edgectl device decommission {path.device_id} --yes",
    "deploy_release": "edgectl deploy {path.ref}[ --to {body.selector}][ --device {body.device}]",
    "create_device_task": "edgectl device {body.kind} {path.device_id}",
    "create_tasks": "edgectl device ask {body.kind} -l {body.selector} --yes",
    "watch_device": "edgectl device watch {path.device_id}",
    "fetch_captures": "edgectl device capture {path.device_id}",
    "create_group": "edgectl group create {body.name} -l {body.selector}",
    "update_group": "edgectl group change {path.name} -l {body.selector}",
    "delete_group": "edgectl group delete {path.name} --yes",
    "set_capture_key": "edgectl capture-key set {body.public_key}",
    "remove_capture_key": "edgectl capture-key remove --yes",
    "create_rollout": "edgectl rollout create -f rollout.yaml",
    "pause_rollout": "edgectl rollout pause {path.rollout_id}[ --reason {body.reason}]",
    "resume_rollout": "edgectl rollout resume {path.rollout_id}[ --reason {body.reason}]",
    "abort_rollout": "edgectl rollout abort {path.rollout_id}[ --rollback?{body.rollback}][ --reason {body.reason}]",
    "promote_rollout": "edgectl rollout promote {path.rollout_id} --reason {body.reason}[ --stratum {body.stratum}]",
    "retry_rollout": "edgectl rollout retry {path.rollout_id}[ --failed?{body.failed}][ --reason {body.reason}]",
    "approve_rollout": "edgectl rollout approve {path.rollout_id}[ --reason {body.reason}][ --stratum {body.stratum}]",
    "deny_rollout": "edgectl rollout deny {path.rollout_id} --reason {body.reason}[ --stratum {body.stratum}]",
    "undo_model": "edgectl undo {body.name} --yes",
    "create_webhook": "edgectl webhook create {body.url}",
    "delete_webhook": "edgectl webhook delete {path.webhook_id} --yes",
    "rotate_webhook": "edgectl webhook rotate {path.webhook_id}",
    "ping_webhook": "edgectl webhook test {path.webhook_id}",
    "redeliver_webhook": "edgectl webhook redeliver {path.webhook_id} {path.delivery_id}",
    "create_alert_receiver": "edgectl alert-receiver create --name {body.name}[ --action {body.action}][ --model {body.model}]",
    "delete_alert_receiver": "edgectl alert-receiver delete {path.receiver_id} --yes",
}
OF_FIELD: Final[Mapping[tuple[str, str], str]] = {
    ("update_device", "body.profile"): "edgectl device set-profile {path.device_id} {body.profile}"
}
"""Operations whose forms are several commands: by the field that a form asks for."""
_OPTIONAL: Final = re.compile(r"\[([^\[\]{}]*)\{([A-Za-z0-9_.]+)\}([^\[\]{}]*)\]")
_FIELD: Final = re.compile(r"\{([A-Za-z0-9_.]+)\}")


def cli_line(operation_id: str, fields: Mapping[str, Any], asks: str = "") -> str:
    """Return the command of an operation with these fields, nothing when no line is known. asks: the field that the form is about."""
    line = OF_FIELD.get((operation_id, asks)) or LINES.get(operation_id, "")

    def optional(match: re.Match[str]) -> str:
        value = fields.get(match[2])
        if match[1].endswith("?"):
            return match[1][:-1] if value in (True, "true") else ""
        return "" if value in (None, "") else f"{match[1]}{shlex.quote(str(value))}{match[3]}"

    def needed(match: re.Match[str]) -> str:
        value = fields.get(match[1])
        return match[1].rpartition(".")[2].upper() if value in (None, "") else shlex.quote(str(value))

    return _FIELD.sub(needed, _OPTIONAL.sub(optional, line))


def curl_line(operations: Operations, operation_id: str, fields: Mapping[str, Any]) -> str:
    """Return the request of an operation as a `curl` command that reads server and token from the environment."""
    operation = operations.get(operation_id)
    given = {name: [str(value)] for name, value in fields.items() if value is not None}
    for name in re.findall(r"\{([a-z0-9_]+)\}", operation.path):
        given.setdefault(f"path.{name}", [name.upper()])
    try:
        call = operations.call(operation_id, given)
    except EdgefleetError:
        return ""
    parts = ["curl", "--fail-with-body", "-X", call.method, "-H", '"Authorization: Bearer $EDGECTL_TOKEN"']
    if call.body is not None:
        body = json.dumps(json.loads(call.body), ensure_ascii=False)
        parts += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(body)]
    query = f"?{call.query}" if call.query else ""
    return " ".join([*parts, f'"$EDGECTL_SERVER{call.raw_path}{query}"'])
