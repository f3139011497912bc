"""Calls through the generated client, against a live API with a staged fleet. Runs in the client's own environment.

python -m tests.server.rest.client_suite URL TOKEN ROLLOUT
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.server.rest import client_answers as answers
from tests.server.rest import client_governing as governing
from tests.server.rest.client_caller import Caller

PUBLIC_PART = Path(__file__).with_name("public_part.json")
TEAM_KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA57sPlbi57uzoRkxFliQnoj3PAjkMLiDyEitkav7sz6M=\n-----END PUBLIC KEY-----\n"
"""Of a holder whose private keys are gone."""


def reading(call: Caller, rollout: str) -> str:
    """Read lists and single things; return a device."""
    status, me = call("access", "get_whoami")
    assert (status, me.name) == (200, "test")
    status, devices = call("fleet", "list_devices", limit=3)
    assert status == 200
    assert len(devices.items) == 3
    assert devices.total == 10
    _, more = call("fleet", "list_devices", limit=3, cursor=devices.next_cursor)
    assert more.items[0].id > devices.items[-1].id
    _, turned = call("fleet", "list_devices", sort=call.models.ListDevicesSort("-id"))
    assert [one.id for one in turned.items[:-4:-1]] == [one.id for one in devices.items]
    device = devices.items[0].id
    _, one = call("fleet", "get_device", device)
    assert (one.id, one.desired.models[0].model) == (device, "digits")
    _, told = call("rollout", "explain_device", device)
    assert (told.device, [one.model for one in told.items]) == (device, ["digits"])
    _, events = call("fleet", "list_device_events", device)
    assert events.total > 0
    _, summary = call("fleet", "get_fleet_summary")
    assert summary.devices == 10
    _, releases = call("registry", "list_releases", model="digits")
    assert [release.version for release in releases.items] == ["1.2.0", "1.1.0", "1.0.0"]
    _, release = call("registry", "get_release", "digits@1.0.0")
    assert len(release.bundles) == 2
    _, profiles = call("registry", "list_profiles")
    assert profiles.total > 10
    _, shown = call("rollout", "get_rollout", rollout)
    assert (shown.id, shown.release) == (rollout, "digits@1.1.0")
    _, plan = call("rollout", "get_rollout_plan", rollout)
    assert plan.stages
    _, who = call("rollout", "list_rollout_devices", rollout)
    assert who.total > 0
    _, found = call("search", "find_anything", q="digits")
    assert {str(hit.kind) for hit in found.items} >= {"model", "release"}
    _, groups = call("fleet", "list_groups")
    assert groups.items == []
    _, told = call("telemetry", "get_release_performance", "digits@1.0.0")
    assert len(told.items) == 2
    _, having = call("fleet", "list_release_devices", "digits@1.1.0")
    assert having.total > 0
    _, happened = call("fleet", "list_events", rollout=rollout)
    assert happened.items
    _, strategy = call("rollout", "get_rollout_strategy", "canary")
    assert strategy.name == "canary"
    _moving(call)
    _rotating(call)
    status, health = call("server", "get_health")
    assert (status, health["status"]) == (200, "ok"), health
    return str(device)


def _moving(call: Caller) -> None:
    """Plan a move of the server, and drop it. The rest needs a place that answers: each says what is missing."""
    models = call.models
    status, planned = call("fleet", "plan_server_move", body=models.MovePlanIn(device_port=1))
    assert (status, planned.state, planned.number) == (201, "planned", 0), planned
    _, shown = call("fleet", "list_server_moves")
    assert shown.items[0].after.url.endswith(":1")
    status, _ = call("fleet", "start_server_move", body=models.MoveStartIn())
    assert status == 409
    status, _ = call("fleet", "finish_server_move", body=models.MoveFinishIn())
    assert status == 422
    _, dropped = call("fleet", "undo_server_move")
    assert dropped.state == "dropped"


def _rotating(call: Caller) -> None:
    """Rotate the device CA, and take it back."""
    models = call.models
    status, refused = call("fleet", "undo_ca_rotation")
    assert (status, refused.code) == (409, "ca_rotation.unknown")
    status, started = call("fleet", "start_ca_rotation", body=models.CaRotationStartIn(reason="it is old"))
    assert (status, started.state, started.reason) == (201, "started", "it is old"), started
    _, shown = call("fleet", "list_ca_rotations")
    assert shown.items[0].new_ca == started.new_ca
    assert call("fleet", "undo_ca_rotation")[1].state == "undoing"
    status, ended = call("fleet", "finish_ca_rotation", body=models.CaRotationFinishIn(leave_behind=9, reason="a try"))
    assert (status, ended.state) == (200, "undone"), ended


def _protecting(call: Caller) -> None:
    """Make a protection rule over no device, set it aside, and try to remove it."""
    models = call.models
    rule = models.ProtectionRuleIn(name="vault", selector="site=vault")
    status, made = call("fleet", "create_protection_rule", body=rule)
    assert (status, made.devices, made.ends_at) == (201, 0, None)
    glass = models.BreakGlassIn(reason="the cameras are blind", minutes=5)
    status, broken = call("fleet", "break_glass", "vault", body=glass)
    assert (status, broken.rule) == (201, "vault")
    _, listed = call("fleet", "list_protection_rules")
    assert [len(one.broken) for one in listed.items] == [1]
    _, ending = call("fleet", "end_protection_rule", "vault")
    assert ending.ends_at is not None
    _, kept = call("fleet", "keep_protection_rule", "vault")
    _, shown = call("fleet", "get_protection_rule", "vault")
    assert (kept.ends_at, shown.ends_at) == (None, None)


def _readmitting(call: Caller, device: str) -> None:
    """Decide about devices that ask to come back: nobody does."""
    models = call.models
    _, listed = call("fleet", "list_readmissions", state=models.ReadmissionState.PENDING)
    status, let_in = call("fleet", "approve_readmissions", body=models.ReadmissionsIn(devices=[device]))
    _, refused = call(
        "fleet", "refuse_readmissions", body=models.ReadmissionRefusalIn(devices=[device], reason="stolen")
    )
    assert (listed.total, status, [one.device for one in let_in.skipped + refused.skipped]) == (0, 200, [device] * 2)


def writing(call: Caller, device: str) -> None:
    """Make, change, refuse and remove."""
    _readmitting(call, device)
    models = call.models
    group = models.GroupIn(name="hall", selector="site=hall")
    status, made = call("fleet", "create_group", body=group, idempotency_key="once")
    again, same = call("fleet", "create_group", body=group, idempotency_key="once")
    assert (status, again, made.name) == (201, 201, same.name)
    status, refused = call("fleet", "create_group", body=group)
    assert (status, refused.code) == (409, "group.exists")
    assert refused.next_
    _, members = call("fleet", "list_group_members", "hall")
    assert {one.labels["site"] for one in members.items} == {"hall"}
    wider = models.GroupChangeIn(selector="site in (hall, yard)")
    status, tried = call("fleet", "update_group", "hall", body=wider, dry_run=True)
    assert (status, tried.devices > members.total) == (200, True)
    status, kept = call("fleet", "update_group", "hall", body=models.GroupChangeIn(selector="site = hall"))
    assert (status, kept.devices) == (200, members.total)
    _protecting(call)
    labels = models.LabelsIn(selector="group=hall", labels=models.LabelsInLabels.from_dict({"ring": "canary"}))
    _, told = call("fleet", "label_devices", body=labels, dry_run=True)
    assert told.changed > 0
    assert told.dry_run
    _, done = call("fleet", "label_devices", body=labels)
    assert done.changed == told.changed
    change = models.DeviceIn(labels=models.DeviceInLabels.from_dict({"ring": "late"}))
    status, changed = call("fleet", "update_device", device, body=change)
    assert (status, changed.labels["ring"]) == (200, "late")
    status, stale = call("fleet", "update_device", device, body=change, if_match='"old"')
    assert (status, stale.code) == (412, "request.precondition_failed")
    status, alias = call("registry", "set_alias", "digits", "prod", body=models.AliasIn(version="1.1.0"))
    assert (status, alias.ref) == (201, "digits@1.1.0")
    _, deployed = call("fleet", "deploy_release", "digits@prod", body=models.DeployIn(selector="", dry_run=True))
    assert (deployed.release, deployed.matched) == ("digits@1.1.0", 10)
    status, _ = call("fleet", "delete_group", "hall")
    assert status == 204
    status, gone = call("fleet", "get_group", "hall")
    assert (status, gone.code) == (404, "group.unknown")


def steering(call: Caller, old: str) -> None:
    """Plan, make and steer a rollout; look at what it and an older one decided."""
    models = call.models
    document = {"release": "seeds@1.0.0", "selector": "", "stages": [{"name": "all", "size": {"percent": 100}}]}
    status, plan = call("rollout", "plan_rollout", body=models.RolloutSpecIn.from_dict(document))
    assert (status, plan.ok) == (200, True)
    spec = models.RolloutSpecIn.from_dict(document)
    status, tried = call("rollout", "create_rollout", body=spec, dry_run=True)
    assert (status, tried.release) == (201, "seeds@1.0.0")
    status, made = call("rollout", "create_rollout", body=spec)
    assert (status, made.release) == (201, "seeds@1.0.0")
    status, refused = call(
        "rollout", "create_rollout", body=models.RolloutSpecIn.from_dict({"release": "seeds", "selector": ""})
    )
    assert (status, refused.code) == (422, "rollout.bad_spec")
    said = models.CommandIn(reason="for the suite")
    for operation, state in (("pause_rollout", "paused"), ("resume_rollout", "running")):
        status, steered = call("rollout", operation, made.id, body=said)
        assert (status, steered.state) == (200, state), operation
    status, refused = call("rollout", "resume_rollout", made.id, body=said)
    assert (status, refused.code) == (409, "rollout.illegal_state")
    _, open_ones = call("rollout", "list_rollouts", model="seeds", state="running,paused")
    assert [one.id for one in open_ones.items] == [made.id]
    status, ended = call("rollout", "abort_rollout", made.id, body=models.CommandIn(reason="enough", rollback=True))
    assert (status, ended.reason != "") == (200, True)
    status, refused = call("rollout", "retry_rollout", made.id, body=models.RetryIn(reason="once more"))
    assert (status, refused.code) == (409, "rollout.illegal_state")
    _, decisions = call("rollout", "list_rollout_decisions", old)
    assert decisions.items
    assert all(one.agrees for one in decisions.items)
    status, undone = call("rollout", "undo_model", body=models.UndoIn(name="digits", dry_run=True))
    assert (status, undone.devices, undone.devices_shown[0].runs) == (200, 10, "digits@1.1.0")
    status, tried_beside = call("rollout", "list_experiments")
    assert (status, tried_beside.total) == (200, 0)
    _, strategies = call("rollout", "list_rollout_strategies")
    assert strategies.total >= 5


def handing_out(call: Caller, device: str) -> None:
    """Make tokens of both kinds and take them back; ask devices for something."""
    models = call.models
    status, made = call("fleet", "create_enrollments", body=models.EnrollmentIn(count=2))
    assert (status, len(made.tokens)) == (201, 2)
    claim = made.tokens[0].id
    assert call("fleet", "get_enrollment", claim)[1].id == claim
    assert claim in [one.id for one in call("fleet", "list_enrollments")[1].items]
    assert call("fleet", "revoke_enrollment", claim)[0] == 204
    status, token = call("access", "create_token", body=models.TokenIn(name="ci", roles=[models.Role.VIEWER]))
    assert (status, token.token.startswith("edg_")) == (201, True)
    assert call("access", "get_token", token.id)[1].name == "ci"
    assert token.id in [one.id for one in call("access", "list_tokens")[1].items]
    status, gone = call("access", "revoke_token", token.id)
    assert (status, gone.revoked_at is not None) == (200, True)
    status, own = call("access", "create_own_token", body=models.OwnTokenIn(name="laptop", roles=[models.Role.VIEWER]))
    assert (status, own.roles) == (201, [models.Role.VIEWER])
    assert own.id in [one.id for one in call("access", "list_own_tokens")[1].items]
    assert call("access", "revoke_own_token", own.id)[0] == 200
    status, robot = call("access", "create_person", body=models.PersonIn(name="robot", kind=models.PersonKind.SERVICE))
    assert (status, robot.tokens) == (201, 0)
    assert robot.id in [one.id for one in call("access", "list_people")[1].items]
    assert call("access", "get_person", robot.id)[1].name == "robot"
    scoped = models.GrantIn(role=models.Role.OPERATOR, models=["digits"], sites=["hall"])
    status, granted = call("access", "grant_role", robot.id, body=scoped)
    assert (status, [one.sites for one in granted.grants]) == (200, [["hall"]])
    status, granted = call("access", "revoke_grant", robot.id, body=scoped)
    assert (status, granted.grants) == (200, [])
    status, ended = call("access", "update_person", robot.id, body=models.PersonChangeIn(disabled=True))
    assert (status, ended.disabled_at is not None) == (200, True)
    wanted = models.InvitationIn(person="cleo", roles=[models.Role.VIEWER])
    status, code = call("access", "create_invitation", body=wanted)
    assert (status, code.person, code.url_path.startswith("/invitation?code=")) == (201, "cleo", True)
    _trusting(call)
    status, task = call("fleet", "create_device_task", device, body=models.TaskIn(kind=models.TaskInKind.DIAG))
    assert (status, task.kind) == (201, "diag")
    assert call("fleet", "get_device_task", device, task.id)[1].id == task.id
    assert [one.id for one in call("fleet", "list_device_tasks", device)[1].items] == [task.id]
    asked = models.TasksIn(kind=models.TasksInKind.LOGS, selector="site=hall", dry_run=True)
    assert call("fleet", "create_tasks", body=asked)[1].matched > 0
    _, audit = call("access", "list_audit", action="revoke_token")
    assert [row.action for row in audit.items] == ["revoke_token"]
    status, trusted = call(
        "fleet", "clear_device_suspicion", device, body=models.ClearSuspicionIn(reason="not suspect at all")
    )
    assert (status, trusted.suspect_since, trusted.suspect_reason) == (200, None, "")
    status, _ = call("fleet", "revoke_device", device, dry_run=True)
    assert status == 204


def _trusting(call: Caller) -> None:
    """Trust a pipeline of CI, refuse a job of another, and trust it no longer."""
    models = call.models
    wanted = models.PipelineIn(
        name="vision",
        provider=models.Provider.GITHUB,
        repository="acme/vision",
        ref="refs/heads/main",
        roles=[models.Role.PUBLISHER],
    )
    status, made = call("access", "create_trusted_pipeline", body=wanted)
    assert (status, made.service) == (201, "ci:github:acme/vision")
    assert call("access", "get_trusted_pipeline", "vision")[1].ref == "refs/heads/main"
    assert [one.name for one in call("access", "list_trusted_pipelines")[1].items] == ["vision"]
    status, refused = call("access", "create_pipeline_token", body=models.IdTokenIn(id_token="no.token.atall"))
    assert (status, refused.code) == (401, "access.bad_id_token")
    assert call("access", "delete_trusted_pipeline", "vision")[0] == 204
    assert call("access", "list_identities")[1].items == []
    for status, refused in (
        call("access", "get_identity", "i-none"),
        call("access", "link_identity", "i-none", body=models.IdentityLinkIn(person="ann")),
        call("access", "unlink_identity", "i-none"),
    ):
        assert (status, refused.code) == (404, "access.identity_unknown")


def connecting(call: Caller) -> None:
    """Make, use and remove what others are told by, and what tells us."""
    models = call.models
    hook = models.WebhookIn(url="http://127.0.0.1:9/hook", types=["edgefleet.rollout.*"], name="ops")
    status, made = call("webhook", "create_webhook", body=hook)
    assert (status, made.webhook.name) == (201, "ops")
    hook_id = made.webhook.id
    status, sent = call("webhook", "ping_webhook", hook_id)
    assert (status, sent.type_) == (202, "edgefleet.ping")
    assert [one.id for one in call("webhook", "list_webhook_deliveries", hook_id)[1].items] == [sent.id]
    assert call("webhook", "get_webhook_delivery", hook_id, sent.id)[1].message_id == sent.message_id
    status, again = call("webhook", "redeliver_webhook", hook_id, sent.id)
    assert (status, again.message_id) == (200, sent.message_id)
    status, turned = call("webhook", "rotate_webhook", hook_id, body=models.RotateIn())
    assert (status, turned.secret != made.secret) == (200, True)
    assert call("webhook", "get_webhook", hook_id)[0] == 200
    assert call("webhook", "list_webhooks")[1].total == 1
    assert call("webhook", "delete_webhook", hook_id)[0] == 204
    assert call("webhook", "get_webhook", hook_id)[0] == 404
    governing.alarming(call)
    status, receiver = call("alerting", "create_alert_receiver", body=models.ReceiverIn(name="am"))
    assert status == 201
    assert call("alerting", "get_alert_receiver", receiver.receiver.id)[1].name == "am"
    assert call("alerting", "list_alert_receivers")[1].total == 1
    assert call("alerting", "delete_alert_receiver", receiver.receiver.id)[0] == 204


def drifting(call: Caller) -> None:
    """Ask for the drift of a model whose bundles have no reference, and choose a period in which nothing was counted."""
    status, drift = call("telemetry", "get_model_drift", "digits")
    assert (status, drift.state, drift.kind) == (200, "no_reference", "none")
    status, unknown = call("telemetry", "get_signal_drift", "digits", "temperature")
    assert (status, unknown.code) == (404, "drift.signal_unknown")
    period = call.models.BaselineIn(since=datetime(2026, 11, 20, tzinfo=UTC))
    status, refused = call("telemetry", "set_drift_baseline", "digits@1.0.0", body=period)
    assert (status, refused.code) == (409, "drift.nothing_counted")
    for operation in ("get_drift_baseline", "clear_drift_baseline"):
        status, none = call("telemetry", operation, "digits@1.0.0")
        assert (status, none.code) == (404, "drift.no_baseline")


def looking_back(call: Caller, device: str) -> None:
    """Ask for figures over time, as objects and as CSV, and why latency rose where nothing was measured."""
    assert call("fleet", "create_group", body=call.models.GroupIn(name="lab", selector="site=lab"))[0] == 201
    for operation, name in (
        ("get_fleet_metrics", ()), ("get_model_metrics", ("digits",)), ("get_group_metrics", ("lab",)), ("get_device_metrics", (device,))
    ):  # fmt: skip
        status, found = call("telemetry", operation, *name, points=100)
        assert (status, found.step_s) == (200, 900)
        assert call("telemetry", f"{operation}_csv", *name)[0] == 200
    assert call("fleet", "delete_group", "lab")[0] == 204
    status, explained = call("telemetry", "explain_latency", "digits")
    assert (status, explained.state) == (200, "no_data")


def logging(call: Caller) -> None:
    """Keep answers, look at the log, erase somebody, stop."""
    wanted = call.models.PredictionLogIn(ratio=0.5, keep_days=10)
    status, kept = call("predictions", "set_prediction_log", "digits", body=wanted)
    assert (status, str(kept.state), kept.keep_days) == (200, "sampled", 10)
    assert [one.model for one in call("predictions", "list_prediction_logs")[1].items] == ["digits"]
    assert call("predictions", "get_prediction_log", "digits")[1].ratio == 0.5
    assert call("predictions", "verify_prediction_log", "digits")[1].is_whole
    assert call("predictions", "list_prediction_log_files", "digits")[1].items == []
    status, none = call("predictions", "get_prediction_log_file", "digits", "0" * 64)
    assert (status, none.code) == (404, "predictions.unknown")
    status, receipt = call("predictions", "erase_subject", body=call.models.ErasureIn(subject="ann"))
    assert (status, receipt.rows, receipt.models) == (201, 0, ["digits"])
    assert call("predictions", "get_erasure", receipt.id)[1].id == receipt.id
    assert call("predictions", "list_erasures")[1].total == 1
    held = call.models.WrittenRecordIn(device="d-1", record="ab12", trace_id="t1")
    written = call.models.WrittenDataSetIn(
        model="digits",
        digest="a" * 64,
        format_=call.models.WrittenDataSetInFormat.NPZ,
        place="ann:/data/fog",
        records=[held],
    )
    status, noted = call("predictions", "create_data_set", body=written)
    assert (status, noted.records) == (201, 1)
    assert [one.id for one in call("predictions", "list_data_sets", model="digits")[1].items] == [noted.id]
    assert call("predictions", "list_data_set_records", noted.id, erasure=receipt.id)[1].items == []
    word = call.models.DataSetPurgeIn(erasure=receipt.id, digest="b" * 64)
    status, none = call("predictions", "purge_data_set", noted.id, body=word)
    assert (status, none.code) == (404, "data_set.unknown")
    assert call("predictions", "stop_prediction_log", "digits")[0] == 204


def auditing(call: Caller) -> None:
    """Look at the chain of the audit trail, prove an entry, read the lines and the file that publishes the head."""
    status, chain = call("access", "get_audit_chain")
    assert (status, chain.holds) == (200, True)
    assert [one.size for one in call("access", "list_audit_heads")[1].items] == [chain.head.size]
    assert call("access", "get_audit_head", chain.head.size)[1].root == chain.head.root
    status, proof = call("access", "prove_audit_entry", "1")
    assert (status, proof.entry.n, proof.head.size) == (200, 1, chain.head.size)
    status, lines = call("access", "get_audit_entries", limit=1)
    assert (status, json.loads(lines.payload.read())["hash"]) == (200, proof.entry.hash_)
    assert call("signing", "get_metadata_file", "timestamp.json")[1].to_dict()["signed"]["_type"] == "timestamp"


def labelling(call: Caller) -> None:
    """Ask how often answers are right where nobody has said so, and send labels that nobody can use."""
    status, accuracy = call("telemetry", "get_model_accuracy", "digits")
    assert (status, accuracy.lines, accuracy.concept.state) == (200, [], "few")
    body = call.models.FeedbackIn(csv="device,trace_id,label\nd-nobody,t1,1\n")
    status, refused = call("telemetry", "send_feedback", "digits", body=body)
    assert (status, refused.code) == (422, "feedback.no_labels")
    assert call("telemetry", "list_feedback", "digits")[1].total == 0
    status, unknown = call("telemetry", "get_feedback", "digits", "u-none")
    assert (status, unknown.code) == (404, "feedback.upload_unknown")


def _ceremony(call: Caller) -> None:
    """Ask for signatures of offline keys, refuse an answer, drop the request."""
    wanted = call.models.SigningRequestIn(parts=[PUBLIC_PART.read_text()])
    status, made = call("signing", "create_signing_request", body=wanted)
    assert (status, made.state, made.thresholds[0].missing) == (201, "waiting", 0)
    assert call("signing", "get_signing_request", made.id)[1].document == made.document
    assert call("signing", "list_signing_requests")[1].total == 1
    answers = call.models.SigningAnswersIn(answers=["{}"])
    status, refused = call("signing", "sign_signing_request", made.id, body=answers)
    assert (status, refused.code) == (422, "signing.bad_answer")
    assert call("signing", "drop_signing_request", made.id)[1].state == "dropped"


def _team(call: Caller) -> None:
    """Ask a team to take a model over, refuse an answer, drop the request; the server signs digits itself."""
    wanted = call.models.TeamIn(keys=[TEAM_KEY])
    status, made = call("signing", "set_team", "words", body=wanted)
    assert (status, made.act, made.needed) == (201, "team", 1)
    assert call("signing", "get_team_request", made.id)[1].document == made.document
    assert call("signing", "list_team_requests")[1].total == 1
    status, refused = call("signing", "sign_team_request", made.id, body=call.models.TeamAnswerIn(answer="{}"))
    assert (status, refused.code) == (422, "signing.bad_answer")
    assert call("signing", "drop_team_request", made.id)[1].state == "dropped"
    assert call("signing", "renew_team", "words")[0] == 404
    assert call("signing", "ask_team", "digits@1.0.0")[0] == 404


def keeping(call: Caller) -> None:
    """Look into bundles, keys and versions; remove an alias."""
    _, bundles = call("registry", "list_bundles", model="digits")
    status, bundle = call("registry", "get_bundle", bundles.items[0].sha256)
    assert (status, bundle.signature.state, bundle.signature.role) == (200, "signed", "m.digits")
    _, keys = call("signing", "list_keys")
    assert "root" in [one.name for one in keys.items]
    assert call("signing", "get_key", "root")[1].resign_at is None
    assert call("signing", "get_trust")[1].is_root_here
    assert "BEGIN X509 CRL" in call("signing", "get_broker_trust")[1].crl
    rotated = call("signing", "rotate_key", "director", body=call.models.RotateKeyIn())[1]
    assert [one.role for one in rotated.roles] == ["director"]
    revoked = call("signing", "revoke_key", "m.digits", body=call.models.RevokeKeyIn())[1]
    assert len(revoked.revoked) == 1
    status, signed = call("signing", "get_signing_progress")
    assert (status, signed.keyid) == (200, rotated.roles[0].keyid)
    _ceremony(call)
    _team(call)
    status, recovery = call("signing", "get_recovery")
    assert (status, recovery.words, recovery.models) == (200, [], [])
    nobody_named = call.models.RecoveryIn(models=["lost"])
    status, refused = call("signing", "sign_recovery", body=nobody_named, dry_run=True)
    assert (status, refused.code) == (409, "fleet.nothing_to_recover")
    status, compared = call("telemetry", "compare_versions", "digits", a="1.0.0", b="1.1.0")
    assert (status, compared.after.ref) == (200, "digits@1.1.0")
    assert [one.alias for one in call("registry", "list_aliases", "digits")[1].items] == ["prod"]
    assert call("registry", "get_alias", "digits", "prod")[1].ref == "digits@1.1.0"
    assert call("registry", "remove_alias", "digits", "prod")[0] == 204
    assert call("registry", "get_alias", "digits", "prod")[0] == 404
    key = "09" + "0" * 62
    status, sealed = call("fleet", "set_capture_key", body=call.models.CaptureKeyIn(public_key=key))
    assert (status, sealed.public_key) == (200, key)
    assert call("fleet", "get_capture_key")[1].public_key == key
    assert call("fleet", "remove_capture_key")[0] == 204
    assert [one.name for one in call("registry", "list_models")[1].items] == ["digits", "gauge", "leaves", "seeds"]
    assert call("registry", "get_model", "digits")[1].releases == 3


def main(url: str, token: str, rollout: str) -> None:
    """Run the suite; print how many calls were made, and of which operations."""
    call = Caller(url, token)
    device = reading(call, rollout)
    writing(call, device)
    steering(call, rollout)
    handing_out(call, device)
    connecting(call)
    drifting(call)
    looking_back(call, device)
    logging(call)
    auditing(call)
    labelling(call)
    keeping(call)
    answers.admitting(call)
    answers.asking(call, device)
    answers.publishing(call)
    answers.deciding(call)
    answers.experimenting(call)
    answers.looking_after(call, url)
    governing.retraining(call)
    governing.answering_for(call)
    governing.holding_to_policies(call)
    governing.paying(call)
    print(json.dumps({"calls": call.calls, "operations": sorted(call.operations)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
