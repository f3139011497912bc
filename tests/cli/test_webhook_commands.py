"""`edgectl webhook` and `edgectl alert-receiver`: secrets once, the log, and a test that tells what the receiver said."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Edgectl, Server
from tests.cli.fleet_stub import Stub, page, problem

WEBHOOK: dict[str, Any] = {
    "id": "wh-1",
    "name": "ops",
    "url": "https://ops.example/hook",
    "types": ["edgefleet.rollout.*"],
    "is_enabled": True,
    "disabled_reason": "",
    "created_at": "2026-01-03T12:00:00Z",
    "created_by": "ann",
    "held_until": None,
    "pending": 2,
    "dead": 0,
    "secrets": [{"created_at": "2026-01-03T12:00:00Z", "expires_at": None}],
}


def delivery(state: str = "delivered", **changes: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "webhook": "wh-1",
        "message_id": "evt-5",
        "type": "edgefleet.rollout.paused",
        "event": 5,
        "state": state,
        "created_at": "2026-01-03T12:00:00Z",
        "next_at": None,
        "done_at": None,
        "give_up_at": "2026-01-04T12:00:00Z",
        "attempts_made": 0,
        "status": None,
        "error": "",
        "attempts": [],
        **changes,
    }


def test_a_secret_goes_to_stdout_alone_and_the_warning_to_stderr(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("POST /webhooks", (201, {"webhook": WEBHOOK, "secret": "whsec_abc"}))
    fleet.says("POST /webhooks/wh-1:rotate", {"webhook": WEBHOOK, "secret": "whsec_new"})
    ran = edgectl(
        "webhook",
        "create",
        "https://ops.example/hook",
        "--events",
        "edgefleet.rollout.*,edgefleet.ping",
        "--name",
        "ops",
    )
    assert (ran.code, ran.out) == (0, "whsec_abc\n")
    assert "not shown again" in ran.err
    [body] = fleet.bodies("POST /webhooks")
    assert body == {
        "url": "https://ops.example/hook",
        "types": ["edgefleet.rollout.*", "edgefleet.ping"],
        "name": "ops",
    }
    assert edgectl("webhook", "rotate", "wh-1", "--overlap", "1h").out == "whsec_new\n"
    assert edgectl("webhook", "rotate", "wh-1", "--overlap", "0s").code == 0
    assert fleet.bodies("POST /webhooks/wh-1:rotate") == [{"overlap_s": 3600}, {"overlap_s": 0}]


def test_lists_fit_and_show_tells_all(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /webhooks", page([WEBHOOK, {**WEBHOOK, "id": "wh-2", "is_enabled": False}]))
    fleet.says("GET /webhooks/wh-1", {**WEBHOOK, "held_until": "2026-01-03T12:05:00Z"})
    fleet.says("GET /webhooks/wh-1/deliveries", page([delivery(), delivery("dead", error="the receiver answered 500")]))
    listed = edgectl("webhook", "list")
    assert max(map(len, listed.out.splitlines())) <= 80
    assert [line.split()[-3] for line in listed.out.splitlines()[1:] if line.startswith("wh-")] == ["on", "off"]
    assert "held until 2026-01-03 12:05:00" in edgectl("webhook", "show", "wh-1").out
    assert edgectl("webhook", "deliveries", "wh-1", "--state", "dead", "-o", "name").out.split() == ["7", "7"]
    assert fleet.queries("GET /webhooks/wh-1/deliveries")[0]["state"] == "dead"
    assert edgectl("webhook", "deliveries", "wh-1", "--state", "dead", "--delivery", "7").code == 2


def test_test_waits_for_the_answer_and_fails_with_it(edgectl: Edgectl, fleet: Stub) -> None:
    attempt = {"at": "2026-01-03T12:00:01Z", "took_ms": 12, "status": 200, "error": "", "answer": "ok"}
    fleet.says("POST /webhooks/wh-1:ping", (202, delivery("pending")))
    fleet.says("GET /webhooks/wh-1/deliveries/7", delivery("pending"), delivery("delivered", attempts=[attempt]))
    assert edgectl("webhook", "test", "wh-1").code == 0
    refused = {**attempt, "status": 500, "error": "the receiver answered 500"}
    fleet.says(
        "GET /webhooks/wh-1/deliveries/7", delivery("pending", attempts=[refused], error="the receiver answered 500")
    )
    ran = edgectl("webhook", "test", "wh-1")
    assert ran.code == 1
    assert ran.told()[1] == "the receiver answered 500"
    fleet.says("POST /webhooks/wh-1:ping", problem(409, "webhook.disabled_conflict", "off"))
    assert edgectl("webhook", "test", "wh-1").code == 6


def test_deleting_asks_first(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("DELETE /webhooks/wh-1", (204, {}))
    fleet.says("DELETE /alert-receivers/abc", (204, {}))
    for words in (("webhook", "delete", "wh-1"), ("alert-receiver", "delete", "abc")):
        assert edgectl(*words).code == 3
        assert edgectl(*words, "--yes").code == 0


def test_an_alert_receiver_s_url_is_printed_whole(edgectl: Edgectl, fleet: Stub) -> None:
    made = {"receiver": {"id": "abc"}, "url_path": "/api/v1/hooks/alertmanager/efh_abc_x"}
    fleet.says("POST /alert-receivers", (201, made))
    ran = edgectl("alert-receiver", "create", "prod", "--match", "severity=critical", "--model", "digits")
    assert ran.out == f"{fleet.url}/api/v1/hooks/alertmanager/efh_abc_x\n"
    [body] = fleet.bodies("POST /alert-receivers")
    assert body == {"name": "prod", "action": "pause", "matchers": ["severity=critical"], "model": "digits"}


def test_a_real_server_refuses_its_own_network_and_has_no_webhook(edgectl: Edgectl, admin: Server) -> None:
    ran = edgectl("webhook", "create", "http://127.0.0.1:1/hook")
    assert ran.code == 2
    assert "webhook_networks" in ran.told()[2]
    assert edgectl("webhook", "list", "-o", "json").json["items"] == []
    assert edgectl("webhook", "show", "wh-no").code == 5
    made = edgectl("alert-receiver", "create", "--name", "m", "-o", "json").json
    assert edgectl("alert-receiver", "list", "-o", "name").out.split() == [made["receiver"]["id"]]
    assert edgectl("alert-receiver", "create", "m", "--match", "a==b").code == 2
    assert edgectl("alert-receiver", "create").code == 2
    assert edgectl("alert-receiver", "create", "m", "--name", "n").code == 2


@pytest.mark.parametrize("command", ["webhook", "alert-receiver"])
def test_only_an_admin_makes_them(edgectl: Edgectl, server: Server, command: str) -> None:
    made = {"webhook": ("create", "https://h.example/"), "alert-receiver": ("create", "--name", "m")}[command]
    reach = ("--server", server.url, "--token", server.tokens["operator"])
    assert edgectl(command, *made, *reach).code == 4
    assert edgectl(command, "list", *reach).code == 0
    assert edgectl(command, "list", "--server", server.url, "--token", server.tokens["viewer"]).code == 4
