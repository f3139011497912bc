"""Calls for alerts and objectives, what is trained again, who answers for it and what it costs. Imports nothing of this house."""

import tarfile
from datetime import UTC, datetime

from tests.server.rest.client_caller import Caller


def alarming(call: Caller) -> None:
    """Look at alerts and rules; make, use and remove what suppresses them, and where messages go."""
    models = call.models
    _, alerts = call("alerting", "list_alerts")
    first = alerts.items[0].id
    assert call("alerting", "get_alert", first)[1].id == first
    status, acked = call("alerting", "ack_alert", first, body=models.AckIn(comment="on my way"))
    assert (status, acked.ack_comment) == (200, "on my way")
    assert call("alerting", "list_alert_rules")[1].total >= 12
    assert call("alerting", "get_alert_rule", "latency_up")[1].threshold == 1.5
    status, rule = call("alerting", "update_alert_rule", "latency_up", body=models.RuleChangeIn(threshold=2))
    assert (status, rule.threshold) == (200, 2)
    status, silence = call("alerting", "create_alert_silence", body=models.SilenceIn(matchers=["site=lab"], for_s=60))
    assert status == 201
    assert call("alerting", "list_alert_silences")[1].total == 1
    assert call("alerting", "get_alert_silence", silence.id)[1].matchers == ["site=lab"]
    assert call("alerting", "end_alert_silence", silence.id)[0] == 204
    nightly = models.MaintenanceWindowIn(name="nightly", cron="0 1 * * *", duration_s=3600)
    status, window = call("alerting", "create_maintenance_window", body=nightly)
    assert status == 201
    assert call("alerting", "list_maintenance_windows")[1].total == 1
    assert call("alerting", "get_maintenance_window", window.id)[1].name == "nightly"
    assert call("alerting", "delete_maintenance_window", window.id)[0] == 204
    aiming(call)
    wanted = models.ContactIn(name="ops", url="ntfy://edgefleet")
    status, contact = call("alerting", "create_contact_point", body=wanted)
    assert (status, contact.service) == (201, "ntfy")
    assert call("alerting", "test_contact_point", contact.id)[0] == 202
    assert call("alerting", "list_contact_deliveries", contact.id)[1].total == 1
    assert call("alerting", "get_contact_point", contact.id)[1].pending == 1
    assert call("alerting", "list_contact_points")[1].total == 1
    changed = call("alerting", "update_contact_point", contact.id, body=models.ContactChangeIn(severity="critical"))
    assert (changed[0], changed[1].severity, changed[1].name) == (200, "critical", "ops")
    assert call("alerting", "delete_contact_point", contact.id)[0] == 204


def aiming(call: Caller) -> None:
    """Set, read and remove an objective."""
    source = {"metricSource": {"type": "edgefleet", "spec": {"metric": "latency_ms"}}}
    spec = {
        "service": "digits",
        "indicator": {"spec": {"thresholdMetric": source}},
        "timeWindow": [{"duration": "28d", "isRolling": True}],
        "budgetingMethod": "Occurrences",
        "objectives": [{"op": "lte", "value": 100, "target": 0.99}],
    }
    document = {"apiVersion": "openslo/v1", "kind": "SLO", "metadata": {"name": "digits-fast"}, "spec": spec}
    wanted = call.models.SloIn.from_dict(document)
    assert call("objectives", "put_slo", "digits-fast", body=wanted)[0] == 201
    assert call("objectives", "list_slos")[1].total == 1
    assert call("objectives", "get_slo", "digits-fast")[1].slo.model == "digits"
    assert call("objectives", "delete_slo", "digits-fast")[0] == 204


def retraining(call: Caller) -> None:
    """Make, change and remove a trigger; start, refuse and end what it starts. A runner finds nothing to do, and holds no lease."""
    models, tag = call.models, "retraining"
    wanted = models.TriggerIn(name="again", model="digits", on=models.TriggerOn.HAND)
    status, made = call(tag, "create_trigger", body=wanted)
    assert (status, made.name, made.enabled, made.approval) == (201, "again", True, True)
    assert call(tag, "list_triggers")[1].total == 1
    assert call(tag, "update_trigger", "again", body=models.TriggerChangeIn(budget=2))[1].budget == 2
    assert call(tag, "get_trigger", "again")[1].says
    word = models.AnswerRetrainingIn(reason="fog")
    status, run = call(tag, "start_retraining", "again", body=word)
    assert (status, run.state, call(tag, "get_retraining", run.id)[1].id) == (201, "awaiting_approval", run.id)
    assert call(tag, "approve_retraining", run.id, body=word)[0] == 403
    other = call.as_another("third", models.Role.APPROVER)
    assert other(tag, "reject_retraining", run.id, body=word)[1].state == "rejected"
    assert call(tag, "cancel_retraining", run.id, body=word)[0] == 409
    assert call(tag, "lease_retraining", body=models.LeaseIn(model="digits", holder="box"))[0] == 204
    assert call(tag, "renew_retraining", run.id, body=models.RenewIn(lease="x"))[0] == 409
    assert call(tag, "complete_retraining", run.id, body=models.CompleteIn(release="digits@1.0.0"))[0] == 409
    assert call(tag, "fail_retraining", run.id, body=models.FailIn(why="no disk"))[0] == 409
    assert call(tag, "list_retraining_captures", run.id)[1].total == 0
    assert call(tag, "list_retrainings", model="digits")[1].total == 1
    assert call(tag, "delete_trigger", "again")[0] == 204


def answering_for(call: Caller) -> None:
    """State who answers for a release, and read its card in every form, and the evidence of its model."""
    wanted = call.models.ModelCardIn(owner="Line team", licence="Apache-2.0", limits=["night shifts"])
    status, card = call("registry", "put_model_card", "digits@1.0.0", body=wanted)
    assert (status, card.stated.owner, card.stated.of) == (200, "Line team", "digits@1.0.0")
    assert call("registry", "get_model_card", "digits@1.0.0")[1].sections[0].title == "Model"
    assert call("registry", "get_model_card_text", "digits@1.0.0")[0] == 200
    assert call("registry", "get_model_card_pdf", "digits@1.0.0")[0] == 200
    assert call.last.content.startswith(b"%PDF-")
    status, archive = call("governance", "get_model_evidence", "digits")
    with tarfile.open(fileobj=archive.payload) as files:
        assert (status, files.getnames()[-2:]) == (200, ["evidence.json", "evidence.sig.json"])


def holding_to_policies(call: Caller) -> None:
    """Set, read and remove a release policy, and ask whether a release has what it requires."""
    wanted = call.models.ReleasePolicyIn(require=["owner"], models=["buds"])
    assert call("governance", "set_release_policy", "owned", body=wanted)[0] == 201
    assert call("governance", "list_release_policies")[1].total == 1
    assert call("governance", "get_release_policy", "owned")[1].require == ["owner"]
    assert call("governance", "check_release_policies", "digits@1.0.0")[1].is_deployable
    other = call.as_another("fourth", call.models.Role.ADMIN)
    assert other("governance", "end_release_policy", "owned")[1].policy.change.ends
    assert call("governance", "keep_release_policy", "owned")[1].change is None
    seen = call.models.ApprovePolicyIn(asked_at=datetime(2026, 11, 25, tzinfo=UTC))
    assert call("governance", "approve_release_policy", "owned", body=seen)[0] == 409
    assert call("governance", "end_release_policy", "owned")[1].policy is None


def paying(call: Caller) -> None:
    """Set, read and remove prices; ask what the fleet cost, in units and in money."""
    models, tag = call.models, "cost"
    assert call(tag, "get_prices")[0] == 404
    prices = models.PricesIn(currency="EUR", down_gb=0.09)
    status, known = call(tag, "set_prices", body=prices)
    assert (status, known.prices.currency, known.set_by) == (200, "EUR", "test")
    assert call(tag, "get_prices")[1].prices.down_gb == 0.09
    assert call(tag, "get_cost", model="digits")[1].currency == "EUR"
    assert call(tag, "remove_prices")[0] == 204
    assert call(tag, "get_cost")[1].currency == ""
    priced = models.CostIn(prices=models.PricesIn(currency="CHF", down_gb=1), model="digits")
    status, report = call(tag, "price_cost", body=priced)
    assert (status, report.currency) == (200, "CHF")
