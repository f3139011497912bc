"""The gate in front of the embedded broker: who may connect, decided before amqtt sees a byte.

Rules (ADR 0006; MQTT 3.1.1 §3.1):
1. The first packet is a CONNECT of protocol level 4, whole, at most 16 KiB, with no byte left over.
2. The client id is the one CN of the client's certificate. User and password fields are read and thrown away: the
   certificate is the identity, as with mosquitto's `use_identity_as_username`.
3. A certificate that was revoked, and a device that has no other, is refused.
4. A will goes only where its device may publish, with QoS 0 or 1.
5. What amqtt gets is a CONNECT written by us from the checked fields, with its own keepalive (never enforced there) off.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.topics import may

MAX_CONNECT_BYTES = 16_384
PROTOCOL_LEVEL = 4
_CONNECT = 0x10
_HEAD = b"\x00\x04MQTT"
_F_USER, _F_PASSWORD, _F_WILL_RETAIN, _F_WILL_QOS, _F_WILL, _F_CLEAN, _F_RESERVED = (
    0x80,
    0x40,
    0x20,
    0x18,
    0x04,
    0x02,
    0x01,
)

BAD_VERSION, BAD_ID, NOT_AUTHORIZED = 1, 2, 5  # CONNACK return codes, MQTT 3.1.1 table 3.1


class ConnectRefusedError(EdgefleetError):
    """The broker refuses a connection. `connack` is the return code to answer, None = close without an answer.

    is_usual: nothing that anybody should read about each time. A revoked device tries for ever.
    """

    code = "broker.connect_refused"

    def __init__(self, message: str, *, connack: int | None = None, is_usual: bool = False) -> None:
        super().__init__(message)
        self.connack = connack
        self.is_usual = is_usual


@dataclass(frozen=True, slots=True)
class Connect:
    """The fields of a checked CONNECT packet."""

    client_id: str
    clean_session: bool
    keepalive_s: int
    will_topic: str | None = None
    will_payload: bytes = b""
    will_qos: int = 0
    will_retain: bool = False

    def packet(self, keepalive_s: int = 0) -> bytes:
        """Return a CONNECT packet of these fields without user and password; amqtt is shown one without keepalive."""
        flags = _F_CLEAN if self.clean_session else 0
        payload = _field(self.client_id.encode())
        if self.will_topic is not None:
            flags |= _F_WILL | self.will_qos << 3 | (_F_WILL_RETAIN if self.will_retain else 0)
            payload += _field(self.will_topic.encode()) + _field(self.will_payload)
        body = _HEAD + bytes((PROTOCOL_LEVEL, flags)) + keepalive_s.to_bytes(2, "big") + payload
        return bytes((_CONNECT,)) + _varint(len(body)) + body


def parse_connect(body: bytes) -> Connect:
    """Return the fields of a CONNECT body (all after the fixed header). Raises ConnectRefusedError, nothing else."""
    if not body.startswith(_HEAD):
        # The name is checked before the level: a 3.1 client says MQIsdp and gets the same answer as a v5 client.
        is_older = body.startswith(b"\x00\x06MQIsdp")
        raise ConnectRefusedError("protocol name is not MQTT", connack=BAD_VERSION if is_older else None)
    if len(body) < len(_HEAD) + 4:
        raise ConnectRefusedError("CONNECT is cut short")
    level, flags, keepalive_s = struct.unpack_from(">BBH", body, len(_HEAD))
    if level != PROTOCOL_LEVEL:
        raise ConnectRefusedError(f"protocol level {level} instead of 4 (MQTT 3.1.1)", connack=BAD_VERSION)
    _check_flags(flags)
    fields = _Fields(body, len(_HEAD) + 4)
    client_id = fields.text("client id")
    will_topic, will_payload = (fields.text("will topic"), fields.raw("will")) if flags & _F_WILL else (None, b"")
    if flags & _F_USER:
        fields.text("user name")
    if flags & _F_PASSWORD:
        fields.raw("password")
    fields.end()
    return Connect(
        client_id=client_id,
        clean_session=bool(flags & _F_CLEAN),
        keepalive_s=keepalive_s,
        will_topic=will_topic,
        will_payload=will_payload,
        will_qos=(flags & _F_WILL_QOS) >> 3,
        will_retain=bool(flags & _F_WILL_RETAIN),
    )


def check_principal(connect: Connect, cn: str | None, tenant: str) -> None:
    """Refuse a CONNECT whose client id is not the certificate's CN, or whose will is not its own to publish."""
    if not cn or connect.client_id != cn:
        raise ConnectRefusedError("client id is not the name in the certificate", connack=NOT_AUTHORIZED)
    if connect.will_topic is not None and not may(tenant, cn, connect.will_topic, True):
        raise ConnectRefusedError("will topic is not this client's to publish", connack=NOT_AUTHORIZED)


def cn_of(tls: ssl.SSLObject | None) -> str | None:
    """Return the CN of the verified client certificate; None without certificate, or unless it has exactly one CN."""
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return None
    subject: Any = certificate.get("subject", ())  # typeshed's type of a name is wider than what OpenSSL gives
    names: list[str] = [value for rdn in subject for key, value in rdn if key == "commonName"]
    return names[0] if len(names) == 1 else None


def serial_of(tls: ssl.SSLObject | None) -> str:
    """Return the serial of the verified client certificate, lower-case hex; "" without certificate."""
    certificate: Any = (tls.getpeercert() if tls is not None else None) or {}
    return f"{int(certificate['serialNumber'], 16):x}" if "serialNumber" in certificate else ""


def _nobody(_name: str, _serial: str) -> bool:
    return False


async def checked_connect(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    tenant: str,
    is_refused: Callable[[str, str], bool] = _nobody,
) -> Connect:
    """Read the CONNECT packet of a new link and check it; a refusal is answered on the wire.

    is_refused: says by name and serial whether a certificate was revoked. Raises ConnectRefusedError, asyncio.IncompleteReadError or
    OSError. The caller sets the time limit.
    """
    try:
        connect = parse_connect(await _read_body(reader))
        tls = writer.get_extra_info("ssl_object")
        check_principal(connect, cn_of(tls), tenant)
        if is_refused(connect.client_id, serial_of(tls)):
            raise ConnectRefusedError("certificate was revoked", connack=NOT_AUTHORIZED, is_usual=True)
    except ConnectRefusedError as refusal:
        if refusal.connack is not None:
            writer.write(bytes((0x20, 2, 0, refusal.connack)))
        raise
    return connect


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    first = (await reader.readexactly(1))[0]
    if first != _CONNECT:
        raise ConnectRefusedError(f"first packet begins with 0x{first:02x}, not with a CONNECT")
    length = 0
    for shift in (0, 7, 14):  # three bytes already say 2 MiB; a fourth can only be too long
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        if not byte & 128:
            break
    else:
        raise ConnectRefusedError("length of the CONNECT is out of range")
    if length > MAX_CONNECT_BYTES:
        raise ConnectRefusedError(f"CONNECT of {length} bytes; at most {MAX_CONNECT_BYTES} are taken")
    return await reader.readexactly(length)


def _check_flags(flags: int) -> None:
    will_qos = (flags & _F_WILL_QOS) >> 3
    if flags & _F_RESERVED:
        raise ConnectRefusedError("reserved CONNECT flag is set [MQTT-3.1.2-3]")
    if not flags & _F_WILL and flags & (_F_WILL_QOS | _F_WILL_RETAIN):
        raise ConnectRefusedError("will QoS or retain without a will [MQTT-3.1.2-11]")
    if will_qos > 1:
        raise ConnectRefusedError(f"will QoS {will_qos}; only 0 and 1 are used here")
    if flags & _F_PASSWORD and not flags & _F_USER:
        raise ConnectRefusedError("password without a user name [MQTT-3.1.2-22]")


class _Fields:
    """Takes length-prefixed fields from a CONNECT body, one after the other."""

    def __init__(self, body: bytes, offset: int) -> None:
        self._body = body
        self._at = offset

    def raw(self, name: str) -> bytes:
        """Return the next field's bytes."""
        start = self._at + 2
        if start > len(self._body):
            raise ConnectRefusedError(f"{name} is missing")
        self._at = start + int.from_bytes(self._body[start - 2 : start], "big")
        if self._at > len(self._body):
            raise ConnectRefusedError(f"{name} is cut short")
        return self._body[start : self._at]

    def text(self, name: str) -> str:
        """Return the next field as text: strict UTF-8 without NUL [MQTT-1.5.3]."""
        try:
            text = self.raw(name).decode()
        except UnicodeDecodeError as error:
            raise ConnectRefusedError(f"{name} is not UTF-8") from error
        if "\0" in text:
            raise ConnectRefusedError(f"{name} holds a NUL")
        return text

    def end(self) -> None:
        """Refuse bytes that no flag announced: amqtt and we must never read a packet differently."""
        if self._at != len(self._body):
            raise ConnectRefusedError(f"{len(self._body) - self._at} bytes too many in the CONNECT")


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 127
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)
