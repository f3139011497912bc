"""What a form does, as a command: one line of `edgectl` for each operation that changes something, and the same as `curl`. Pure.

In a line, `{path.name}` is a field of the form, and what stands in brackets is left out when its field is empty; with `?` before the
field, what stands before that is a flag of a field that is true, and after `|` the flag of one that is false. `{body.ids*}` is
several words; in brackets or parentheses, these are repeated for each. `{body.ttl_s|seconds}` is written as the command takes it: see
`_FORMS`. What the user has yet to fill in is written in capitals. A test holds that every line is a command that exists, others run them.
"""

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.operations.catalog import BadFieldError, Call, Operations

LINES: Final[Mapping[str, str]] = {
    "create_token": (
        "edgectl token create --name {body.name}( --role {body.roles*})[ --ttl {body.expires_at|until}][ --person {body.person}]"
        "[ --model {body.models*}][ --group {body.groups*}][ --site {body.sites*}]"
    ),
    "create_own_token": (
        "edgectl token create --mine --name {body.name}[ --role {body.roles*}]"
        "[ --model {body.models*}][ --group {body.groups*}][ --site {body.sites*}]"
    ),
    "revoke_own_token": "edgectl token revoke {path.token_id} --mine --yes",
    "create_invitation": "edgectl person invite {body.person}[ --role {body.roles*}][ --ttl {body.expires_at|until}]",
    "create_person": "edgectl person add {body.name}[ --kind {body.kind}]",
    "update_person": "edgectl person {body.disabled|able} {path.person_id} --yes",
    "grant_role": (
        "edgectl person grant {path.person_id} {body.role}[ --model {body.models*}][ --group {body.groups*}][ --site {body.sites*}]"
    ),
    "revoke_grant": (
        "edgectl person revoke-grant {path.person_id} {body.role}[ --model {body.models*}][ --group {body.groups*}]"
        "[ --site {body.sites*}] --yes"
    ),
    "link_identity": "edgectl identity link {path.identity_id}[ --person {body.person}]",
    "unlink_identity": "edgectl identity unlink {path.identity_id} --yes",
    "create_trusted_pipeline": (
        "edgectl trusted-pipeline add {body.name} --provider {body.provider} --repository {body.repository} --ref {body.ref}"
        "( --role {body.roles*})[ --issuer {body.issuer}][ --repository-id {body.repository_id}][ --environment {body.environment}]"
        "[ --workflow {body.workflow}][ --model {body.models*}][ --group {body.groups*}][ --site {body.sites*}]"
    ),
    "delete_trusted_pipeline": "edgectl trusted-pipeline remove {path.name} --yes",
    "revoke_token": "edgectl token revoke {path.token_id}",
    "create_login_link": "edgectl dashboard",
    "create_release": (
        "edgectl publish {file.model} --name {body.model} --version {body.version}[ --profile {body.profiles*}]"
        "[ --precision {body.options.precision}][ --max-drop {body.options.max_drop}][ --calibration {file.calibration}]"
        "[ --eval {file.eval}][ --labels {file.labels}][ --preprocess {file.preprocess}][ --postprocess {file.postprocess}]"
        "[ --reference {file.reference}]"
    ),
    "cancel_release": "edgectl release cancel {path.ref}",
    "withdraw_release": "edgectl release withdraw {path.ref} --reason {body.reason}[ --floor?{body.older}] --yes",
    "delete_release": "edgectl release delete {path.ref}[ --reason {query.reason}] --yes",
    "create_enrollments": (
        "edgectl device enroll[ --count {body.count}][ --uses {body.uses}][ --ttl {body.ttl_s|seconds}]"
        "[ --approval|--no-approval?{body.approval}][ --profile {body.profile}][ --name {body.display_name}]"
        "[ --name-prefix {body.name_prefix}][ --label {body.labels*}]"
    ),
    "revoke_enrollment": "edgectl device revoke-claim {path.claim_id} --yes",
    "approve_pending_devices": "edgectl device approve {body.ids*}",
    "reject_pending_devices": "edgectl device reject {body.ids*}[ --reason {body.reason}]",
    "approve_readmissions": "edgectl device readmit {body.devices*}",
    "refuse_readmissions": "edgectl device readmit {body.devices*} --refuse[ --reason {body.reason}]",
    "update_device": "edgectl device label {path.device_id} {body.labels*}",
    "label_devices": "edgectl device label -l {body.selector} {body.labels*} --yes",
    "set_alias": "edgectl model alias set {path.name} {path.alias} {body.version}",
    "put_model_card": "edgectl model card set {path.ref} -f card.yaml",
    "remove_alias": "edgectl model alias remove {path.name} {path.alias} --yes",
    "send_feedback": "edgectl feedback upload labels.csv --model {path.name}",
    "set_drift_baseline": "edgectl drift baseline set {path.ref} --since {body.since|since}",
    "clear_drift_baseline": "edgectl drift baseline clear {path.ref} --yes",
    "clear_device_suspicion": "edgectl device clear-suspicion {path.device_id}[ --reason {body.reason}] --yes",
    "revoke_device": "edgectl device revoke {path.device_id} --yes",
    "deploy_release": "edgectl deploy {path.ref}[ --to {body.selector}][ --device {body.device}]",
    "set_prediction_log": (
        "edgectl predictions keep {path.model}[ --sample {body.ratio}][ --days {body.keep_days}]"
        "[ --inputs|--no-inputs?{body.inputs}]"
    ),
    "stop_prediction_log": "edgectl predictions stop {path.model} --yes",
    "erase_subject": "edgectl data erase --subject {body.subject}[ --model {body.models*}] --yes",
    "create_device_task": "edgectl device {body.kind} {path.device_id}[ --lines {body.lines}][ --contains {body.contains}]",
    "create_tasks": "edgectl device ask {body.kind} -l {body.selector} --yes",
    "watch_device": "edgectl device watch {path.device_id}",
    "fetch_captures": "edgectl device capture {path.device_id}[ --limit {body.limit}]",
    "create_group": "edgectl group create {body.name} -l {body.selector}",
    "update_group": "edgectl group change {path.name} -l {body.selector}",
    "delete_group": "edgectl group delete {path.name} --yes",
    "create_protection_rule": "edgectl protection add {body.name} -l {body.selector}",
    "end_protection_rule": "edgectl protection remove {path.name} --yes",
    "keep_protection_rule": "edgectl protection keep {path.name}",
    "set_release_policy": "edgectl policy set {path.name}( --require {body.require*})[ --model {body.models*}][ --since {body.since}]",
    "end_release_policy": "edgectl policy delete {path.name} --yes",
    "keep_release_policy": "edgectl policy keep {path.name}",
    "approve_release_policy": "edgectl policy approve {path.name} --asked-at {body.asked_at} --yes",
    "break_glass": "edgectl protection break-glass {path.name} --reason {body.reason}[ --minutes {body.minutes}] --yes",
    "plan_server_move": (
        "edgectl server move plan[ --host {body.host}][ --device-port {body.device_port}][ --broker-host {body.broker_host}]"
        "[ --broker-port {body.broker_port}]"
    ),
    "start_server_move": "edgectl server move start[ --ahead?{body.ahead}][ --within {body.spread_s}]",
    "undo_server_move": "edgectl server move undo --yes",
    "finish_server_move": "edgectl server move finish[ --leave-behind {body.leave_behind}] --yes",
    "start_ca_rotation": "edgectl key device-ca start[ --within {body.spread_s}][ --reason {body.reason}]",
    "undo_ca_rotation": "edgectl key device-ca undo --yes",
    "finish_ca_rotation": "edgectl key device-ca finish[ --leave-behind {body.leave_behind}][ --reason {body.reason}] --yes",
    "set_capture_key": "edgectl capture-key set {body.public_key}",
    "remove_capture_key": "edgectl capture-key remove --yes",
    "create_rollout": "edgectl rollout create -f rollout.yaml",
    "create_signing_request": "edgectl key ceremony --holder public.json[ --threshold {body.threshold}] --yes",
    "sign_signing_request": "edgectl key ceremony --answer answer.json",
    "drop_signing_request": "edgectl key ceremony --cancel --yes",
    "drop_team_request": "edgectl key team MODEL --cancel --yes",
    "sign_team_request": "edgectl key team MODEL --answer answer.json",
    "ask_team": "edgectl release sign {path.ref} --key FILE",
    "renew_team": "edgectl key team {path.name} --renew",
    "set_team": "edgectl key team {path.name} --key FILE --threshold {body.threshold} --yes",
    "rotate_key": "edgectl key rotate {path.role}[ --algorithm {body.algorithm}]",
    "revoke_key": "edgectl key revoke {path.role}[ --algorithm {body.algorithm}][ --key {body.keyid}] --yes",
    "sign_recovery": "edgectl server restored[ --model {body.models*}] --yes",
    "pause_rollout": "edgectl rollout pause {path.rollout_id}[ --reason {body.reason}]",
    "resume_rollout": "edgectl rollout resume {path.rollout_id}[ --reason {body.reason}]",
    "abort_rollout": "edgectl rollout abort {path.rollout_id}[ --rollback?{body.rollback}][ --reason {body.reason}] --yes",
    "promote_rollout": "edgectl rollout promote {path.rollout_id} --reason {body.reason}[ --stratum {body.stratum}]",
    "skip_rollout_stage": "edgectl rollout skip {path.rollout_id} {body.stage} --reason {body.reason}[ --stratum {body.stratum}]",
    "retry_rollout": "edgectl rollout retry {path.rollout_id}[ --failed?{body.failed}][ --reason {body.reason}]",
    "approve_rollout": "edgectl rollout approve {path.rollout_id}[ --reason {body.reason}][ --stratum {body.stratum}]",
    "deny_rollout": "edgectl rollout deny {path.rollout_id} --reason {body.reason}[ --stratum {body.stratum}]",
    "undo_model": "edgectl undo {body.name}[ --reason {body.reason}] --yes",
    "create_webhook": "edgectl webhook create {body.url}[ --name {body.name}][ --events {body.types*}]",
    "delete_webhook": "edgectl webhook delete {path.webhook_id} --yes",
    "rotate_webhook": "edgectl webhook rotate {path.webhook_id}[ --overlap {body.overlap_s|seconds}]",
    "ping_webhook": "edgectl webhook test {path.webhook_id}",
    "redeliver_webhook": "edgectl webhook redeliver {path.webhook_id} {path.delivery_id}",
    "create_alert_receiver": (
        "edgectl alert-receiver create {body.name}[ --action {body.action}][ --match {body.matchers*}]"
        "[ --model {body.model}]"
    ),
    "ack_alert": "edgectl alert ack {path.alert_id}[ --comment {body.comment}]",
    "update_alert_rule": (
        "edgectl alert rules set {path.rule}[ --threshold {body.threshold}][ --for {body.for_s|seconds}]"
        "[ --severity {body.severity}][ --selector {body.selector}][ --on|--off?{body.is_enabled}]"
    ),
    "create_alert_silence": (
        "edgectl alert silence create[ --match {body.matchers*}][ --selector {body.selector}][ --for {body.for_s|seconds}]"
        "[ --comment {body.comment}]"
    ),
    "end_alert_silence": "edgectl alert silence end {path.silence_id}",
    "create_maintenance_window": (
        "edgectl alert window create {body.name} --cron {body.cron} --for {body.duration_s|seconds}[ --tz {body.tz}]"
        "[ --selector {body.selector}]"
    ),
    "delete_maintenance_window": "edgectl alert window delete {path.window_id} --yes",
    "create_contact_point": (
        "edgectl alert contact create {body.name} {body.url}[ --severity {body.severity}][ --selector {body.selector}]"
        "[ --resolved|--no-resolved?{body.sends_resolved}][ --repeat {body.repeat_s|seconds}]"
    ),
    "update_contact_point": (
        "edgectl alert contact set {path.contact_id}[ --name {body.name}][ --url {body.url}][ --severity {body.severity}]"
        "[ --selector {body.selector}][ --resolved|--no-resolved?{body.sends_resolved}][ --repeat {body.repeat_s|seconds}]"
    ),
    "set_prices": "edgectl prices set -f prices.json",
    "remove_prices": "edgectl prices remove --yes",
    "put_slo": "edgectl slo set -f slo.json",
    "create_trigger": (
        "edgectl trigger create {body.name} --model {body.model} --on {body.on}[ --schedule {body.schedule}][ --tz {body.tz}]"
        "[ --objective {body.objective}][ --lasting {body.lasting_s|seconds}][ --cool-down {body.cool_down_s|seconds}]"
        "[ --budget {body.budget}][ --per {body.budget_period_s|seconds}][ --approval|--no-approval?{body.approval}]"
        "[ --launcher {body.launcher.kind}][ --setting repository={body.launcher.settings.repository}]"
        "[ --setting workflow={body.launcher.settings.workflow}][ --setting project={body.launcher.settings.project}]"
        "[ --setting ref={body.launcher.settings.ref}][ --setting server={body.launcher.settings.server}]"
        "[ --setting host={body.launcher.settings.host}][ --setting job={body.launcher.settings.job}]"
        "[ --setting url={body.launcher.settings.url}][ --setting shape={body.launcher.settings.shape}]"
        "[ --setting dag={body.launcher.settings.dag}][ --setting user={body.launcher.settings.user}]"
        "[ --secret-file {body.launcher.secret|secret}][ --deadline {body.launcher.deadline_s|seconds}]"
        "[ --most {body.data.most}][ --devices {body.data.devices}][ --reason {body.data.reasons*}]"
        "[ --collect-for {body.data.wait_s|seconds}][ --rollout {body.rollout.strategy|spec}]"
    ),
    "update_trigger": "edgectl trigger {body.enabled|enable} {path.name}",
    "delete_trigger": "edgectl trigger remove {path.name} --yes",
    "start_retraining": "edgectl retrain start {path.name}[ --reason {body.reason}]",
    "approve_retraining": "edgectl retrain approve {path.retraining_id}[ --reason {body.reason}]",
    "reject_retraining": "edgectl retrain reject {path.retraining_id} --reason {body.reason}",
    "cancel_retraining": "edgectl retrain cancel {path.retraining_id}[ --reason {body.reason}]",
    "delete_slo": "edgectl slo delete {path.name} --yes",
    "delete_contact_point": "edgectl alert contact delete {path.contact_id} --yes",
    "test_contact_point": "edgectl alert contact test {path.contact_id}",
    "delete_alert_receiver": "edgectl alert-receiver delete {path.receiver_id} --yes",
}
OF_FIELD: Final[Mapping[tuple[str, str], str]] = {
    ("update_device", "body.display_name"): "edgectl device rename {path.device_id} {body.display_name}",
    ("update_trigger", "body.data.most"): (
        "edgectl trigger change {path.name} --most {body.data.most}[ --devices {body.data.devices}]"
        "[ --reason {body.data.reasons*}][ --collect-for {body.data.wait_s|seconds}]"
    ),
    ("update_device", "body.profile"): "edgectl device set-profile {path.device_id} {body.profile}",
}
"""Operations whose forms are several commands: by the field that a form asks for."""
NEEDS_FILES: Final[Mapping[str, str]] = {
    "create_release": "With curl, each file is sent first, by its digest: PUT /api/v1/blobs/SHA256. The command does all of it."
}
"""Operations that one request is not enough for: what to say in the place of a `curl` line."""
_OPTIONAL: Final = re.compile(r"\[([^\[\]{}]*)\{([A-Za-z0-9_.]+)(\*|\|[a-z]+)?\}\]")
_EACH: Final = re.compile(r"\(([^(){}]*)\{([A-Za-z0-9_.]+)\*\}\)")
_FIELD: Final = re.compile(r"\{([A-Za-z0-9_.]+)(\*|\|[a-z]+)?\}")
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Lines:
    """What stands under a form. note: what to know in the place of a line that is empty."""

    cli: str
    curl: str
    note: str = ""


def command_lines(
    operations: Operations,
    operation_id: str,
    fields: Mapping[str, Sequence[str]],
    needs: Collection[str],
    now: datetime,
    asks: str = "",
) -> Lines:
    """Return a form as commands. needs: fields that have to be filled in; asks: the field that the form is about.

    A field that cannot be what the operation takes leaves no line, but the reason. Raises OperationUnknownError.
    """
    line = _line(operation_id, asks)
    in_line = (match[1] for match in _FIELD.finditer(_OPTIONAL.sub("", line)))
    wanted = {*needs, *in_line, *operations.required(operation_id, fields)}
    filled = dict(fields)
    for name in sorted(wanted):
        if not any(value.strip() for value in fields.get(name, ())):
            filled[name] = [operations.placeholder(operation_id, name)]
    try:
        call = operations.call(operation_id, _with_path(operations, operation_id, filled))
    except BadFieldError as error:
        return Lines("", "", f"{error.message}.")
    cli = cli_line(operation_id, _values(filled, call), asks, now)
    note = NEEDS_FILES.get(operation_id, "")
    return Lines(cli, "" if note else _as_curl(call), note)


def cli_line(operation_id: str, values: Mapping[str, Any], asks: str = "", now: datetime | None = None) -> str:
    """Return the command of an operation with these values, nothing when no line is known.

    values: texts, or what they become in the body of the request. now: for moments, which commands take as a time from now.
    """

    def optional(match: re.Match[str]) -> str:
        before, name, form = match[1], match[2], match[3] or ""
        value = values.get(name)
        if before.endswith("?"):
            when_true, _, when_false = before[:-1].partition("|")
            chosen = when_true if value in (True, "true") else when_false if value in (False, "false") else ""
            return chosen if chosen.startswith(" ") or not chosen else f" {chosen}"
        return "".join(before + word for word in _words(value, form, now))

    def found(name: str, form: str) -> list[str]:
        return _words(values.get(name), form, now) or [_WITHOUT.get(form, name.rpartition(".")[2].upper())]

    line = _OPTIONAL.sub(optional, _line(operation_id, asks))
    line = _EACH.sub(lambda match: "".join(match[1] + word for word in found(match[2], "*")), line)
    return _FIELD.sub(lambda match: " ".join(found(match[1], match[2] or "")), line)


def curl_line(operations: Operations, operation_id: str, fields: Mapping[str, Any]) -> str:
    """Return the request of an operation as a `curl` command that reads server and token from the environment."""
    given = {name: [str(value)] for name, value in fields.items() if value is not None}
    try:
        return _as_curl(operations.call(operation_id, _with_path(operations, operation_id, given)))
    except EdgefleetError:
        return ""


def _line(operation_id: str, asks: str) -> str:
    return OF_FIELD.get((operation_id, asks)) or LINES.get(operation_id, "")


def _with_path(
    operations: Operations, operation_id: str, fields: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Return fields with every part of the path; what is not there is its name in capitals."""
    names = re.findall(r"\{([a-z0-9_]+)\}", operations.get(operation_id).path)
    given = {f"path.{name}": fields.get(f"path.{name}", ()) for name in names}
    missing = {name: [name.rpartition(".")[2].upper()] for name, texts in given.items() if not any(texts)}
    return {**fields, **missing}


def _values(fields: Mapping[str, Sequence[str]], call: Call) -> dict[str, Any]:
    """Return the fields, those of the body as the request has them."""
    values: dict[str, Any] = {name: texts[-1] for name, texts in fields.items() if texts}
    body = json.loads(call.body) if call.body is not None else {}
    for name in fields:
        place, _, rest = name.partition(".")
        if place == "body" and rest:
            here: Any = body
            for step in rest.split("."):
                here = here.get(step) if isinstance(here, dict) else None
            values[name] = here
    return values


def _words(value: Any, form: str, now: datetime | None) -> list[str]:
    """Return a value as words of a shell, none for one that is empty."""
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        texts = [f"{key}-" if one is None else f"{key}={one}" for key, one in value.items()]
    elif isinstance(value, list):
        texts = [str(one) for one in value]
    else:
        texts = [_FORMS[form[1:]](value, now) if form.startswith("|") else str(value)]
    return [shlex.quote(text) for text in texts]


def _since(moment: str, now: datetime | None) -> str:
    """Return a moment as the hours since then."""
    begin = datetime.fromisoformat(moment)
    hours = max(1, round(((now or begin) - begin).total_seconds() / 3600))
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def _until(moment: str, now: datetime | None) -> str:
    """Return a moment as the days until then: the ends that pages offer are whole days from when they were loaded."""
    end = datetime.fromisoformat(moment)
    return f"{max(1, round((end - (now or end)).total_seconds() / _DAY_S))}d"


_WITHOUT: Final = {"|able": "disable", "|enable": "enable"}
"""What a form says without a value: a command, where the name of the field would be none."""
_FORMS: Final[Mapping[str, Callable[[Any, datetime | None], str]]] = {
    "able": lambda value, _now: "disable" if value else "enable",
    "enable": lambda value, _now: "enable" if value else "disable",
    "secret": lambda _value, _now: "secret.txt",
    "spec": lambda _value, _now: "rollout.yaml",
    "seconds": lambda value, _now: f"{value}s",
    "since": _since,
    "until": _until,
}


def _as_curl(call: Call) -> str:
    parts = ["curl", "--fail-with-body", "-X", call.method, "-H", '"Authorization: Bearer $EDGECTL_TOKEN"']
    if call.body is not None:
        body = json.dumps(json.loads(call.body), ensure_ascii=False)
        parts += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(body)]
    query = f"?{call.query}" if call.query else ""
    return " ".join([*parts, f'"$EDGECTL_SERVER{call.raw_path}{query}"'])
