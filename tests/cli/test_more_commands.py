"""Commands that look at one thing: search, aliases, audit, status and history of rollouts, why a device lags, doctor, config, top."""

from __future__ import annotations

import json
import re
import stat
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from edgefleet_cli.admin.installation import doctor
from edgefleet_cli.core import completion
from edgefleet_cli.core.api.device import Device
from edgefleet_cli.core.contexts import Context, load_contexts
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.device.device_filters import DeviceListFilter
from edgefleet_cli.render.sparkline import bar, spark, thinned
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page, problem, rollout
from tests.cli.terminal import Terminal

OLD, NEW = "a" * 64, "b" * 64


def device(name: str = "d-1", **changes: Any) -> dict[str, Any]:
    """Return a device that should run digits@1.1.0 and does."""
    report = {
        "model": "digits",
        "release": "digits@1.1.0",
        "sha256": NEW,
        "wanted_sha256": NEW,
        "phase": "committed",
        **changes.pop("report", {}),
    }
    plain = {
        "id": name,
        "profile": "generic-x86_64-ort",
        "arch": "x86_64",
        "status": "online",
        "labels": {},
        "refused": None,
        "last_seen": "2026-01-03T11:59:00+00:00",
        "free_mb": 100,
        "agent_version": "0.1.0",
        "reported_gen": 7,
        "desired": {"gen": 7, "models": [{"model": "digits", "release": "digits@1.1.0", "sha256": NEW}]},
        "models": [report],
    }
    return {**plain, **changes}


# ---- which devices are listed


def test_flags_become_a_selector_of_the_server(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /devices", page([device()]))
    flags = ("-l", "site=berlin", "--status", "online,unknown", "--running", "digits@1.1.0", "--limit", "3")
    assert edgectl("device", "list", *flags, "-o", "name").out == "d-1\n"
    (asked,) = fleet.queries("GET /devices")
    assert asked["selector"] == "site=berlin,status in (online,unknown),model.digits=1.1.0"
    assert asked["limit"] == "3"
    edgectl("device", "list", "--running", "digits")
    assert fleet.queries("GET /devices")[-1]["selector"] == "model.digits"
    assert edgectl("device", "list", "--status", "sleeping").code == 2


def test_what_the_server_cannot_choose_is_chosen_here(edgectl: Edgectl, fleet: Stub) -> None:
    other = device("d-2", desired={"gen": 1, "models": []}, last_seen=None)
    fleet.says("GET /devices", page([device(), other]))
    assert edgectl("device", "list", "--desired", "digits@1.1.0", "-o", "name").out == "d-1\n"
    assert edgectl("device", "list", "--desired", "digits", "-o", "json").json["total"] == 1
    assert edgectl("device", "list", "--sort=-agent", "--limit", "1", "-o", "name").out == "d-1\n"
    asked = fleet.queries("GET /devices")[-1]
    assert (asked["limit"], "sort" in asked) == ("200", False)
    for wrong in (("--sort", "colour"), ("--desired", "x", "--sort", "colour"), ("--sort=-",)):
        refused = edgectl("device", "list", *wrong)
        assert refused.code == 2
        assert "seen" in refused.told()[1]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("id", "id"),
        ("-id", "-id"),
        ("-profile", "-profile"),
        ("status", "status"),
        ("seen", "-last_seen"),
        ("-seen", "last_seen"),
    ],
)
def test_the_server_sorts_what_it_can(edgectl: Edgectl, fleet: Stub, sort: str, order: str) -> None:
    fleet.says("GET /devices", page([device()]))
    assert edgectl("device", "list", f"--sort={sort}", "--limit", "3", "-o", "name").out == "d-1\n"
    (asked,) = fleet.queries("GET /devices")
    assert (asked["sort"], asked["limit"]) == (order, "3")
    # all have to be looked at here; and many pages are not read in an order that changes meanwhile
    for more in (("--stale", "1s"), ("--limit", "1000"), ()):
        edgectl("device", "list", f"--sort={sort}", *more)
        assert "sort" not in fleet.queries("GET /devices")[-1]


def test_stale_and_sorted() -> None:
    seen = {"a": "2026-01-03T11:59:30+00:00", "b": None, "c": "2026-01-03T11:00:00+00:00"}
    devices = [Reply(device(name, last_seen=at, free_mb=len(name)), Device) for name, at in seen.items()]
    ids = [one.value.id for one in DeviceListFilter(stale_s=600.0).chosen(devices, NOON)]
    assert ids == ["b", "c"]
    assert [one.value.id for one in DeviceListFilter(sort="seen").chosen(devices, NOON)] == ["a", "c", "b"]
    assert [one.value.id for one in DeviceListFilter(sort="-seen", limit=2).chosen(devices, NOON)] == ["b", "c"]


def test_a_status_is_sorted_here_as_the_server_sorts_it() -> None:
    statuses = {"a": "unknown", "b": "online", "c": "revoked", "d": "offline"}
    devices = [Reply(device(name, status=status), Device) for name, status in statuses.items()]
    assert [one.value.id for one in DeviceListFilter(sort="status").chosen(devices, NOON)] == ["b", "d", "a", "c"]
    assert [one.value.id for one in DeviceListFilter(sort="-status").chosen(devices, NOON)] == ["c", "a", "d", "b"]


def test_a_watched_list_tells_what_is_new_or_changed(edgectl: Edgectl, fleet: Stub) -> None:
    changed = device(status="offline")
    fleet.says("GET /devices", page([device()]), page([device()]), page([changed, device("d-2")]))
    ran = edgectl("device", "list", "--watch", "--timeout", "4500ms", "-o", "json")
    assert ran.code == 8, ran.err
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [(one["id"], one["status"]) for one in told] == [("d-1", "online"), ("d-1", "offline"), ("d-2", "online")]


def test_a_watched_list_is_redrawn_on_a_terminal(fleet: Stub) -> None:
    fleet.says("GET /rollouts", page([rollout()]), page([rollout(state="finished")]))
    terminal = Terminal(fleet, "rollout", "list", "--watch", "--timeout", "2500ms")
    assert terminal.end() == 8
    assert "running" in terminal.shown
    assert "finished" in terminal.shown


# ---- why a device does not run what it should

LAGGING = {
    "model": "digits",
    "wanted": "digits@1.1.0",
    "running": "digits@1.0.0",
    "is_settled": False,
    "why": "it has not taken up document 7 yet, only 6; in r-7f3a9c it is eligible, waits for its window",
    "next": "the window opens",
    "rollout": "r-7f3a9c",
}


def test_explain_prints_what_the_server_says(edgectl: Edgectl, fleet: Stub) -> None:
    told = {"device": "d-1", "status": "online", "pinned": "rig", "items": [LAGGING]}
    fleet.says("GET /devices/d-1/explain", told)
    ran = edgectl("device", "explain", "d-1", "-o", "json")
    assert (ran.code, ran.json) == (1, told)
    ran = edgectl("device", "explain", "d-1", "-o", "csv")
    assert ran.out.splitlines()[0] == "model,should_run,runs,why,next,rollout"
    assert "the window opens" in ran.out
    assert "pinned: rig" in ran.err
    assert "unpin d-1" in ran.err


def test_explain_of_a_device_that_runs_as_it_should_exits_0(edgectl: Edgectl, fleet: Stub) -> None:
    settled = LAGGING | {"running": "digits@1.1.0", "is_settled": True, "why": "it runs as it should", "next": ""}
    fleet.says("GET /devices/d-1/explain", {"device": "d-1", "status": "online", "pinned": "", "items": [settled]})
    ran = edgectl("device", "explain", "d-1")
    assert (ran.code, ran.err) == (0, "")
    assert "it runs as it should" in ran.out
    fleet.says("GET /devices/d-1/explain", {"device": "d-1", "status": "online", "pinned": "", "items": []})
    ran = edgectl("device", "explain", "d-1")
    assert (ran.code, ran.err) == (0, "no models on this device\n")


def test_a_device_is_pinned_at_a_release_and_unpinned(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("PATCH /devices/d-1", device())
    fleet.says("POST /releases/digits@1.1.0:deploy", {"set": [{"device": "d-1", "gen": 8}], "skipped": []})
    assert edgectl("device", "pin", "d-1", "digits@1.1.0", "--reason", "rig").code == 0
    assert edgectl("device", "unpin", "d-1").code == 0
    assert fleet.bodies("PATCH /devices/d-1") == [
        {"labels": {"edgefleet/pinned": "rig"}},
        {"labels": {"edgefleet/pinned": None}},
    ]
    assert fleet.bodies("POST /releases/digits@1.1.0:deploy")[0]["device"] == "d-1"


def test_many_devices_are_labelled_after_a_question(edgectl: Edgectl, fleet: Stub) -> None:
    answer = {"matched": 3, "changed": 2, "sample": ["d-1", "d-2"], "dry_run": True}
    fleet.says("POST /devices:label", answer)
    body = {"selector": "site=lab", "labels": {"ring": "1", "old": None}}
    assert edgectl("device", "label", "-l", "site=lab", "ring=1", "old-", "--dry-run", "-o", "name").out == "d-1\nd-2\n"
    assert edgectl("device", "label", "-l", "site=lab", "ring=1", "old-").code == 3
    assert edgectl("device", "label", "-l", "site=lab", "ring=1", "old-", "--yes").code == 0
    assert [one["dry_run"] for one in fleet.bodies("POST /devices:label")] == [True, True, True, False]
    assert all(body.items() <= one.items() for one in fleet.bodies("POST /devices:label"))
    assert edgectl("device", "label", "d-1").code == 2
    assert edgectl("device", "label", "d-1", "a=b", "--dry-run").code == 2


# ---- search, aliases, audit


def test_search_and_aliases(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /search", page([{"kind": "device", "id": "cam-7", "detail": "online", "url": "/devices/cam-7"}]))
    assert edgectl("search", "cam", "-o", "name").out == "device/cam-7\n"
    assert "edgectl device show cam-7" in edgectl("search", "cam").out
    assert fleet.queries("GET /search")[0] == {"q": "cam"}
    alias = {
        "model": "digits", "alias": "stable", "version": "1.1.0", "ref": "digits@1.1.0",
        "set_at": "2026-01-03T12:00:00+00:00", "set_by": "ana",
    }  # fmt: skip
    fleet.says("GET /models/digits/aliases", page([alias]))
    fleet.says("PUT /models/digits/aliases/stable", alias)
    fleet.says("DELETE /models/digits/aliases/stable", (204, {}))
    assert edgectl("model", "alias", "list", "digits", "-o", "name").out == "digits@stable\n"
    assert "digits@stable is digits@1.1.0 now" in edgectl("model", "alias", "set", "digits", "stable", "1.1.0").err
    assert fleet.bodies("PUT /models/digits/aliases/stable") == [{"version": "1.1.0"}]
    assert edgectl("model", "alias", "remove", "digits", "stable").code == 3
    assert edgectl("model", "alias", "remove", "digits", "stable", "--yes").code == 0


def test_an_alias_is_declared(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("{apiVersion: edgefleet/v1, kind: Alias, metadata: {name: digits@stable}, spec: {version: 1.1.0}}")
    here = {"model": "digits", "alias": "stable", "version": "1.0.0"}
    where = "/models/digits/aliases/stable"
    fleet.says(f"GET {where}", problem(404, "alias.unknown", "no"), here, {**here, "version": "1.1.0"})
    fleet.says(f"PUT {where}", here)
    told = [edgectl("apply", "-f", file, "-o", "json").json["items"][0]["action"] for _ in range(3)]
    assert told == ["created", "changed", "unchanged"]
    assert fleet.bodies(f"PUT {where}") == [{"version": "1.1.0"}] * 2


def _entry(number: int, **changes: Any) -> dict[str, Any]:
    at = (NOON - timedelta(minutes=number)).isoformat()
    plain = {
        "id": 100 - number,
        "at": at,
        "actor": "ana (t1)",
        "action": "create_rollout",
        "object": "/api/v1/rollouts",
    }
    return {**plain, "status": 201, "request_id": f"q{number}", **changes}


def test_the_audit_trail_is_narrowed(edgectl: Edgectl, fleet: Stub) -> None:
    entries = [_entry(0), _entry(1, actor="bo (t2)"), _entry(2, action="revoke_device"), _entry(90)]
    fleet.says("GET /audit", page(entries))
    since = (NOON - timedelta(hours=1)).isoformat()
    assert edgectl("audit", "list", "--since", since, "-o", "name").out.split() == ["100", "99", "98"]
    assert edgectl("audit", "list", "--actor", "bo", "-o", "name").out.split() == ["99"]
    assert edgectl("audit", "list", "--action", "revoke_device", "-o", "name").out.split() == ["98"]
    assert edgectl("audit", "list", "--limit", "1", "-o", "csv").out.splitlines()[0].startswith("id,at,actor,action")


def test_a_time_is_a_time_or_how_long_ago() -> None:
    assert time_of("2h", NOON) == NOON - timedelta(hours=2)
    assert time_of("2026-01-03T12:00:00Z", NOON) == NOON
    assert time_of("2026-01-03T12:00:00", NOON) == NOON
    with pytest.raises(UsageError):
        time_of("yesterday", NOON)


# ---- rollouts


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("rolled_back", 7), ("regressed", 7), ("running", 8)])
def test_status_is_one_line_and_an_exit_code(edgectl: Edgectl, fleet: Stub, state: str, code: int) -> None:
    fleet.says("GET /rollouts/r-7f3a9c", rollout(state=state))
    ran = edgectl("rollout", "status", "r-7f3a9c")
    assert ran.code == code
    assert ran.out.startswith(f"r-7f3a9c digits@1.1.0 {state}")


def test_history_says_how_long_each_took(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollouts", page([rollout(state="finished", finished_at="2026-01-03T12:29:01+00:00")]))
    ran = edgectl("rollout", "history", "digits")
    assert "30m" in ran.out
    assert fleet.queries("GET /rollouts")[0]["model"] == "digits"


def test_regressed_rollouts_are_named(edgectl: Edgectl, fleet: Stub) -> None:
    reason = "after it had finished, p: 3 of 20 failed"
    bad = rollout(state="regressed", reason=reason)
    back = rollout(id="r-2", state="rolled_back", reason=reason)
    fleet.says("GET /rollouts", page([rollout(id="r-0"), bad, back]))
    ran = edgectl("rollout", "list")
    assert f"r-7f3a9c (digits@1.1.0) regressed after it had finished: {reason}" in ran.err
    assert "r-2 (digits@1.1.0) regressed" in ran.err
    assert "r-0" not in ran.err
    fleet.says("GET /rollouts/r-7f3a9c", bad)
    watched = edgectl("rollout", "watch", "r-7f3a9c")
    assert watched.code == 7, "nothing more happens by itself"
    assert "abort r-7f3a9c --rollback" in watched.err


# ---- this side


def test_doctor_finds_what_is_wrong_and_says_what_to_do(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGECTL_SERVER")
    monkeypatch.delenv("EDGECTL_TOKEN")
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("HOME", str(tmp_path))
    none = edgectl("doctor", "-o", "json")
    assert none.code == 1
    assert [(one["check"], one["status"]) for one in none.json["items"]] == [
        ("config", "ok"), ("server", "fail"), ("completion", "warn"),
    ]  # fmt: skip
    file = tmp_path / "config" / "edgectl.json"
    load_contexts(file).put(Context("lab", fleet.url, "edg_x"), make_current=True)
    file.chmod(0o644)
    (tmp_path / ".bashrc").write_text('eval "$(edgectl completion bash)"\n')
    found = {one["check"]: one for one in edgectl("doctor", "-o", "json").json["items"]}
    assert (found["config"]["status"], "chmod 600" in found["config"]["next"]) == ("fail", True)
    assert found["completion"]["status"] == "ok"
    assert found["tls"]["detail"] == "plain HTTP on this machine"
    assert found["reachable"]["status"] == "fail", "the stub knows no /healthz"
    away = edgectl("doctor", "--server", "http://edge.example.invalid", "--token", "x", "-o", "json")
    statuses = {one["check"]: one["status"] for one in away.json["items"]}
    assert (statuses["tls"], statuses["reachable"]) == ("fail", "fail")


def test_doctor_says_which_answers_of_a_slow_server_did_not_come(
    edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/healthz":
                self.send_response(200)
                self.end_headers()
            else:
                ended.wait(60)

    ended = Event()
    monkeypatch.setattr(doctor, "SLOW_S", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        ran = edgectl("--timeout", "1s", "doctor", "--server", url, "--token", "edg_x", "-o", "json")
        ended.set()
        server.shutdown()
    found = {one["check"]: one for one in ran.json["items"]}
    assert [found[name]["status"] for name in ("reachable", "ready", "version", "token")] == [
        "ok",
        "fail",
        "warn",
        "fail",
    ]
    assert "no answer of /readyz: timed out" in found["ready"]["detail"]


def test_config_view_says_where_each_setting_comes_from(
    edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edgectl("context", "add", "lab", "--server", "http://127.0.0.1:9", "--token", "edg_secret")
    edgectl("context", "use", "lab")
    monkeypatch.setenv("EDGECTL_TIMEOUT", "2m")

    def seen(*flags: str) -> dict[str, tuple[str, str]]:
        ran = edgectl("config", "view", "-o", "json", *flags)
        assert "edg_secret" not in ran.out
        return {one["setting"]: (one["value"], one["from"]) for one in ran.json["items"]}

    plain = seen()
    assert plain["server"] == ("http://127.0.0.1:9", "context")
    assert plain["token"] == ("set", "context")
    assert plain["timeout"] == ("120 s", "EDGECTL_TIMEOUT")
    assert plain["output"] == ("json", "--output")
    monkeypatch.setenv("EDGECTL_SERVER", "http://127.0.0.1:8")
    assert seen()["server"] == ("http://127.0.0.1:8", "EDGECTL_SERVER")
    assert seen("--server", "http://127.0.0.1:7")["server"] == ("http://127.0.0.1:7", "--server")


def test_names_are_completed_from_a_private_cache(fleet: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fleet.says("GET /devices", page([{"id": "cam-1"}, {"id": "cam-2"}, {"id": "gate"}]))
    assert completion.devices("cam") == ["cam-1", "cam-2"]
    assert completion.devices("g") == ["gate"]
    assert len(fleet.queries("GET /devices")) == 1, "the second TAB asks nobody"
    (file,) = (tmp_path / "cache" / "edgefleet" / "completion").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "edg_test" not in file.read_text() + file.name
    monkeypatch.setenv("EDGECTL_TOKEN", "edg_other")
    completion.devices("")
    assert len(fleet.queries("GET /devices")) == 2, "another token sees another list"
    file.write_text("broken")
    monkeypatch.setenv("EDGECTL_TOKEN", "edg_test")
    assert completion.devices("gate") == ["gate"]
    monkeypatch.setenv("EDGECTL_SERVER", "http://127.0.0.1:1")
    assert completion.devices("") == []


# ---- pictures


def test_lines_and_bars() -> None:
    assert spark([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert spark([0, 0]) == "▁▁"
    assert spark([5, None, 5]) == "▅ ▅"
    assert spark([]) == spark([None]) == ""
    assert thinned([1, 3, 5, 7], 2) == [2, 6]
    assert thinned([1, None], 5) == [1, None]
    assert bar([("█", 5), ("✗", 1)], 10) == "█████✗····"
    assert bar([("█", 1)], 1000) == "█·········", "a part that is not nothing is seen"
    assert bar([("█", 999)], 1000) == "█████████·", "only what is whole fills it"
    assert bar([], 0) == ""


def _window(n: int, p95: float) -> dict[str, Any]:
    return {"model": "digits", "version": "1.1.0", "lane": "active", "n": n, "latency_p95_ms": p95, "length_s": 60}


def test_a_device_shows_how_its_figures_went(edgectl: Edgectl, fleet: Stub) -> None:
    telemetry = {"received_at": "2026-01-03T12:00:00+00:00", "system": {}, "windows": [_window(30, 4.0)]}
    reason = "its MQTT session is open"
    fleet.says("GET /devices/d-1", device(telemetry=telemetry, facts={}, status_reason=reason))
    fleet.says("GET /devices/d-1/telemetry", page([_window(30, 4.0), _window(20, 8.0), _window(10, 2.0)]))
    out = edgectl("device", "show", "d-1").out
    assert re.search(r"digits +▁▅█ +30 +▁█▃ +4\.00 ms", out), out
    assert re.search(r"why online +its MQTT session is open\n", out), out
    assert "last message" in out


def test_a_device_shows_how_schedules_stand_in_words(edgectl: Edgectl, fleet: Stub) -> None:
    stands = {"every": "1h", "state": "running", "due_s": 0, "runs": 8, "missed": 4}
    fleet.says("GET /devices/d-1", device(facts={"schedules": {"demand": stands}, "arch": "x86_64"}))
    out = edgectl("device", "show", "d-1").out
    assert re.search(r"schedules +demand: each 1h; runs now; 8 runs, 4 missed\n", out), out


def test_a_revoked_device_shows_when_it_was_cut_off(edgectl: Edgectl, fleet: Stub) -> None:
    at = NOON.isoformat()
    fleet.says("GET /devices/d-1", device(status="revoked", facts={}, revoked_at=at))
    fleet.says("GET /devices/d-1/telemetry", page([]))
    assert "not yet: look at `edgectl server check`" in edgectl("device", "show", "d-1").out
    fleet.says("GET /devices/d-1", device(status="revoked", facts={}, revoked_at=at, cut_off_at=at))
    out = edgectl("device", "show", "d-1").out
    revoked, cut_off = (re.search(rf"{what} +(.+)\n", out) for what in ("revoked", "cut off"))
    assert revoked
    assert cut_off
    assert revoked[1] == cut_off[1]


def test_top_once_without_a_terminal_and_live_on_one(edgectl: Edgectl, fleet: Stub) -> None:
    event = {"id": 5, "device": "d-1", "at": NOON.isoformat(), "kind": "crash", "model": "digits", "detail": {}}
    fleet.says("GET /events", page([event]))
    summary = {"devices": 1, "status": {"online": 1}, "profiles": {}, "models": []}
    fleet.says("GET /fleet/summary", summary)
    fleet.says("GET /rollouts", page([rollout()]))
    fleet.says("GET /devices", page([device()]))
    fleet.says("GET /devices/d-1", device())
    fleet.says("GET /devices/d-1/telemetry", page([_window(30, 4.0), _window(10, 2.0)]))
    seen = edgectl("top", "-o", "json").json
    assert (seen["summary"], seen["devices"][0]["id"]) == (summary, "d-1")
    assert "1 device: 1 online" in edgectl("top").out
    terminal = Terminal(fleet, "top", "--plain", "--timeout", "1s")
    assert terminal.end() == 8
    assert "r-7f3a9c" in terminal.shown
    assert "█" in terminal.shown


def test_a_suspect_device_is_named_and_cleared(edgectl: Edgectl, fleet: Stub) -> None:
    liar = device(suspect_since=NOON.isoformat(), suspect_reason="nobody else sees its golden failure")
    fleet.says("GET /devices/d-1", liar)
    assert "nobody else sees its golden failure" in edgectl("device", "show", "d-1").out
    fleet.says("GET /devices", page([liar]))
    assert "suspect" in edgectl("device", "list", "-l", "suspect").out
    assert fleet.queries("GET /devices")[-1]["selector"] == "suspect"
    fleet.says("POST /devices/d-1:clear-suspicion", device())
    refused = edgectl("device", "clear-suspicion", "d-1")
    assert (refused.code, fleet.bodies("POST /devices/d-1:clear-suspicion")) == (3, [])
    cleared = edgectl("device", "clear-suspicion", "d-1", "--reason", "new memory", "--yes")
    assert (cleared.code, fleet.bodies("POST /devices/d-1:clear-suspicion")) == (0, [{"reason": "new memory"}])
    assert "d-1 is not suspect" in cleared.out + cleared.err
