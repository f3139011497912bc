"""When a device counts as done, as failed, or as still to be heard of."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_cli.core.api.device import Device
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.release.deployment.deployer import DONE, SERVING, DeviceOutcome, exit_code, judge
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub
from tests.cli.terminal import Terminal

_REF = "digits@1.1.0"
_NEW, _OLD = "b" * 64, "a" * 64


def _device(**changes: Any) -> Device:
    report = {
        "model": "digits",
        "sha256": changes.pop("sha256", _NEW),
        "wanted_sha256": changes.pop("wanted_sha256", _NEW),
        "phase": changes.pop("phase", "committed"),
        "error_class": changes.pop("error_class", None),
        "reason": changes.pop("reason", ""),
    }
    plain = {
        "id": "d-1",
        "reported_gen": 7,
        "refused": None,
        "desired": {"gen": 7, "models": [{"model": "digits", "release": _REF, "sha256": _NEW}]},
        "models": [report],
    }
    return struct_of({**plain, **changes}, Device)


@pytest.mark.parametrize(
    ("device", "state"),
    [
        (_device(), "committed"),
        (_device(reported_gen=6), "unheard"),
        (_device(models=[]), "unheard"),
        (_device(sha256=_OLD, wanted_sha256=_OLD), "accepted"),
        (_device(sha256=_OLD, wanted_sha256=_OLD, phase="rolled_back"), "accepted"),
        (_device(sha256=_OLD, phase="downloading"), "downloading"),
        (_device(phase="probation"), "probation"),
        (_device(sha256=_OLD, phase="rolled_back", error_class="golden", reason="no match"), "rolled_back"),
        (_device(refused={"gen": 7, "code": "desired.signature", "reason": "bad"}), "failed"),
        (_device(refused={"gen": 6, "code": "desired.signature", "reason": "bad"}), "committed"),
        (
            _device(desired={"gen": 8, "models": [{"model": "digits", "release": "digits@2", "sha256": _OLD}]}),
            "superseded",
        ),
        (_device(desired={"gen": 8, "models": []}), "superseded"),
    ],
)
def test_a_phase_counts_only_for_the_release_and_document_it_is_about(device: Device, state: str) -> None:
    assert judge(DeviceOutcome("d-1", "p"), device, _REF, 7).state == state


def test_the_reason_of_a_rollback_is_told() -> None:
    device = _device(sha256=_OLD, phase="rolled_back", error_class="golden", reason="output differs")
    assert judge(DeviceOutcome("d-1", "p"), device, _REF, 7).error == "golden: output differs"


@pytest.mark.parametrize(
    ("states", "good", "code"),
    [
        (["committed", "committed"], DONE, 0),
        (["committed", "failed"], DONE, 1),
        (["unheard", "rolled_back"], DONE, 1),
        (["probation", "superseded"], SERVING, 1),
        (["committed", "probation"], DONE, 8),
        (["committed", "probation"], SERVING, 0),
        (["unheard"], SERVING, 8),
    ],
)
def test_exit_codes_of_waiting(states: list[str], good: frozenset[str], code: int) -> None:
    assert exit_code([DeviceOutcome(f"d-{i}", "p", state) for i, state in enumerate(states)], good) == code


OLDER = "4 of 8 devices run digits@1.1.0, which is newer than digits@1.0.0"
ASK = "POST /releases/digits@1.0.0:deploy"
SET = {"device": "d-1", "profile": "p", "gen": 8, "target": "digits/1.0.0/p.bundle"}


def test_a_script_that_deploys_an_older_release_is_warned_and_goes_on(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(ASK, {"release": "digits@1.0.0", "matched": 8, "set": [SET], "skipped": [], "warning": OLDER})
    ran = edgectl("deploy", "digits@1.0.0", "--to", "")
    assert (ran.code, [body["dry_run"] for body in fleet.bodies(ASK)]) == (0, [True, False])
    assert f"warning: {OLDER}" in ran.err
    planned = edgectl("deploy", "digits@1.0.0", "--to", "", "--dry-run")
    assert planned.err.count(OLDER) == 1


def test_a_rollout_of_an_older_release_is_warned_of(edgectl: Edgectl, fleet: Stub) -> None:
    finding = {
        "level": "warning",
        "code": "older_release",
        "message": OLDER,
        "next": "",
        "stage": None,
        "stratum": None,
    }
    fleet.says("POST /rollouts:plan", {"release": "digits@1.0.0", "ok": True, "findings": [finding]})
    fleet.says("POST /rollouts", {"id": "r-1", "release": "digits@1.0.0", "state": "running"})
    for command in (("rollout", "create", "digits@1.0.0"), ("deploy", "digits@1.0.0", "--strategy", "canary")):
        assert f"warning: {OLDER}" in edgectl(*command, "--to", "").err
    assert len(fleet.bodies("POST /rollouts")) == 2


def test_a_person_is_asked_before_an_older_release_goes_out(fleet: Stub) -> None:
    fleet.says(ASK, {"release": "digits@1.0.0", "matched": 8, "set": [SET], "skipped": [], "warning": OLDER})
    terminal = Terminal(fleet, "deploy", "digits@1.0.0", "--to", "")
    terminal.read_until("[y/N]")
    assert OLDER in terminal.shown.replace("\n", " ").replace("  ", " ")
    terminal.type("n\n")
    assert terminal.end() != 0
    assert [body["dry_run"] for body in fleet.bodies(ASK)] == [True], "nothing was deployed"


def test_a_device_that_has_not_reported_is_said_so_and_keeps_its_state_for_programs() -> None:
    waits = DeviceOutcome("d-1", "p")
    assert (waits.shown, waits.as_json()["state"]) == ("no report yet", "unheard")
    assert DeviceOutcome("d-1", "p", "committed").shown == "committed"


def test_a_device_goes_by_its_name_and_then_by_its_id_while_it_is_waited_for(edgectl: Edgectl, fleet: Stub) -> None:
    device = {
        "id": "d-1",
        "reported_gen": 7,
        "desired": {"gen": 7, "models": [{"model": "digits", "release": _REF, "sha256": _NEW}]},
        "models": [{"model": "digits", "sha256": _NEW, "wanted_sha256": _NEW, "phase": "committed"}],
    }
    left = {"device": "d-2", "display_name": "Shed", "profile": "jet", "reason": "no bundle", "next": ""}
    ready = {**SET, "device": "d-1", "display_name": "Roof 3", "gen": 7}
    fleet.says(f"POST /releases/{_REF}:deploy", {"release": _REF, "matched": 2, "set": [ready], "skipped": [left]})
    fleet.says("GET /devices/d-1", device)
    ran = edgectl("deploy", _REF, "--to", "", "--wait")
    assert "Roof 3 (d-1): committed" in ran.err
    assert "skipped Shed (d-2), jet: no bundle" in ran.err
    assert ran.out.splitlines()[1].split()[:3] == ["Roof", "3", "d-1"]
    assert edgectl("deploy", _REF, "--to", "", "--wait", "-o", "json").json["devices"][0]["display_name"] == "Roof 3"
