"""Enrolment against the real device listener over TLS, and every way it is refused."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent import errors
from edgefleet_agent.__main__ import main
from edgefleet_agent.cli.status_text import status_text
from edgefleet_agent.enrolment.enroll import enroll, parse_claim_token
from edgefleet_agent.identity.store import load_identity
from edgefleet_protocol.hpke import public_of
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.clock import SystemClock
from tests.agent.listener import Listener, at_url
from tests.server.fleet.house import House


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A device listener."""
    folder = tmp_path / "server"
    folder.mkdir()
    house = House(f"sqlite:///{folder / 'server.db'}", folder / "data", SystemClock(), tenant="acme")
    house.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    made = Listener(house)
    yield made
    made.close()


def test_the_status_begins_with_the_name_that_the_device_learned_last() -> None:
    status = {
        "device": "d-1",
        "pid": 7,
        "agent_version": "1.0.0",
        "profile": "rpi",
        "connected": True,
        "broker": "b:1883",
        "outbox": {"messages": 0},
        "gen": 3,
        "infer_url": "http://127.0.0.1:1",
        "infer_socket": "/run/infer.sock",
        "refused": {"code": ""},
        "models": [],
    }
    assert status_text(status).startswith("device   d-1  pid 7")
    named = status_text({**status, "display_name": "Roof 3", "certificate_from_s": 1_767_225_600}).splitlines()
    assert named[:2] == ["name     Roof 3  as of 2026-01-01", "device   d-1  pid 7  agent 1.0.0"]


def test_a_claim_token_becomes_an_identity(listener: Listener, tmp_path: Path, capsys: Any) -> None:
    state = tmp_path / "device"
    token = listener.token()
    status = main(["enroll", token, "--state", str(state), "--name", "Roof 3", "-o", "json"])
    out = capsys.readouterr()
    assert status == 0, out.err
    answer = json.loads(out.out)
    identity = load_identity(state / "identity")
    assert identity.device == answer["device"]
    assert identity.tenant == "acme"
    assert listener.house.fleet.reader.device(identity.device).display_name == "Roof 3"
    assert identity.display_name == "Roof 3"
    assert (state / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    key = public_of((state / "model-key").read_bytes()).hex()
    assert listener.house.fleet.devices.model_key_of(DeviceId(identity.device)) == key
    assert not (state / "pending-key.pem").exists()
    assert main(["enroll", token, "--state", str(state)]) == 6


def test_a_server_with_another_ca_is_refused_before_the_token_is_shown(listener: Listener, tmp_path: Path) -> None:
    token = at_url(listener.token(), f"https://127.0.0.1:{listener.port}", ca="ab" * 32)
    with pytest.raises(errors.PinMismatchError):
        enroll(token, tmp_path / "device")
    assert [path for path in listener.asked if path] == ["/device/v1/ca"]
    assert not (tmp_path / "device" / "identity").exists()


def test_another_root_than_the_pinned_one_is_refused(listener: Listener, tmp_path: Path) -> None:
    token = at_url(listener.token(), f"https://127.0.0.1:{listener.port}", root="ab" * 32)
    with pytest.raises(errors.PinMismatchError):
        enroll(token, tmp_path / "device")


def test_a_used_up_token_says_what_to_do(listener: Listener, tmp_path: Path, capsys: Any) -> None:
    token = listener.token()
    assert main(["enroll", token, "--state", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert main(["enroll", token, "--state", str(tmp_path / "two")]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0].strip() for line in lines] == ["error", "why", "next", "code"]
    assert "edgectl device enroll" in lines[2]


def test_a_lost_answer_is_asked_for_again_with_the_same_key(listener: Listener, tmp_path: Path) -> None:
    token = listener.token()
    first = enroll(token, tmp_path / "device")
    state = tmp_path / "device"
    # as if the answer had never come: the key is there, the identity is not
    (state / "identity" / "key.pem").rename(state / "pending-key.pem")
    for file in (state / "identity").iterdir():
        file.unlink()
    (state / "identity").rmdir()
    assert enroll(token, state).device == first.device


def test_a_server_that_is_not_there_is_code_7(listener: Listener, tmp_path: Path, capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = at_url(listener.token(), f"https://127.0.0.1:{port}")
    assert main(["enroll", token, "--state", str(tmp_path / "device")]) == 7
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "efc1.", "efc1.@@@", "edg_1_2", "efc1.e30", "efc1.AAAA"])
def test_what_is_no_claim_token_is_named(text: str) -> None:
    with pytest.raises(errors.ClaimTokenError):
        parse_claim_token(text)


def test_status_of_a_device_that_is_none_is_code_5(tmp_path: Path, capsys: Any) -> None:
    assert main(["status", "--state", str(tmp_path)]) == 5
    assert "edge-agent enroll" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_claim_file_that_cannot_be_read_says_what_to_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    for claim in (tmp_path / "claim", tmp_path):  # missing; a folder, as a container engine makes of a missing mount
        assert main(["run", "--claim", str(claim), "--state", str(tmp_path / "device"), "-o", output]) == 2
        out, err = capsys.readouterr()
        assert f"error: {claim}: " in err
        for line in (
            "code: enroll.claim_file",
            "EDGEFLEET_AGENT_CLAIM_FILE cannot be read",
            "edgectl device enroll --out",
        ):
            assert line in err
        if output == "json":
            assert json.loads(out)["error"]["code"] == "enroll.claim_file"
    assert not (tmp_path / "device" / "identity").exists()


def test_run_enrols_first_with_the_token_of_a_file_and_only_once(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ran:
        """Stands where the daemon would run for ever."""

        def __init__(self, state: Path, settings: object) -> None:
            ran.append(load_identity(state / "identity").device)

        def run(self) -> bool:
            return False

    ran: list[str] = []
    monkeypatch.setattr("edgefleet_agent.daemon.Daemon", Ran)
    state, claim = tmp_path / "device", tmp_path / "claim"
    claim.write_text("efc1.nothing\n")
    assert main(["run", "--claim", str(claim), "--state", str(state)]) == 2
    assert ran == []
    claim.write_text(listener.token() + "\n")
    monkeypatch.setenv("EDGEFLEET_AGENT_CLAIM_FILE", str(claim))
    assert main(["run", "--state", str(state)]) == 0
    claim.unlink()  # a token that was used up and thrown away
    assert main(["run", "--state", str(state)]) == 0
    assert ran[0] == ran[1]
