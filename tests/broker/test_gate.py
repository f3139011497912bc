"""The gate reads CONNECT packets exactly, and never fails in another way than by refusing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.gateway.broker.connect_gate import (
    BAD_VERSION,
    NOT_AUTHORIZED,
    Connect,
    ConnectRefusedError,
    check_principal,
    parse_connect,
)

HEAD = b"\x00\x04MQTT\x04"
OWN_WILL = "ef/1/acme/d/d-1/up/pres"


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _body(flags: int, *fields: bytes, head: bytes = HEAD, keepalive_s: int = 60) -> bytes:
    return head + bytes((flags,)) + keepalive_s.to_bytes(2, "big") + b"".join(map(_field, fields))


def _without_fixed_header(packet: bytes) -> bytes:
    assert packet[0] == 0x10
    at = next(i for i in range(1, 5) if not packet[i] & 128) + 1
    assert sum((byte & 127) << 7 * i for i, byte in enumerate(packet[1:at])) == len(packet) - at
    return packet[at:]


def test_all_fields_are_read() -> None:
    got = parse_connect(_body(0b11101110, b"d-1", OWN_WILL.encode(), b"gone", b"user", b"secret", keepalive_s=30))
    assert got == Connect("d-1", True, 30, OWN_WILL, b"gone", 1, True)


def test_user_and_password_do_not_reach_the_broker_and_its_keepalive_is_off() -> None:
    packet = parse_connect(_body(0b11000010, b"d-1", b"user", b"secret")).packet()
    assert b"user" not in packet
    assert b"secret" not in packet
    again = parse_connect(_without_fixed_header(packet))
    assert again == Connect("d-1", True, 0)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "protocol name"),
        (HEAD, "cut short"),
        (_body(2, b"d-1", head=b"\x00\x04mqtt\x04"), "protocol name"),
        (_body(3, b"d-1"), "reserved"),
        (_body(0x22, b"d-1"), "without a will"),
        (_body(0x0A, b"d-1"), "without a will"),
        (_body(0x16, b"d-1", OWN_WILL.encode(), b""), "will QoS 2"),
        (_body(0x1E, b"d-1", OWN_WILL.encode(), b""), "will QoS 3"),
        (_body(0x42, b"d-1", b"secret"), "password without"),
        (_body(2), "client id is missing"),
        (_body(2) + b"\x00\x09d-1", "client id is cut short"),
        (_body(2, b"\xff"), "UTF-8"),
        (_body(2, b"d\x00"), "NUL"),
        (_body(6, b"d-1"), "will topic is missing"),
        (_body(6, b"d-1", OWN_WILL.encode()), "will is missing"),
        (_body(0x82, b"d-1"), "user name is missing"),
        (_body(0xC2, b"d-1", b"user"), "password is missing"),
        (_body(2, b"d-1", b"d-2"), "too many"),
        (_body(6, b"d-1", OWN_WILL.encode(), b"gone", b"ef/1/acme/hold", b"x"), "too many"),
    ],
)
def test_malformed_connect_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ConnectRefusedError, match=why):
        parse_connect(body)


@pytest.mark.parametrize("head", [b"\x00\x06MQIsdp\x03", b"\x00\x04MQTT\x05", b"\x00\x04MQTT\x03"])
def test_other_versions_are_told_so(head: bytes) -> None:
    with pytest.raises(ConnectRefusedError) as caught:
        parse_connect(_body(2, b"d-1", head=head))
    assert caught.value.connack == BAD_VERSION


@pytest.mark.parametrize(
    ("connect", "cn"),
    [
        (Connect("d-1", True, 60), None),
        (Connect("d-1", True, 60), ""),
        (Connect("", True, 60), ""),
        (Connect("d-1", True, 60), "d-2"),
        (Connect("d-1", True, 60), "d-1\x00"),
        (Connect("d-1", True, 60, "ef/1/acme/d/d-2/up/pres"), "d-1"),
        (Connect("d-1", True, 60, "ef/1/acme/d/d-1/dn/desired"), "d-1"),
        (Connect("d-1", True, 60, "ef/1/acme/d/d-1/up/#"), "d-1"),
        (Connect("d-1", True, 60, "ef/1/other/d/d-1/up/pres"), "d-1"),
        (Connect("d-1", True, 60, ""), "d-1"),
        (Connect("d-1", True, 60, "$SYS/x"), "d-1"),
    ],
)
def test_wrong_principal_is_refused(connect: Connect, cn: str | None) -> None:
    with pytest.raises(ConnectRefusedError) as caught:
        check_principal(connect, cn, "acme")
    assert caught.value.connack == NOT_AUTHORIZED


def test_right_principal_passes() -> None:
    check_principal(Connect("d-1", False, 60, OWN_WILL, b"gone", 1, True), "d-1", "acme")
    check_principal(Connect("srv-main", True, 60), "srv-main", "acme")


_texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)


@given(
    client_id=_texts,
    clean=st.booleans(),
    will=st.none() | st.tuples(_texts, st.binary(max_size=300), st.integers(0, 1), st.booleans()),
)
def test_what_amqtt_is_shown_says_the_same(
    client_id: str, clean: bool, will: tuple[str, bytes, int, bool] | None
) -> None:
    connect = Connect(client_id, clean, 0, *will) if will else Connect(client_id, clean, 0)
    assert parse_connect(_without_fixed_header(connect.packet())) == connect


@given(body=st.binary(max_size=200), with_head=st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, with_head: bool) -> None:
    with contextlib.suppress(ConnectRefusedError):
        parse_connect(HEAD + body if with_head else body)


@given(at=st.integers(0, 80), value=st.integers(0, 255))
def test_one_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    body = bytearray(_body(0b11101110, b"d-1", OWN_WILL.encode(), b"gone", b"user", b"secret"))
    body[at % len(body)] = value
    with contextlib.suppress(ConnectRefusedError):
        parse_connect(bytes(body))
