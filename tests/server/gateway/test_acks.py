"""The quick client hears of every acknowledgement what paho hears."""

from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from edgefleet_server.gateway import acks

Heard = list[tuple[Any, ...]]


def heard(kind: type[paho.Client], packet: bytes, protocol: int, cmd: str) -> tuple[Heard, str]:
    """Return what a client with two messages on their way tells of a packet, and the error that it raises."""
    client = kind(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if protocol == 5 else paho.MQTTv311)
    told: Heard = []
    infos = [client.publish("a/topic", b"x", qos=1) for _ in range(2)]
    client.on_publish = lambda _client, _data, mid, reason, properties: told.append(
        (mid, reason.value, str(reason), reason.is_failure, reason.packetType, properties.json(), properties.packetType)
    )
    client._in_packet = {"command": 0x40, "packet": bytearray(packet)}  # type: ignore[typeddict-item]
    error = ""
    try:
        told.append((client._handle_pubackcomp(cmd),))  # type: ignore[arg-type]
    except Exception as raised:  # noqa: BLE001  # whatever paho raises, the other must, too
        error = type(raised).__name__
    told += [(info.rc, info._published, len(client._out_messages)) for info in infos]
    return told, error


def agree(packet: bytes, protocol: int = 5, cmd: str = "PUBACK") -> tuple[Heard, str]:
    """Hold that both hear the same; return it."""
    quick = heard(acks.QuickClient, packet, protocol, cmd)
    assert quick == heard(paho.Client, packet, protocol, cmd)
    return quick


@pytest.mark.parametrize("protocol", [5, 4])
@pytest.mark.parametrize("cmd", ["PUBACK", "PUBCOMP"])
@pytest.mark.parametrize(
    "rest", [b"", b"\x00", b"\x10", b"\x10\x00", b"\x80", b"\x87", b"\x97", b"\x00\x00", b"\x01", b"\xff"]
)
@pytest.mark.parametrize("mid", [1, 2, 3, 65_535])
def test_every_acknowledgement_says_the_same(mid: int, rest: bytes, cmd: str, protocol: int) -> None:
    agree(mid.to_bytes(2, "big") + rest, protocol, cmd)


@given(st.binary(max_size=12) | st.binary(max_size=5).map(lambda more: b"\x00\x01" + more))
def test_any_bytes_say_the_same(packet: bytes) -> None:
    agree(packet)


def test_a_reason_string_is_read_by_paho_itself() -> None:
    told, error = agree(b"\x00\x01\x97\x08\x1f\x00\x05quota")
    assert not error
    assert told[0][:4] == (1, 0x97, "Quota exceeded", True)
    assert told[0][5] == {"ReasonString": "quota"}


def test_the_quick_client_is_used_and_a_paho_that_names_its_parts_otherwise_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert acks.client_type() is acks.QuickClient
    monkeypatch.setattr(acks, "_NEEDED", (*acks._NEEDED, "_renamed"))
    assert acks.client_type() is paho.Client
