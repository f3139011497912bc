"""`edgectl rollout` against a server that answers as the API does: what is asked, what is shown, and the exit code."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import SPEC, Stub, counts, decision, device, page, plan, problem, rollout

_ID = "r-7f3a9c"
_AT = f"/rollouts/{_ID}"
_FILE = json.dumps(SPEC)
_DEVICES = [
    device("device-01"),
    device("device-02", state="failed", error_class="nonfinite", reason="3 of 20 answers were not finite"),
]


@pytest.fixture
def served(fleet: Stub) -> Stub:
    """A server with one running rollout."""
    fleet.says("GET /rollouts", page([rollout()]))
    fleet.says("POST /rollouts", (201, rollout()))
    fleet.says("POST /rollouts:plan", plan())
    fleet.says(f"GET {_AT}", rollout())
    fleet.says(f"GET {_AT}/plan", plan())
    fleet.says(f"GET {_AT}/devices", page(_DEVICES))
    fleet.says(f"GET {_AT}/decisions", page([decision(2), decision(1, verdict="hold")]))
    return fleet


_READS: list[tuple[tuple[str, ...], str, Any]] = [
    (("list",), "GET /rollouts", page([rollout()])),
    (("show", _ID), f"GET {_AT}", rollout()),
    (("plan", _ID), f"GET {_AT}/plan", plan()),
    (("plan", "-f", "-"), "POST /rollouts:plan", plan()),
    (("lint", "-f", "-"), "POST /rollouts:plan", plan()),
    (("explain", _ID), f"GET {_AT}/decisions", page([decision(2), decision(1, verdict="hold")])),
    (("devices", _ID), f"GET {_AT}/devices", page(_DEVICES)),
    (("create", "-f", "-"), "POST /rollouts", rollout()),
    (("create", "-f", "-", "--dry-run"), "POST /rollouts:plan", plan()),
]


@pytest.mark.parametrize(("command", "what", "answer"), _READS, ids=lambda value: str(value)[:30])
def test_json_and_yaml_are_the_answer_itself(
    edgectl: Edgectl, served: Stub, command: tuple[str, ...], what: str, answer: Any
) -> None:
    ran = edgectl("rollout", *command, "-o", "json", stdin=_FILE)
    assert (ran.code, ran.json) == (0, answer), ran.err
    assert yaml.safe_load(edgectl("rollout", *command, "-o", "yaml", stdin=_FILE).out) == answer
    assert what in [asked.what for asked in served.asked]


@pytest.mark.parametrize("form", ["table", "wide", "name", "csv"])
@pytest.mark.parametrize("command", [command for command, _, _ in _READS], ids=" ".join)
def test_every_command_has_every_format_and_its_tables_fit(
    edgectl: Edgectl, served: Stub, command: tuple[str, ...], form: str
) -> None:
    ran = edgectl("rollout", *command, "-o", form, stdin=_FILE)
    assert ran.code == 0, ran.err
    assert ran.out
    if form in {"table", "wide"}:
        assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_the_list_asks_by_state_and_model(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "list", "--state", "running", "--model", "digits")
    assert [query | {"limit": ""} for query in served.queries("GET /rollouts")] == [
        {"state": "running", "model": "digits", "limit": ""}
    ]
    for word in (_ID, "digits@1.1.0", "running", "canary", "1 of 2"):
        assert word in ran.out


def test_an_empty_list_says_how_to_start(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollouts", page([]))
    ran = edgectl("rollout", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "edgectl rollout create" in ran.err
    filtered = edgectl("rollout", "list", "--state", "running")
    assert filtered.err == "no rollout matches; without --state, --model and --device, all are listed\n"


def test_a_rollout_is_made_of_flags(edgectl: Edgectl, served: Stub) -> None:
    flags = ("--to", "env=prod", "--stages", "1,100%", "--soak", "30s", "--promote", "all_healthy", "--name", "mine")
    ran = edgectl("rollout", "create", "digits@1.1.0", *flags)
    assert ran.code == 0, ran.err
    (body,) = served.bodies("POST /rollouts")
    assert body["metadata"] == {"name": "mine"}
    assert [stage["size"] for stage in body["spec"]["stages"]] == [{"count": 1}, {"percent": 100}]
    assert _ID in ran.out
    assert "all_healthy" in ran.out
    assert f"edgectl rollout watch {_ID}" in ran.err


def test_a_file_goes_to_the_server_as_it_is(edgectl: Edgectl, served: Stub, tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "edgefleet/v1", "kind": "Rollout", "spec": SPEC}))
    assert edgectl("rollout", "create", "-f", file, "-o", "name").out == f"{_ID}\n"
    assert served.bodies("POST /rollouts") == [{"apiVersion": "edgefleet/v1", "kind": "Rollout", "spec": SPEC}]


def test_a_shown_rollout_can_be_created_again(edgectl: Edgectl, served: Stub) -> None:
    shown = edgectl("rollout", "show", _ID, "-o", "yaml").out
    assert edgectl("rollout", "create", "-f", "-", stdin=shown).code == 0
    assert served.bodies("POST /rollouts")[0]["spec"] == SPEC


def test_a_dry_run_starts_nothing(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "create", "digits@1.1.0", "--to", "", "--dry-run")
    assert ran.code == 0
    assert "device-01" in ran.out
    assert "nothing was started" in ran.err
    served.says("POST /rollouts:plan", plan(ok=False))
    assert edgectl("rollout", "create", "digits@1.1.0", "--to", "", "--dry-run").code == 1
    assert served.bodies("POST /rollouts") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "digits@1.1.0"),
        ("create", "--to", "a=b"),
        ("create", "digits@1.1.0", "-f", "-"),
        ("create", "-f", "-", "--to", "a=b"),
        ("create", "digits@1.1.0", "--to", "", "--stages", "ten"),
        ("create", "-f", "absent.yaml"),
        ("plan",),
        ("plan", _ID, "-f", "-"),
        ("lint",),
        ("promote", _ID),
    ],
)
def test_wrong_usage_asks_nothing_of_the_server(edgectl: Edgectl, fleet: Stub, arguments: tuple[str, ...]) -> None:
    ran = edgectl("rollout", *arguments, stdin=_FILE)
    assert (ran.code, ran.out) == (2, "")
    ran.told()
    assert fleet.asked == []


def test_a_bad_spec_names_its_fields(edgectl: Edgectl, fleet: Stub) -> None:
    errors = [
        {"path": "spec.stages.0.size", "message": "needs percent or count"},
        {"path": ["spec", "typo"], "message": "?"},
    ]
    fleet.says("POST /rollouts", problem(422, "rollout.bad_spec", "the spec cannot be used", errors=errors))
    ran = edgectl("rollout", "create", "-f", "-", stdin=_FILE)
    assert (ran.code, ran.out) == (2, "")
    assert ran.told()[1] == "spec.stages.0.size: needs percent or count; spec.typo: ?"


def test_what_the_lint_refuses_names_its_findings(edgectl: Edgectl, fleet: Stub) -> None:
    found = [
        {"level": "error", "stage": 0, "stratum": "small", "message": "cannot be met"},
        {"level": "error", "stage": None, "stratum": None, "message": "nothing matches"},
        {"level": "warning", "stage": 1, "stratum": None, "message": "no soak"},
    ]
    fleet.says("POST /rollouts", problem(422, "rollout.lint", "the spec cannot be met", errors=found))
    ran = edgectl("rollout", "create", "-f", "-", stdin=_FILE)
    assert ran.told()[1] == "stages[0]/small: cannot be met; nothing matches"


@pytest.mark.parametrize(("status", "code"), [(404, 5), (409, 6), (403, 4), (401, 4)])
def test_refusals_have_their_exit_code(edgectl: Edgectl, fleet: Stub, status: int, code: int) -> None:
    fleet.says("POST /rollouts", problem(status, "rollout.active_exists", "another rollout holds device-01"))
    ran = edgectl("rollout", "create", "digits@1.1.0", "--to", "")
    assert (ran.code, ran.out) == (code, "")
    assert ran.told()[0] == "another rollout holds device-01"


@pytest.mark.parametrize("verb", ["show", "watch", "plan", "explain", "devices", "pause", "resume"])
def test_a_rollout_that_is_not_there_exits_5(edgectl: Edgectl, fleet: Stub, verb: str) -> None:
    ran = edgectl("rollout", verb, "r-nope")
    assert (ran.code, ran.out) == (5, "")
    ran.told()


def test_lint_shows_findings_and_the_rule_of_each_cell(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "lint", "-f", "-", stdin=_FILE)
    assert ran.code == 0
    assert "0 errors, 1 warning" in ran.err
    for word in ("warning", "one device tells", "take at least 2", "all_healthy", "fewer than"):
        assert word in ran.out


def test_lint_exits_1_with_an_error_and_lists_it_first(edgectl: Edgectl, served: Stub) -> None:
    error = {
        "level": "error",
        "code": "lint.power",
        "stage": 1,
        "stratum": None,
        "message": "no",
        "next": "use percent",
    }
    served.says("POST /rollouts:plan", plan(ok=False, findings=[*plan()["findings"], error]))
    ran = edgectl("rollout", "lint", "-f", "-", "-o", "csv", stdin=_FILE)
    assert ran.code == 1
    assert ran.out.splitlines()[1].startswith("error,rest,-,no")
    assert "1 error, 1 warning" in ran.err


def test_the_plan_says_who_and_who_not(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "plan", _ID)
    for word in ("device-01", "rank 1 of 4", "pi-1", "has no", "publish one"):
        assert word in ran.out
    assert "no bundle for raspberry-pi-4-ort: 1 device left out" in ran.err
    assert "and 2 more devices" in ran.err


def test_show_says_that_a_rollout_is_on_hold(edgectl: Edgectl, served: Stub) -> None:
    served.says(f"GET {_AT}", rollout(is_braked=True))
    assert re.search(r"^on hold +no more devices switch to it$", edgectl("rollout", "show", _ID).out, re.MULTILINE)


def test_show_lists_failed_devices_with_reasons(edgectl: Edgectl, served: Stub) -> None:
    served.says(f"GET {_AT}", rollout(counts=counts(exposed=2, failed=1)))
    served.says(f"GET {_AT}/devices", page([_DEVICES[1]]), page([]))
    ran = edgectl("rollout", "show", _ID)
    assert "on hold" not in ran.out
    assert "◐ canary: soaking" in ran.out
    assert "nonfinite: 3 of" in ran.out
    assert ran.out.count("device-02") == 1
    assert [query["state"] for query in served.queries(f"GET {_AT}/devices")] == [
        "failed",
        "lost",
        "regressed",
        "rolled_back",
    ]


def test_devices_are_asked_by_state_and_stage_and_shown_with_it(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "devices", _ID, "--state", "failed", "--stage", "0")
    (query,) = served.queries(f"GET {_AT}/devices")
    assert (query["state"], query["stage"]) == ("failed", "0")
    assert "canary" in ran.out


def test_explain_shows_the_newest_decision_of_each_cell(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "explain", _ID)
    assert ran.code == 0
    head, row = next((head, row) for head, row in itertools.pairwise(ran.out.splitlines()) if head.startswith("STAGE"))
    assert head.split() == ["STAGE", "PROFILE", "DEVICES", "FAILED", "EVIDENCE", "DECISION", "CHECKED"]
    assert re.match(r"canary +generic-\S+ +1 +0 +abort 0.87 +advance: every +✓ *$", row), row
    assert "hold:" not in ran.out
    assert "e_abort" not in ran.out, "raw figures are for -o json"
    assert "hold: every" in edgectl("rollout", "explain", _ID, "--all").out


@pytest.mark.parametrize("form", ["table", "json", "csv", "name"])
def test_a_decision_that_its_evidence_does_not_give_exits_1(edgectl: Edgectl, served: Stub, form: str) -> None:
    again = {
        "verdict": "roll_back",
        "reason": "2 failed",
        "figures": {"exposed": 1, "healthy": 1, "failed": 2, "e_abort": 9.0},
    }
    wrong = decision(1, verdict="advance", recomputed=again, agrees=False)
    served.says(f"GET {_AT}/decisions", page([decision(2), wrong]))
    ran = edgectl("rollout", "explain", _ID, "-o", form)
    assert ran.code == 1
    assert "1 decision cannot be reproduced" in ran.err
    if form == "table":
        words = " ".join(ran.out.split())
        assert "✗ the stored evidence gives roll_back: 2 failed; failed 0 → 2; e_abort 0.87 → 9" in words


def test_a_decision_of_older_rules_may_come_out_otherwise_today(edgectl: Edgectl, served: Stub) -> None:
    again = {"verdict": "hold", "code": "waiting", "reason": "2 wait", "figures": {}, "rule_version": 2}
    served.says(f"GET {_AT}/decisions", page([decision(1, figures={}, recomputed=again, agrees=False)]))
    ran = edgectl("rollout", "explain", _ID, "-o", "table")
    assert ran.code == 0, "it was right when it was made"
    words = " ".join(ran.out.split())
    assert "other rules: the stored evidence gives by the rules of today (2) hold: 2 wait" in words


def test_explain_names_what_it_waits_for(edgectl: Edgectl, served: Stub) -> None:
    waits = [
        device("device-03", state="downloading", online="offline", deadline="2026-01-03T18:00:00+00:00"),
        *(device(f"slow-{i}", state="offered", reason="not heard of for 2h") for i in range(6)),
        device("later", state="eligible", stage="rest"),
        device("done"),
        device("gone", state="unreachable"),
    ]
    served.says(f"GET {_AT}/devices", page(waits))
    words = " ".join(edgectl("rollout", "explain", _ID, "-o", "table").out.split())
    assert "6 offered not heard of for" in words
    assert "and 1 more" in words
    assert "2026-01-03 18:00:00" in words
    assert "offline" in words
    assert "unreachable" in words
    assert "later" not in words
    assert "done" not in words


def test_explain_says_until_when_devices_soak(edgectl: Edgectl, served: Stub) -> None:
    switched_at = datetime.now(UTC) - timedelta(seconds=5)
    served.says(
        f"GET {_AT}/devices", page([device("fresh", display_name="Roof 3", switched_at=switched_at.isoformat())])
    )
    words = " ".join(edgectl("rollout", "explain", _ID).out.split())
    assert "Roof 3 (fresh)" in words
    assert str(switched_at + timedelta(seconds=30))[:19] in words


def test_explain_shows_the_word_of_a_person_over_the_last_decision(
    edgectl: Edgectl, served: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = rollout()
    moved["stages"][0]["strata"][0].update(state="passed", strength="override", reason="promoted by ana: seen by eye")
    served.says(f"GET {_AT}", moved)
    monkeypatch.setenv("COLUMNS", "140")
    words = edgectl("rollout", "explain", _ID, "--all").out
    assert words.count("passed: promoted by ana: seen by eye") == 1


@pytest.mark.parametrize(
    ("arguments", "verb", "body"),
    [
        (("pause", "--reason", "odd"), "pause", {"reason": "odd"}),
        (("pause",), "pause", {"reason": ""}),
        (("resume",), "resume", {"reason": ""}),
        (("abort", "--yes"), "abort", {"reason": "", "rollback": False}),
        (("abort", "--rollback", "--reason", "bad", "--yes"), "abort", {"reason": "bad", "rollback": True}),
        (("promote", "--reason", "seen by eye"), "promote", {"reason": "seen by eye", "stratum": None}),
        (("promote", "--reason", "r", "--stratum", "s"), "promote", {"reason": "r", "stratum": "s"}),
        (("retry",), "retry", {"reason": "", "failed": False, "devices": []}),
        (("retry", "--failed", "--reason", "r"), "retry", {"reason": "r", "failed": True, "devices": []}),
        (("retry", "--device", "a", "--device", "b"), "retry", {"reason": "", "failed": False, "devices": ["a", "b"]}),
    ],
)
def test_control_is_one_request_and_tells_the_new_state(
    edgectl: Edgectl, served: Stub, arguments: tuple[str, ...], verb: str, body: Any
) -> None:
    served.says(f"POST {_AT}:{verb}", rollout(state="paused", reason="by ana: odd"))
    name, *flags = arguments
    ran = edgectl("rollout", name, _ID, *flags)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert served.bodies(f"POST {_AT}:{verb}") == [body]
    assert f"{_ID} is paused: by ana: odd" in ran.err
    assert edgectl("rollout", name, _ID, *flags, "-o", "json").json["state"] == "paused"


def test_rollback_is_abort_with_rollback(edgectl: Edgectl, served: Stub) -> None:
    served.says(f"POST {_AT}:abort", rollout(state="rolling_back"))
    assert edgectl("rollout", "rollback", _ID, "--reason", "bad", "--yes").code == 0
    assert served.bodies(f"POST {_AT}:abort") == [{"reason": "bad", "rollback": True}]


def test_an_aborted_rollout_is_called_so_and_found_so(edgectl: Edgectl, served: Stub) -> None:
    served.says("GET /rollouts", page([rollout(state="cancelled")]))
    assert " aborted " in edgectl("rollout", "list", "--state", "aborted").out
    assert served.queries("GET /rollouts")[0]["state"] == "cancelled"


def test_abort_asks_first(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("rollout", "abort", _ID, "--rollback")
    assert (ran.code, ran.out) == (3, "")
    assert "digits@1.1.0" in ran.told()[1]
    assert "They roll back" in ran.told()[1]
    assert "--yes" in ran.told()[2]
    assert served.bodies(f"POST {_AT}:abort") == []


def test_an_illegal_state_exits_6(edgectl: Edgectl, served: Stub) -> None:
    served.says(f"POST {_AT}:resume", problem(409, "rollout.illegal_state", "it is finished"))
    assert edgectl("rollout", "resume", _ID).code == 6


def test_deploy_by_canary_starts_a_rollout_with_the_stages_of_the_server(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("deploy", "digits@1.1.0", "--to", "env=prod", "--strategy", "canary")
    assert ran.code == 0, ran.err
    assert [body["spec"] for body in served.bodies("POST /rollouts")] == [
        {"release": "digits@1.1.0", "selector": "env=prod"}
    ]
    assert _ID in ran.out
    assert f"edgectl rollout watch {_ID}" in ran.err


@pytest.mark.parametrize("strategy", ["rolling", "blue-green", "shadow", "ab"])
def test_deploy_by_another_strategy_names_it_to_the_server(edgectl: Edgectl, served: Stub, strategy: str) -> None:
    assert edgectl("deploy", "digits@1.1.0", "--to", "env=prod", "--strategy", strategy).code == 0
    assert [body["spec"]["strategy"] for body in served.bodies("POST /rollouts")] == [strategy]


def test_deploy_by_canary_to_one_device_and_as_a_dry_run(edgectl: Edgectl, served: Stub) -> None:
    assert edgectl("deploy", "digits@1.1.0", "--device", "d-1", "--strategy", "canary", "--dry-run").code == 0
    assert [body["spec"]["selector"] for body in served.bodies("POST /rollouts:plan")] == ["id=d-1"]
    assert edgectl("deploy", "digits@1.1.0", "--to", "", "--strategy", "canary", "--until", "serving").code == 2
    assert served.bodies("POST /rollouts") == []


def test_publish_by_canary_starts_a_rollout(edgectl: Edgectl, served: Stub, tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "m.onnx").write_bytes(b"a model")
    served.says(f"HEAD /blobs/{hashlib.sha256(b'a model').hexdigest()}", {})
    released = {"ref": "digits@1.1.0", "state": "ready", "bundles": [{"profile": "p"}], "refused": [], "jobs": []}
    served.says("POST /releases", released)
    flags = ("--name", "digits", "--version", "1.1.0", "--profile", "generic-x86_64-ort", "--to", "a=b")
    ran = edgectl("publish", tmp_path / "m.onnx", *flags, "--strategy", "canary")
    assert ran.code == 0, ran.err
    assert [body["spec"]["selector"] for body in served.bodies("POST /rollouts")] == ["a=b"]
    assert f"rollout {_ID} is running; follow it with `edgectl rollout watch {_ID}`" in ran.err


def test_ids_are_completed(edgectl: Edgectl, served: Stub) -> None:
    from edgefleet_cli.core import completion

    served.says("GET /groups", page([{"name": "canaries"}, {"name": "rest"}]))
    assert completion.rollouts("r-") == [_ID]
    assert completion.rollouts("x") == []
    assert completion.groups("can") == ["canaries"]
    served.says("GET /models", problem(500, "internal", "broken"))
    assert completion.models("") == []
