"""Calls whose answers come from elsewhere: from devices, from the engine, from a converter, from a monitoring system."""

import base64
import json
from hashlib import sha256
from io import BytesIO
from typing import Any

from tests.server.rest.client_caller import Caller

ORT, LITERT = "generic-x86_64-ort", "generic-x86_64-litert"
SHADOW = {"name": "beside", "size": {"percent": 100}, "soak": "1h", "mode": "shadow"}
REST = {"name": "rest", "size": {"percent": 100}}


def admitting(call: Caller) -> None:
    """Let one of two waiting boards in, turn the other away."""
    models = call.models
    waiting = call("fleet", "list_pending_devices")[1]
    assert [str(one.state) for one in waiting.items] == ["pending"] * 2
    ours, theirs = (one.id for one in waiting.items)
    status, let_in = call("fleet", "approve_pending_devices", body=models.PendingChoiceIn(ids=[ours]))
    assert (status, let_in.matched, [one.id for one in let_in.done]) == (200, 1, [ours])
    device = let_in.done[0].device
    assert call("fleet", "get_device", device)[1].id == device
    status, turned_away = call("fleet", "reject_pending_devices", body=models.RejectIn(ids=[theirs], reason="not ours"))
    assert (status, [(one.id, str(one.state)) for one in turned_away.done]) == (200, [(theirs, "rejected")])
    assert call("fleet", "list_pending_devices")[1].items == []
    status, _ = call("fleet", "revoke_device", device)
    assert status == 204
    assert call("fleet", "get_device", device)[1].status == "revoked"


def asking(call: Caller, device: str) -> None:
    """Ask a device for a log, for its captured records and for its newest answers; read what it sent."""
    models = call.models
    for kind, wanted, media_type in (("diag", b"\x1f\x8b", "application/gzip"), ("logs", b"line 1\n", "text/plain")):
        status, task = call("fleet", "create_device_task", device, body=models.TaskIn(kind=models.TaskInKind(kind)))
        assert (status, task.kind) == (201, kind)
        call.until(lambda one: one.state == "done", "fleet", "get_device_task", device, task.id)
        status, parsed = call("fleet", "get_device_task_result", device, task.id)
        assert (status, call.last.content[: len(wanted)]) == (200, wanted)
        assert call.last.headers["content-type"].partition(";")[0] == media_type
    assert parsed == "line 1\nline 2\n"
    key = "09" + "0" * 62
    call("fleet", "set_capture_key", body=models.CaptureKeyIn(public_key=key))
    status, fetch = call("telemetry", "fetch_captures", device, body=models.CaptureFetchIn(limit=3))
    assert (status, fetch.device, fetch.limit) == (202, device, 3)
    done = call.until(lambda one: one.state == "done", "telemetry", "get_capture_fetch", device, fetch.id)
    assert done.received == 1
    records = call("telemetry", "list_captures", device, fetch=fetch.id)[1]
    assert [(one.id, one.label, one.seen) for one in records.items] == [("r1", 7, 40)]
    status, record = call("telemetry", "get_capture", device, "r1")
    assert (status, base64.b64decode(record.sealed)) == (200, b"sealed")
    status, watch = call("telemetry", "watch_device", device)
    assert (status, watch.device) == (200, device)
    shown = call.until(lambda one: one.items, "telemetry", "list_predictions", device, model="digits")
    assert [(one.trace_id, one.labels, one.scores) for one in shown.items] == [("t1", ["seven", "one"], [0.9, 0.1])]
    later = call("telemetry", "list_predictions", device, after_id=shown.last_id)[1]
    assert (later.items, later.until) == ([], shown.until)


def publishing(call: Caller) -> None:
    """Send a model, publish it, end its conversion; read what the conversion of another one reported."""
    models, data = call.models, b"a model of buds"
    digest = sha256(data).hexdigest()
    status, missing = call("registry", "head_blob", digest)
    assert (status, missing) == (404, None)
    status, stored = call("registry", "put_blob", digest, body=call.types.File(payload=BytesIO(data)))
    assert (status, stored.sha256, stored.length) == (201, digest, len(data))
    assert call("registry", "head_blob", digest)[0] == 200
    assert call.last.headers["content-length"] == str(len(data))
    assert call("registry", "get_blob", digest)[1].payload.read() == data
    file = models.SourceFileIn(path="buds.onnx", sha256=digest, length=len(data))
    source = models.SourceIn(kind=models.SourceInKind.FILE, files=[file])
    wanted = models.ReleaseIn(model="buds", version="1.0.0", source=source, profiles=[ORT])
    status, release = call("registry", "create_release", body=wanted)
    assert (status, release.ref, [job.profile for job in release.jobs]) == (201, "buds@1.0.0", [ORT])
    status, same = call("registry", "create_release", body=wanted)
    assert (status, same.source_sha256) == (200, release.source_sha256)
    status, asked = call("conversion", "end_release_search", "buds@1.0.0")
    assert (status, [job.state for job in asked.jobs]) == (200, ["queued"])
    status, ended = call("conversion", "cancel_release", "buds@1.0.0")
    assert (status, [job.state for job in ended.jobs]) == (200, ["cancelled"])
    assert call("conversion", "cancel_release", "buds@1.0.0")[1].code == "conversion.over"
    retire = models.RetireIn(reason="its labels are wrong")
    status, unsigned = call("registry", "withdraw_release", "buds@1.0.0", body=retire)
    assert (status, unsigned.status) == (409, 409)
    status, tried = call("registry", "withdraw_release", "gauge@1.0.0", body=retire, dry_run=True)
    assert (status, tried.withdrawn.reason) == (200, "its labels are wrong")
    assert call("registry", "delete_release", "buds@1.0.0", reason="a trial")[0] == 204
    assert call("registry", "get_release", "buds@1.0.0")[0] == 404
    status, source = call("registry", "get_release_source", "gauge@1.0.0")
    assert (status, source.kind, len(source.files)) == (200, "file", 1)
    status, tools = call("conversion", "get_tools")
    assert (status, "sklearn" in tools.names, tools.reads_pickles) == (200, True, False)
    status, report = call("conversion", "get_release_report", "gauge@1.0.0")
    assert (status, report["model"], report["profiles"][0]["bundle"]["metric"]["value"]) == (200, "gauge", 0.975)
    status, page = call("conversion", "get_release_report_page", "gauge@1.0.0")
    assert (status, page.startswith("<!doctype html>"), "gauge" in page) == (200, True, True)


def approving(call: Caller, operation: str, site: str, state: str) -> None:
    """Answer a rollout that asks before its first stage, and see what the engine makes of the answer."""
    models = call.models
    asked = {"name": "asked", "size": {"percent": 50}, "approval": {"role": "admin", "timeout": "1h"}}
    rollout = _begin(call, "leaves@1.0.0", f"site={site}", asked, REST)
    waiting = call.until(lambda one: one.state == "awaiting_approval", "rollout", "get_rollout", rollout)
    assert [one.approval.role for one in waiting.stages[0].strata] == ["admin"]
    status, refused = call("rollout", operation, rollout, body=models.AnswerIn(stratum="nowhere"))
    assert (status, refused.code) == (409, "rollout.illegal_state"), operation
    answer = models.AnswerIn(reason="seen in the lab")
    who = call
    if operation == "approve_rollout":
        status, own = call("rollout", operation, rollout, body=answer)
        assert (status, own.code) == (403, "rollout.own_approval_forbidden")
        who = call.as_another("second", models.Role.ADMIN)
    status, answered = who("rollout", operation, rollout, body=answer)
    assert (status, "seen in the lab" in str(answered.to_dict())) == (200, True), operation
    call.until(lambda one: one.state == state, "rollout", "get_rollout", rollout)


def deciding(call: Caller) -> None:
    """Answer what rollouts ask of people: yes, no, on to the next, and leave that out."""
    models = call.models
    approving(call, "approve_rollout", "hall", "running")
    approving(call, "deny_rollout", "yard", "cancelled")
    first = {"name": "first", "size": {"percent": 40}, "soak": "1h"}
    second = {"name": "second", "size": {"percent": 70}}
    rollout = _begin(call, "leaves@1.0.0", "site=yard", first, second, REST)
    call.until(lambda one: one.stages[0].state == "exposing", "rollout", "get_rollout", rollout)
    skip = models.SkipIn(stage="second", reason="seen in the lab")
    status, without = call("rollout", "skip_rollout_stage", rollout, body=skip)
    assert (status, [one.state for one in without.stages][1:]) == (200, ["skipped", "pending"])
    reason = models.CommandIn(reason="it is good")
    status, promoted = call("rollout", "promote_rollout", rollout, body=reason)
    assert (status, promoted.stages[0].strength) == (200, "override")
    taking_alerts(call, rollout)


def taking_alerts(call: Caller, rollout: str) -> None:
    """Let a monitoring system pause a rollout, once."""
    models = call.models
    body = models.ReceiverIn(name="prometheus", matchers=['severity="critical"'])
    status, made = call("alerting", "create_alert_receiver", body=body)
    assert status == 201
    alert = {
        "status": "firing", "fingerprint": "c0ffee", "startsAt": "2026-11-25T12:00:00Z",
        "labels": {"alertname": "EdgeErrors", "severity": "critical", "edgefleet_rollout": rollout},
        "annotations": {"summary": "5 % of the answers are errors"},
    }  # fmt: skip
    told = models.TakeAlertsBody.from_dict({"version": "4", "groupKey": "g", "status": "firing", "alerts": [alert]})
    token = made.url_path.rpartition("/")[2]
    for outcome in ("acted", "seen"):
        status, taken = call("alerting", "take_alerts", token, body=told)
        assert (status, [(one.rollout, one.outcome) for one in taken.results]) == (200, [(rollout, outcome)]), taken
    assert call("rollout", "get_rollout", rollout)[1].state == "paused"
    assert call("alerting", "take_alerts", "efh_none", body=told)[0] == 401


def experimenting(call: Caller) -> None:
    """Let devices run an older release beside what serves."""
    rollout = _begin(call, "digits@1.0.0", f"profile={LITERT}", SHADOW, REST)
    found = call.until(lambda one: one.trials[0].devices, "rollout", "get_experiment", rollout)
    assert (found.id, found.release, found.modes, found.is_open) == (rollout, "digits@1.0.0", ["shadow"], True)
    assert [(one.mode, one.stages) for one in found.trials] == [("shadow", ["beside"])]
    (result,) = found.trials[0].results
    device = call("fleet", "list_devices", selector=f"profile={LITERT}", limit=1)[1].items[0].id
    windows = call.until(lambda one: one.total, "telemetry", "list_device_telemetry", device).items
    assert {(one.model, one.lane, one.n) for one in windows} == {
        ("digits", "active", 100),
        ("digits", "candidate", 100),
    }
    assert (result.stratum, result.shadow.agreed / result.shadow.judged) == (LITERT, 0.97)
    assert [one.id for one in call("rollout", "list_experiments")[1].items] == [rollout]


def looking_after(call: Caller, url: str) -> None:
    """Read what is said of the server itself and of its profiles; follow the stream of events; sign a browser in."""
    status, profile = call("registry", "get_profile", ORT)
    assert (status, profile["name"], profile["arch"]) == (200, ORT, "x86_64")
    status, cost = call("telemetry", "get_profile_cost", ORT)
    assert (status, cost.profile, bool(cost.reason)) == (200, ORT, True)
    address = url.removeprefix("http://")
    (group,) = call("server", "list_scrape_targets")[1]
    assert (group.targets, group.labels["__metrics_path__"]) == ([address], "/metrics")
    status, figures = call("server", "get_metrics")
    assert (status, 'operation="list_scrape_targets"' in figures) == (200, True)
    status, ready = call("server", "get_readiness")
    assert (status, ready["status"]) == (200, "ready")
    status, text = call("fleet", "stream_events", after_id=0, max_s=1.5, kind="enrolled")
    assert status == 200
    events = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
    listed = call("fleet", "list_events", kind="enrolled")[1]
    assert [one["id"] for one in events] == [one.id for one in reversed(listed.items)]
    status, rest = call("fleet", "stream_events", last_event_id=str(events[-2]["id"]), max_s=1.5, kind="enrolled")
    assert (status, rest.count("data:")) == (200, 1)
    status, link = call("access", "create_login_link")
    assert status == 201
    opened = call.client.get_httpx_client().get(link.url_path)
    assert opened.status_code in (200, 303), opened.text


def _begin(call: Caller, release: str, selector: str, *stages: dict[str, Any]) -> str:
    spec = {"release": release, "selector": selector, "stages": list(stages)}
    status, made = call("rollout", "create_rollout", body=call.models.RolloutSpecIn.from_dict(spec))
    assert status == 201, made
    assert made.release == release
    return str(made.id)
