"""The client of the broker contract, with the errors that a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgefleet_server.gateway.broker_contract import link_client
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError as RefusedError
from edgefleet_server.gateway.broker_contract.errors import UnmetError
from edgefleet_server.gateway.broker_contract.link_client import PATIENCE_S, LinkOptions
from edgefleet_server.gateway.broker_contract.link_client import LinkClient as Client

__all__ = ["PATIENCE_S", "Client", "LinkOptions", "RefusedError", "eventually"]


def eventually(fact: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until `fact()` is true and return it; fail with `what` after a generous time."""
    try:
        return link_client.eventually(fact, what, patience_s)
    except UnmetError as error:
        raise AssertionError(error.message) from None
