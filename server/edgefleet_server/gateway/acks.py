"""A paho client that reads short acknowledgements without making four objects of each.

Its own file because it reaches into paho, and nothing else may. For every PUBACK of MQTT 5 paho builds a table of all properties and
two reason codes: more time of this process than signing the document that is acknowledged (ADR 0062). A PUBACK without properties is a
message id and perhaps one byte (MQTT 5 §3.4.2), so its reason is looked up instead, among reason codes that paho itself made.

Whatever is longer, malformed or unknown goes paho's own way. A paho that names its parts otherwise is used as it is.
"""

from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_NEEDED: Final = (
    "_in_packet",
    "_protocol",
    "_out_message_mutex",
    "_out_messages",
    "_do_on_publish",
    "_handle_pubackcomp",
)
_KNOWN: Final = (0, 16, 128, 131, 135, 144, 145, 151, 153)
"""Reasons of a PUBACK, MQTT 5 table 3-4."""
_REASONS: Final = {b"": ReasonCode(PacketTypes.PUBACK)} | {
    bytes([value]): ReasonCode(PacketTypes.PUBACK, identifier=value) for value in _KNOWN
}
_NO_PROPERTIES: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class QuickClient(paho.Client):
    """Answers as paho does, see above. All acknowledgements share the reason codes and the empty properties: nobody may change them."""

    def _handle_pubackcomp(self, cmd: str) -> MQTTErrorCode:
        packet = bytes(self._in_packet["packet"])
        reason = _REASONS.get(packet[2:]) if cmd == "PUBACK" and self._protocol == paho.MQTTv5 else None
        if reason is None or len(packet) < 2:  # not even a message id
            return super()._handle_pubackcomp(cmd)  # type: ignore[arg-type]  # paho names the two words
        mid = int.from_bytes(packet[:2], "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, reason, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def client_type() -> type[paho.Client]:
    """Return the client to use: the quick one where paho has the parts that it needs."""
    probe = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    return QuickClient if all(hasattr(probe, name) for name in _NEEDED) else paho.Client
