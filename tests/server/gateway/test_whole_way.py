"""Enrol, sign, publish, answer: the gateway on real brokers with a real client."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgefleet_protocol.blocks import BlockError, BlockErrorCode, check_leaf
from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE, Ref, decode_desired, decode_hold
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.ids import ModelName
from edgefleet_protocol.messages import (
    Event,
    EventKind,
    ModelState,
    Phase,
    Presence,
    RepoHead,
    State,
    Telemetry,
    Window,
    decode,
    encode,
)
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.composition.fleet_container import build_fleet
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.gateway import mqtt
from tests.server.fleet.house import PROFILE
from tests.server.gateway.conftest import Site
from tests.server.gateway.device import MqttDevice

WAIT_S = 20.0


def eventually(is_true: Callable[[], bool]) -> bool:
    """Wait until something holds."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def test_a_device_learns_of_a_deployment_and_pulls_the_bundle(site: Site) -> None:
    device = site.house.device()
    data = os.urandom(1_000_000)
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: data})
    there = site.connect(device)
    first = decode_desired(
        verify_envelope(there.desired.get(timeout=WAIT_S), DESIRED_TYPE, [site.house.signing.director_key()])
    )
    assert (first.device, first.gen, first.models) == (device.id, 1, {})
    link: Any = site.gateway._link._connection
    assert link.client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), (
        "a block waits for no acknowledgement"
    )

    done = site.house.fleet.deployer.deploy(ref, selector="")

    assert [one.device for one in done.set] == [device.id]
    raw = there.desired.get(timeout=WAIT_S)
    document = decode_desired(verify_envelope(raw, DESIRED_TYPE, [site.house.signing.director_key()]))
    assert document.gen == 2
    active = document.models["digits"].active
    assert active is not None
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    index = there.meta(f"leaves.{bundle.leaves}")
    assert isinstance(index, bytes)
    pulled = there.pull(active.sha256, active.length)
    assert pulled == data
    assert check_leaf(index, 0, pulled[:32768])
    assert there.meta("timestamp.json") == site.house.signing.metadata_file("timestamp.json")
    assert there.meta("1.root.json") == site.house.signing.root_chain()[0]
    assert there.meta("2.root.json") == "not_found"


def test_a_device_gets_no_blob_that_its_document_does_not_name(site: Site) -> None:
    mine, other = site.house.device(), site.house.device()
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: b"secret" * 1000})
    site.house.fleet.deployer.deploy(ref, device=other.id)
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    there = site.connect(mine)
    assert there.desired.get(timeout=WAIT_S)
    there.ask(bundle.sha256, (0,))
    answer = there.blocks.get(timeout=WAIT_S)
    assert isinstance(answer, BlockError)
    assert answer.code is BlockErrorCode.DENIED
    assert there.meta(f"leaves.{bundle.leaves}") == "denied"


def test_reports_are_stored_and_acknowledged_once(site: Site) -> None:
    device = site.house.device()
    there = site.connect(device)
    topics = there.topics
    there.say(topics.presence(device.id), Presence(on=True, conn_id="c1", boot_id="b1", ts=1), retain=True)
    running = ModelState(model="digits", phase=Phase.COMMITTED, active_target=f"digits/1.0.0/{PROFILE}.bundle")
    there.say(topics.state(device.id), State(device=device.id, gen=1, boot_id="b1", seq=1, ts=1, models=[running]))
    for _ in range(2):
        there.say(topics.event(device.id), Event(device=device.id, boot_id="b1", seq=7, ts=1, kind=EventKind.BOOT))
        window = Window(
            t0=1_764_000_000, length_s=60, model="digits", lane="active", sha256="a" * 64, version="1.0.0", n=5
        )
        there.say(
            topics.telemetry(device.id),
            Telemetry(device=device.id, boot_id="b1", seq=3, ts=1_764_000_000_000, windows=[window]),
        )
    acked: tuple[set[int], set[int]] = (set(), set())
    while acked != ({7}, {3}):
        ack = there.acks.get(timeout=WAIT_S)
        assert ack.boot_id == "b1"
        acked[0].update(ack.events)
        acked[1].update(ack.telemetry)
    reader = site.house.fleet.reader
    assert eventually(lambda: reader.device(device.id).status is DeviceStatus.ONLINE)
    assert eventually(lambda: [model.release for model in reader.device(device.id).models] == ["digits@1.0.0"])
    assert [
        event.kind for event in site.house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=9)[0]
    ] == [
        "boot",
        "enrolled",
    ]
    assert site.house.telemetry.windows(device.id, None, 10)[1] == 1


def test_a_device_that_lost_its_document_gets_it_again(site: Site) -> None:
    device = site.house.device()
    there = site.connect(device)
    assert there.desired.get(timeout=WAIT_S)
    there.say(there.topics.state(device.id), State(device=device.id, gen=0, boot_id="b1", seq=1, ts=1, models=[]))
    assert gen_of(there.desired.get(timeout=WAIT_S)) == 1
    there.say(there.topics.state(device.id), State(device=device.id, gen=90, boot_id="b1", seq=2, ts=1, models=[]))
    while gen_of(there.desired.get(timeout=WAIT_S)) != 91:
        pass


def test_bad_messages_are_counted_and_harm_nobody(site: Site) -> None:
    mine, other = site.house.device(), site.house.device()
    there = site.connect(mine)
    topics = there.topics
    for payload in (b"\xff", b"junk", b"\x93\x01\x02\x03", os.urandom(200)):
        for leaf in ("state", "pres", "tele", "ev", "blk", "meta", "log"):
            there.client.publish(f"{topics.prefix}/d/{mine.id}/up/{leaf}", payload, qos=1)
    lie = Event(device=other.id, boot_id="b", seq=1, ts=1, kind=EventKind.CRASH)
    there.say(topics.event(mine.id), lie)
    there.say(topics.event(mine.id), Event(device=mine.id, boot_id="b", seq=2, ts=1, kind=EventKind.BOOT))
    assert there.acks.get(timeout=WAIT_S).events == [2]
    assert site.gateway.counters()["messages_bad"] >= 17
    assert [e.kind for e in site.house.fleet.feed.page(device_id=other.id, before=None, since=None, limit=9)[0]] == [
        "enrolled"
    ]
    assert there.meta("timestamp.json") == site.house.signing.metadata_file("timestamp.json")


def test_the_brake_goes_out_at_once_and_before_documents(site: Site) -> None:
    early = site.connect(site.house.device())
    keys = [site.house.signing.director_key()]
    site.house.fleet.hold.set(["r-1"], [])
    assert early.holds.get(timeout=WAIT_S)
    # Only now: one who subscribes while a message is retained may be given it twice, as MQTT allows.
    device = site.house.device()
    there = site.connect(device)
    assert there.desired.get(timeout=WAIT_S)
    first = decode_hold(verify_envelope(there.holds.get(timeout=WAIT_S), HOLD_TYPE, keys))
    assert first.rollouts == ["r-1"]

    there.order.clear()
    active = Ref(target=f"digits/1.0.0/{PROFILE}.bundle", sha256="a" * 64, length=1)
    with site.house.db.session():
        site.house.fleet.hold.set(["r-1", "r-2"], [])
        site.house.fleet.desired.set_models([ModelChange(device.id, ModelName("digits"), active)])
    envelope, repeated = next_document(there, 2)
    assert decode_desired(verify_envelope(envelope, DESIRED_TYPE, keys)).gen == 2
    second = decode_hold(verify_envelope(there.holds.get(timeout=WAIT_S), HOLD_TYPE, keys))
    assert (second.rollouts, second.seq > first.seq) == (["r-1", "r-2"], True)
    brake, document = there.topics.hold(), there.topics.desired(device.id)
    assert (there.order[-1], there.order.count(brake)) == (document, 1)
    assert len(there.order) - 2 in range(repeated + 1), "repetitions of the first document, and nothing else"

    later = site.connect(site.house.device())
    assert decode_hold(verify_envelope(later.holds.get(timeout=WAIT_S), HOLD_TYPE, keys)) == second


def test_what_comes_of_a_revoked_device_counts_for_nothing(site: Site) -> None:
    device = site.house.device()
    topics = site.connect(device).topics
    site.house.fleet.revocation.revoke(device.id)
    event = Event(device=device.id, boot_id="b", seq=1, ts=1, kind=EventKind.BOOT)
    # as if it had been under way when the broker ended its session
    site.gateway._on_message(topics.event(device.id), encode(event), 0)
    assert eventually(lambda: site.gateway.counters()["messages_foreign"] == 1)


def test_everything_retained_is_published_again_after_the_broker_lost_it(site: Site) -> None:
    devices = [site.house.device() for _ in range(3)]
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    site.house.fleet.deployer.deploy(ref, selector="")
    before = site.gateway.counters()["connects"]
    pid = site.broker.status().pid
    assert pid is not None
    os.kill(pid, 9)
    assert eventually(lambda: site.gateway.counters()["connects"] > before)
    for device in devices:
        there = site.connect(device)
        assert gen_of(there.desired.get(timeout=WAIT_S)) == 2
        assert decode(RepoHead, there.heads.get(timeout=WAIT_S)).root_version == 1


def test_presence_is_unknown_once_the_broker_was_lost_and_right_as_devices_come_back(site: Site) -> None:
    comes, stays_away = site.house.device(), site.house.device()
    connected = {one.id: site.connect(one) for one in (comes, stays_away)}
    topics = site.gateway._topics
    for name, there in connected.items():
        there.say(topics.presence(name), Presence(on=True, conn_id="1", boot_id="b", ts=1), retain=True)

    def status(name: Any) -> DeviceStatus:
        return site.house.fleet.reader.device(name).status

    assert eventually(lambda: all(status(name) is DeviceStatus.ONLINE for name in connected))
    before, pid = site.gateway.counters()["connects"], site.broker.status().pid
    assert pid is not None
    os.kill(pid, 9)
    assert eventually(lambda: all(status(name) is DeviceStatus.UNKNOWN for name in connected))
    assert eventually(lambda: site.gateway.counters()["connects"] > before)
    there = site.connect(comes)
    there.say(topics.presence(comes.id), Presence(on=True, conn_id="2", boot_id="b", ts=2), retain=True)
    assert eventually(lambda: status(comes.id) is DeviceStatus.ONLINE)
    assert status(stays_away.id) is DeviceStatus.UNKNOWN


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a gateway that starts after this look more often whether its connection lives."""
    monkeypatch.setattr(mqtt, "HEARTBEAT_S", 0.2)


@pytest.mark.usefixtures("quick_heartbeat")
@pytest.mark.parametrize("has_socket", [True, False])
def test_a_connection_whose_loop_died_is_made_anew(has_socket: bool, site: Site) -> None:
    assert eventually(lambda: site.gateway.counters()["connects"] == 1)
    dead = site.gateway._link._connection
    assert dead is not None
    dead.client.loop_stop()
    if not has_socket:
        dead.client._sock_close()
    assert eventually(lambda: site.gateway.counters()["connects"] == 2)
    device = site.connect(site.house.device())
    assert gen_of(device.desired.get(timeout=WAIT_S)) == 1


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_broker_that_acknowledges_late_is_kept_as_long_as_it_speaks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eventually(lambda: site.gateway.counters()["connects"] == 1)
    device, link = site.connect(site.house.device()), site.gateway._link
    send, beats = link._send, []

    def unanswered(connection: Any, topic: str, *rest: Any) -> Any:
        if topic != link._heartbeat_topic:
            return send(connection, topic, *rest)
        beats.append(topic)
        return paho.MQTTMessageInfo(1)

    monkeypatch.setattr(link, "_send", unanswered)

    def speaks() -> bool:
        here = Presence(on=True, conn_id="1", boot_id="b", ts=1)
        device.say(device.topics.presence(device.id), here)
        return len(beats) > 4

    assert eventually(speaks)
    assert site.gateway.counters()["connects"] == 1
    assert eventually(lambda: site.gateway.counters()["connects"] == 2), "it is silent as well"


def test_a_certificate_that_cannot_be_read_for_a_while_ends_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    assert eventually(lambda: site.gateway.counters()["connects"] == 1)
    file = site.gateway._link._identity.cert_file
    away = file.with_name("away")
    file.rename(away)
    pid = site.broker.status().pid
    assert pid is not None
    os.kill(pid, 9)
    assert eventually(lambda: "own certificate not usable" in caplog.text)
    away.rename(file)
    assert eventually(lambda: site.gateway.counters()["connects"] == 2)


def test_what_another_process_signed_is_published_too(site: Site) -> None:
    device = site.house.device()
    there = site.connect(device)
    assert gen_of(there.desired.get(timeout=WAIT_S)) == 1
    other = build_fleet(site.house.db, site.house.signing, site.house.registry, site.house.clock, site.house.settings)
    other.desired.resign(device.id)
    assert reaches(there, 2)


def test_the_head_arrives_before_a_document_that_needs_it(site: Site) -> None:
    device = site.house.device()
    there = site.connect(device)
    assert there.desired.get(timeout=WAIT_S)
    assert there.heads.get(timeout=WAIT_S)
    repeated = site.house.fleet.documents.of_device(device.id)
    assert repeated is not None
    site.gateway._outbound.send_desired(
        [repeated], again=True
    )  # as MQTT allows for who subscribes while it is retained
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    site.house.fleet.deployer.deploy(ref, selector="")
    assert reaches(there, 2)
    heads = [there.heads.get_nowait() for _ in range(there.heads.qsize())]
    assert heads
    assert decode(RepoHead, heads[-1]).timestamp == site.house.signing.metadata_file("timestamp.json")


def test_many_devices_pull_at_once(site: Site) -> None:
    data = os.urandom(3_000_000)
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: data})
    there = [site.connect(site.house.device()) for _ in range(4)]
    site.house.fleet.deployer.deploy(ref, selector="")
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    with ThreadPoolExecutor(4) as pool:
        pulled = list(pool.map(lambda one: one.pull(bundle.sha256, bundle.length) == data, there))
    assert all(pulled)


def reaches(there: MqttDevice, gen: int) -> bool:
    """Whether a device gets document `gen` next but for repetitions of what it had: an older one never follows a newer."""
    return gen_of(next_document(there, gen)[0]) == gen


def next_document(there: MqttDevice, gen: int) -> tuple[bytes, int]:
    """Return the document that follows number `gen - 1`, and how many repetitions of that came before it."""
    repeated = 0
    while (found := gen_of(envelope := there.desired.get(timeout=WAIT_S))) < gen:
        assert found == gen - 1
        repeated += 1
    return envelope, repeated


def gen_of(envelope: bytes) -> int:
    """Return the generation of a signed document."""
    return decode_desired(parse_envelope(envelope).payload).gen
