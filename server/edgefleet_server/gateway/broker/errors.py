"""Errors of choosing, starting and keeping a broker."""

from __future__ import annotations

from edgefleet_protocol.errors import EdgefleetError


class BrokerSettingError(EdgefleetError):
    """The setting `broker` does not work on this machine."""

    code = "broker.bad_setting"
    default_next_step = "use auto, embedded, mosquitto or mqtts://HOST[:PORT]"


class BrokerStartError(EdgefleetError):
    """A broker process did not start."""

    code = "broker.not_started"
    default_next_step = "read the lines of the broker above, correct the cause and start the server again"


class RevocationListError(EdgefleetError):
    """A new list of revoked certificates cannot be used; the broker keeps the old one."""

    code = "broker.bad_revocation_list"
    default_next_step = "check the key folder and the disk of the broker's files; the server tries again by itself"


class PortTakenError(BrokerStartError):
    """The port is used by another process."""

    code = "broker.port_taken"
    default_next_step = "choose another broker port, or 0 for any free one"
