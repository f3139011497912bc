"""Renewal against the real device listener and the real broker: new key, taken over once it has connected."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update
from sqlmodel import col, select

from edgefleet_agent import errors
from edgefleet_agent.__main__ import main
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.connection.mqtt import Connected, Disconnected, LinkOptions, MqttLink
from edgefleet_agent.core.durable import write_file, write_record
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.enrolment.renew import renew
from edgefleet_agent.enrolment.server_api import cert_serial
from edgefleet_agent.identity import takeover
from edgefleet_agent.identity.place_follower import Way
from edgefleet_agent.identity.renewal_timer import Calls, RenewalTimer
from edgefleet_agent.identity.store import load_identity
from edgefleet_agent.identity.takeover import load_next
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.hpke import public_of
from edgefleet_server.fleet.tables import FleetDevice
from tests.agent.field import Agent, eventually, write_identity
from tests.agent.listener import Listener
from tests.broker.pki import Identity
from tests.hostile.revocation import is_let_in
from tests.house.pages import shell_blocks
from tests.server.fleet.house import TurnedClock
from tests.server.gateway.conftest import Site

QUICK_LOOK = {"EDGEFLEET_AGENT_RENEW_LOOK_S": "0.2"}


@pytest.fixture
def listener(site: Site) -> Iterator[Listener]:
    """The device listener of the site."""
    site.house.fleet.addresses.announce_broker(site.endpoint.host, site.endpoint.port, site.endpoint.mqtt)
    made = Listener(site.house)
    yield made
    made.close()


@pytest.fixture
def device(site: Site, listener: Listener, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled agent that knows the listener, not started yet."""
    state = tmp_path / "device"
    keyed = site.house.device()
    write_identity(site, keyed, state, listener.url)
    made = Agent(site, state, keyed, **QUICK_LOOK)
    yield made
    made.stop()


def age(state: Path, share: float) -> None:
    """Let so much of the certificate's life be over, by the agent's own record."""
    folder = state / "identity"
    now_s, life_s = int(SystemClock().now().timestamp()), 90 * 86_400
    begun = now_s - int(life_s * share)
    known = msgspec.structs.replace(load_identity(folder), cert_from_s=begun, cert_until_s=begun + life_s)
    write_record(folder / "identity.msgpack", known)


def test_an_agent_renews_at_two_thirds_of_its_life_and_connects_with_the_new_key(
    device: Agent, site: Site, tmp_path: Path
) -> None:
    age(device.state, 0.67)
    folder = device.state / "identity"
    old = (folder / "key.pem").read_bytes()
    before = Identity(device.id, tmp_path / "old.crt", tmp_path / "old.key")
    before.cert_file.write_bytes((folder / "cert.pem").read_bytes())
    before.key_file.write_bytes(old)
    device.start()
    assert eventually(lambda: (folder / "key.pem").read_bytes() != old), device.log.read_text()
    assert eventually(lambda: not (folder / "next").exists())
    assert eventually(lambda: device.status().get("connected"))
    left_s = load_identity(folder).cert_until_s - SystemClock().now().timestamp()
    assert left_s > 80 * 86_400
    assert eventually(lambda: [e.detail for e in device.events() if e.kind == "identity_renewed"][1:]), (
        [(e.kind, e.detail) for e in device.events()],
        device.log.read_text(),
    )
    assert eventually(lambda: not is_let_in(site.endpoint, before)), "the old certificate is refused"
    # the server now honours the new key for HTTPS as well: the next renewal is signed with it
    device.stop()
    assert renew(device.state, SystemClock()) is not None


def test_the_old_certificate_lives_until_the_new_one_has_replaced_it_on_the_disk(
    device: Agent, site: Site, tmp_path: Path
) -> None:
    folder = device.state / "identity"
    before = Identity(device.id, tmp_path / "old.crt", tmp_path / "old.key")
    before.cert_file.write_bytes((folder / "cert.pem").read_bytes())
    before.key_file.write_bytes((folder / "key.pem").read_bytes())
    serial = cert_serial(before.cert_file.read_bytes())
    renew(device.state, SystemClock())
    with takeover.identity_lock(folder):
        device.start()
        assert eventually(lambda: "renewed identity not taken over" in device.log.read_text()), device.log.read_text()
        assert eventually(lambda: [e for e in device.events() if e.kind == "boot"]), "the server has heard it"
        assert site.house.signing.key_of_certificate(device.id, serial), "it may still be needed"
    # with the next connection; this one takes over the session of the agent
    assert eventually(lambda: not is_let_in(site.endpoint, before)), "the old certificate is refused"
    assert not (folder / "next").exists()


def test_a_young_certificate_is_left_alone(device: Agent) -> None:
    age(device.state, 0.6)
    assert renew(device.state, SystemClock(), if_due=True) is None
    assert load_next(device.state / "identity") is None


def test_by_hand_while_the_agent_runs(device: Agent, capsys: Any) -> None:
    device.start()
    assert eventually(lambda: device.status().get("connected"))
    old = (device.state / "identity" / "key.pem").read_bytes()
    assert main(["renew", "--state", str(device.state), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == device.id
    assert eventually(lambda: (device.state / "identity" / "key.pem").read_bytes() != old), device.log.read_text()
    assert eventually(lambda: device.status().get("connected"))


def test_a_server_that_is_not_there_leaves_the_old_identity_in_use(device: Agent, listener: Listener) -> None:
    listener.close()
    age(device.state, 0.9)
    old = (device.state / "identity" / "key.pem").read_bytes()
    device.start()
    assert eventually(lambda: "identity not renewed" in device.log.read_text())
    assert eventually(lambda: device.status().get("connected"))
    assert (device.state / "identity" / "key.pem").read_bytes() == old
    with pytest.raises(errors.ServerUnreachableError):
        renew(device.state, SystemClock())


def test_a_lost_answer_costs_no_second_key(device: Agent, listener: Listener) -> None:
    folder = device.state / "identity"
    first = renew(device.state, SystemClock())
    assert first is not None
    key = (folder / "next" / "key.pem").read_bytes()
    # as if the answer had never come
    (folder / "next" / "key.pem").rename(folder / "renewal-key.pem")
    takeover.remove_flat(folder / "next")
    renew(device.state, SystemClock())
    assert (folder / "next" / "key.pem").read_bytes() == key
    renew(device.state, SystemClock())
    assert (folder / "next" / "key.pem").read_bytes() == key
    assert not (folder / "renewal-key.pem").exists()


def test_a_renewed_identity_that_the_broker_refuses_does_not_cost_the_connection(device: Agent, site: Site) -> None:
    renew(device.state, SystemClock())
    folder = device.state / "identity"
    # a certificate of somebody else for this key: TLS fails before the broker is even asked
    stranger = site.house.device()
    (folder / "next" / "cert.pem").write_bytes(stranger.enrolment.cert.encode())
    device.start()
    assert eventually(lambda: device.status().get("connected")), device.log.read_text()
    assert (folder / "next").exists()


def test_a_broker_that_is_away_is_no_reason_to_leave_the_renewed_identity(device: Agent, site: Site) -> None:
    """It is restarted just when an identity was renewed: at the old one the device would stay, and hold up a rotation of the CA."""
    renew(device.state, SystemClock())
    folder = device.state / "identity"
    old, new = load_identity(folder), load_next(folder)
    assert new is not None
    with socket.socket() as silent:  # bound and not listening: who connects is refused, and nobody else gets the port
        silent.bind(("127.0.0.1", 0))
        away = {"broker_port": int(silent.getsockname()[1])}
        here = [Way(new, folder / "next"), Way(old, folder)]
        none = [Way(msgspec.structs.replace(one.identity, **away), one.folder) for one in here]
        for rounds in ([none, here], [none, none, here], [none + here]):
            tries = iter([*rounds, *[rounds[-1]] * 9])
            options = LinkOptions(keepalive_s=60, connect_timeout_s=30.0, reconnect_max_s=0.1)
            link = MqttLink(old, lambda tries=tries: next(tries), "boot", options, lambda: None, lambda: 0)  # type: ignore[misc]
            link.start()
            try:
                came = [link.inbox.get(timeout=30) for _ in range(len(rounds) + (len(rounds) == 1))]
            finally:
                link.stop(b"")
            assert [type(one) for one in came[:-1]] == [Disconnected] * (len(came) - 1), came
            assert isinstance(came[-1], Connected), came
            assert came[-1].folder == folder / "next"


def test_a_renewed_identity_that_waits_gets_chances_soon_and_then_each_hour(device: Agent) -> None:
    renew(device.state, SystemClock())
    folder, clock = device.state / "identity", TurnedClock()
    loop, asked = Loop(clock), list[str]()
    calls = Calls(asked.append, lambda _identity: None, lambda: None)
    timer = RenewalTimer(loop, device.state, folder, clock, AgentSettings(), calls)

    def next_chance_s() -> float | None:
        timeout_s = loop._timeout_s()
        return None if timeout_s is None else round(timeout_s, -1)

    def of_old() -> float | None:
        assert timer.connected(folder) == load_identity(folder).cert_serial
        return next_chance_s()

    def taken() -> int:
        clock.turn(seconds=loop._timeout_s() or 0)
        loop._run_timers()
        return len(asked)

    assert [of_old() for _ in range(3)] == [10, 10, 10], "a chance that did not come is none"
    assert (taken(), of_old(), taken()) == (1, 60, 2)
    with takeover.identity_lock(folder):
        assert timer.connected(folder / "next") == ""
        assert next_chance_s() == 600, "it is taken over although nobody breaks the connection"
    assert (taken(), of_old(), taken(), of_old()) == (3, 3600, 4, 3600)
    assert timer.connected(folder / "next") == load_identity(folder).cert_serial
    assert not (folder / "next").exists()
    assert next_chance_s() == 60, "what is left is the look at the certificate's life"
    assert len(asked) == 4
    loop.close()


def test_a_renewed_identity_that_is_torn_costs_neither_the_start_nor_the_renewal(device: Agent) -> None:
    renew(device.state, SystemClock())
    folder = device.state / "identity"
    (folder / "next" / "identity.msgpack").write_bytes(b"torn")
    age(device.state, 0.9)
    device.start()
    assert eventually(lambda: device.status().get("connected")), device.log.read_text()
    fresh_s = SystemClock().now().timestamp() + 80 * 86_400
    assert eventually(lambda: load_identity(folder).cert_until_s > fresh_s), device.log.read_text()


@pytest.mark.parametrize("done", range(4))
def test_a_power_cut_in_the_take_over_is_made_good_by_the_next_start(
    device: Agent, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(device.state, SystemClock())
    folder = device.state / "identity"
    new = {name: (folder / "next" / name).read_bytes() for name in ("key.pem", "cert.pem", "identity.msgpack")}
    real, count = write_file, [0]

    def cut(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        if count[0] > done:
            raise OSError("power cut")
        count[0] += 1
        real(path, data, mode=mode)

    monkeypatch.setattr("edgefleet_agent.identity.takeover.write_file", cut)
    if done < 3:
        with pytest.raises(OSError, match="power cut"):
            takeover.take_over(folder)
    else:
        monkeypatch.setattr(takeover, "_remove_next", lambda _folder: None)
        takeover.take_over(folder)
    monkeypatch.undo()
    assert takeover.finish_take_over(folder)
    assert {name: (folder / name).read_bytes() for name in new} == new
    assert not (folder / "next").exists()
    assert os.stat(folder / "key.pem").st_mode & 0o777 == 0o600  # noqa: PTH116


def test_an_agent_starts_while_a_renewal_runs(device: Agent) -> None:
    with takeover.identity_lock(device.state / "identity"):
        device.start()
        assert eventually(lambda: device.status().get("connected")), device.log.read_text()


def test_a_renewal_that_finds_the_identity_busy_is_tried_again_soon(device: Agent) -> None:
    age(device.state, 0.67)
    with takeover.identity_lock(device.state / "identity"):
        device.start()
        assert eventually(lambda: "agent.identity_busy" in device.log.read_text())
    assert eventually(lambda: "identity renewed" in device.log.read_text()), device.log.read_text()


def test_two_renewals_at_once_are_one(device: Agent) -> None:
    with takeover.identity_lock(device.state / "identity"):
        assert main(["renew", "--state", str(device.state)]) == 6


def test_a_listener_that_hangs_up_changes_nothing(device: Agent, tmp_path: Path) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    folder = device.state / "identity"
    known = msgspec.structs.replace(load_identity(folder), url=f"https://127.0.0.1:{other.getsockname()[1]}")
    write_record(folder / "identity.msgpack", known)

    def hang_up() -> None:
        peer, _ = other.accept()
        peer.recv(100)
        peer.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    assert main(["renew", "--state", str(device.state)]) == 7
    thread.join()
    other.close()
    assert load_next(folder) is None


def test_a_renewal_tells_the_key_for_sealed_models_which_stays(device: Agent, site: Site) -> None:
    known, file = site.house.fleet.devices.model_key_of, device.state / "model-key"
    assert known(device.id) == "", "it was enrolled by an agent of before"
    (block,) = [one for one in shell_blocks(Path("docs/operate/sealed-models.md")) if "edge-agent" in one.text]
    assert main([*block.text.split()[1:], "--state", str(device.state)]) == 0
    first = known(device.id)
    assert first == public_of(file.read_bytes()).hex()
    assert file.stat().st_mode & 0o777 == 0o600
    renew(device.state, SystemClock())
    assert known(device.id) == first
    with site.house.db.read() as session:
        facts = session.exec(select(FleetDevice.facts).where(FleetDevice.id == device.id)).one()
    assert facts["names_requests"], "the token of a renewal is good for its request alone"
    file.write_bytes(b"torn")
    renew(device.state, SystemClock())
    assert known(device.id) not in {"", first}


def test_a_device_that_was_away_past_the_end_of_its_certificate_comes_back_when_a_person_agrees(
    device: Agent, site: Site
) -> None:
    """No visit: the agent asks by itself, with the key that it has."""
    age(device.state, 1.5)
    ended = SystemClock().now() - timedelta(days=45)
    with site.house.db.session() as session:
        session.execute(update(FleetDevice).where(col(FleetDevice.id) == device.id).values(cert_not_after=ended))
    with pytest.raises(
        errors.RenewRefusedError, match="waits until a person lets it come back: its certificate ended 45 days ago"
    ):
        renew(device.state, SystemClock(), if_due=True)
    site.house.fleet.readmissions.approve([device.id], "ann")
    renewed = renew(device.state, SystemClock(), if_due=True)
    assert renewed is not None
    assert renewed.cert_until_s > SystemClock().now().timestamp() + 80 * 86_400
    device.start()
    assert eventually(lambda: device.status().get("connected")), device.log.read_text()
