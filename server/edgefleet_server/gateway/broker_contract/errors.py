"""Errors of checking a broker."""

from __future__ import annotations

from edgefleet_protocol.errors import EdgefleetError


class UnmetError(EdgefleetError):
    """A broker does not do what a check expects of it."""

    code = "broker.contract_unmet"
    default_next_step = "configure the broker as docs/operate/brokers.md says"


class UnsupportedError(EdgefleetError):
    """A broker, or the one that asks, cannot do at all what a check is about."""

    code = "broker.contract_unsupported"
    default_next_step = "see in docs/operate/brokers.md what edgefleet does without it"


class ClientRefusedError(EdgefleetError):
    """A broker did not let a client in."""

    code = "broker.client_refused"
    default_next_step = "check that the broker trusts the device CA and knows the accounts srv-check-a and srv-check-b"


class NotRunError(EdgefleetError):
    """A check cannot be run from here; it says nothing of the broker."""

    code = "broker.contract_not_run"
    default_next_step = "run the check on the machine of the server, while it runs"
