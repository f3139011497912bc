"""What a load test says of its steps, and the few MQTT packets of simulated devices against paho's own."""

import io
import random

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console

from edgefleet_cli.rollout.simulation.fleet_run import Look
from edgefleet_cli.rollout.simulation.fleet_verdict import Limits, Step, verdict
from edgefleet_cli.rollout.simulation.load_screen import pairs, picture
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_sim.live_fleet import device_reports as reports
from edgefleet_sim.live_fleet import mqtt_packets as packets
from edgefleet_sim.live_fleet.link_profiles import PROFILES, UnknownLoadProfileError, behaviour_of, delay_s


def step(devices: int, **changed: float) -> Step:
    """Return a step in which nothing is wrong: a hundredth of a core for each hundred devices."""
    usual = {
        "connected": devices,
        "messages_per_s": 1.0, "ack_p50_s": 0.01, "ack_p99_s": 0.05, "api_p95_s": 0.02, "server_cores": devices / 10_000,
        "simulator_cores": 0.1, "waiting": 0, "dropped": 0, "given_up": 0, "refused": 0,
    }  # fmt: skip
    return Step(devices=devices, **{**usual, **changed})  # type: ignore[arg-type]


def test_room_follows_the_line_and_never_goes_beyond_twice_what_held() -> None:
    found = verdict([step(1_000), step(2_000)], Limits(), 1)
    assert (found.first, found.held, found.room, found.is_bounded) == ("", 2_000, 4_000, True)
    found = verdict([step(3_000), step(6_000)], Limits(), 1)
    assert (found.room, found.is_bounded) == (8_500, False)


def test_the_first_limit_that_breaks_is_named_with_what_held_before() -> None:
    found = verdict([step(1_000), step(2_000, ack_p99_s=1.5), step(4_000, dropped=3)], Limits(), 1)
    assert (found.first, found.at, found.held, found.room) == ("acknowledgement p99 above 1 s", 2_000, 1_000, 1_000)


def test_a_simulator_at_its_own_limit_says_nothing_about_the_server() -> None:
    found = verdict([step(1_000, simulator_cores=1.0, ack_p99_s=9.0)], Limits(), 1)
    assert (found.first, found.held) == ("the simulator's own processor", 0)


def test_a_server_that_does_not_say_its_processor_time_has_no_room_estimated() -> None:
    assert verdict([step(500, server_cores=-1.0)], Limits(), 1).room == 500


def test_the_nearest_limit_is_named_while_nothing_breaks() -> None:
    found = verdict([step(1_000, ack_p99_s=0.4), step(2_000, api_p95_s=0.2, ack_p99_s=0.5)], Limits(), 1)
    assert (found.nearest, found.nearest_ratio) == ("API p95 above 250 ms", 0.8)
    broke = verdict([step(1_000, ack_p99_s=0.4), step(2_000, dropped=1)], Limits(), 1)
    assert (broke.nearest, broke.nearest_ratio) == ("acknowledgement p99 above 1 s", 0.4), "of the step that held"
    assert verdict([step(1_000, dropped=1)], Limits(), 1).nearest == ""


def look(at_s: float, connected: int, **changed: float) -> Look:
    """Return a look at a server that uses a tenth of a core."""
    usual = {
        "sent": 0, "messages_per_s": 1.0, "reconnects": 0, "unacked": 0, "api_s": 0.02, "server_cores": 0.1, "server_rss_mb": 200.0,
        "waiting": 0, "dropped": 0, "given_up": 0, "refused": 0, "simulator_cpu_s": at_s / 10, "wanted": connected,
    }  # fmt: skip
    return Look(at_s=at_s, connected=connected, acks=LatencySketch(), **{**usual, **changed})  # type: ignore[arg-type]


def test_the_live_picture_says_what_is_nearest_and_the_room_and_fits_80_columns() -> None:
    calm = [look(at, 2_000) for at in range(3)]
    words = dict(pairs(calm, 1))
    assert words["nearest limit"] == "the server's process above 0.85 of a core: 12% used"
    assert words["room"] == "4000 devices or more, by the server's processor"
    assert "room" not in dict(pairs(calm[:1], 1)), "one look is no measurement"
    assert dict(pairs([*calm, look(3, 2_000, dropped=1)], 1))["breaks first"] == "messages dropped by the server"
    busy = [look(at, 99_999, reconnects=99_999, unacked=99_999, waiting=15_000, server_cores=0.84) for at in range(3)]
    with Console(width=80, record=True, file=io.StringIO()) as console:
        console.print(picture(busy, 1))
    assert all(len(line.rstrip()) <= 80 and "…" not in line for line in console.export_text().splitlines())


@pytest.mark.parametrize("is_v5", [True, False])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_a_message_is_read_as_it_was_written_however_it_is_cut(is_v5: bool, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    whole = packets.publish("ef/1/t/d/x/dn/meta", payload, 77, is_v5=is_v5) + packets.puback(9) + packets.PINGREQ_PACKET
    for cut in {1, 2, 3, 5, len(whole) // 2, len(whole) - 1}:
        buffer, found = bytearray(), []
        for part in (whole[:cut], whole[cut:]):
            buffer += part
            found += list(packets.take_packets(buffer))
        assert [kind for kind, _, _ in found] == [packets.PUBLISH, packets.PUBACK, 0xC0]
        assert packets.arrived(found[0][1], found[0][2], is_v5=is_v5) == packets.Arrived(
            "ef/1/t/d/x/dn/meta", payload, 77, False
        )
        assert not buffer


def test_properties_of_version_5_are_the_bytes_of_another_library() -> None:
    connect, will = Properties(PacketTypes.CONNECT), Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    connect.SessionExpiryInterval, will.WillDelayInterval = 604_800, 15
    said = packets.connect("d-1", packets.Will("t", b"p", 15), 60, is_v5=True, session_s=604_800)
    assert connect.pack() in said  # type: ignore[no-untyped-call]
    assert will.pack() in said  # type: ignore[no-untyped-call]


def test_what_is_no_mqtt_is_refused() -> None:
    with pytest.raises(BadMessageError):
        list(packets.take_packets(bytearray(b"\x30\xff\xff\xff\xff\x01")))


def test_answers_drift_until_their_effect_is_reported() -> None:
    effects = [reports.psi(reports.class_counts(900, share / 12)) for share in range(13)]
    assert effects == sorted(effects)
    assert effects[0] < 0.001
    assert effects[-1] > reports.DRIFT_PSI


def test_delays_are_full_jitter_and_a_storm_has_none() -> None:
    assert [delay_s(n, 1.0, is_patient=True) for n in (1, 2, 20)] == [1.0, 2.0, 300.0]
    assert delay_s(20, 1.0, is_patient=False) == 1.0
    assert {behaviour_of("mixed", number) for number in range(10)} == set(PROFILES["mixed"])
    with pytest.raises(UnknownLoadProfileError):
        behaviour_of("calm", 0)
