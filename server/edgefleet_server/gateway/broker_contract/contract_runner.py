"""Runs the checks of `catalogue` on a stand, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from edgefleet_server.gateway.broker_contract import access_checks as access
from edgefleet_server.gateway.broker_contract import capacity_checks as capacity
from edgefleet_server.gateway.broker_contract import delivery_checks as delivery
from edgefleet_server.gateway.broker_contract import link_checks as link
from edgefleet_server.gateway.broker_contract.catalogue import CHECKS
from edgefleet_server.gateway.broker_contract.errors import (
    ClientRefusedError,
    NotRunError,
    UnmetError,
    UnsupportedError,
)
from edgefleet_server.gateway.broker_contract.model import Check, Finding, Outcome
from edgefleet_server.gateway.broker_contract.stand import Stand

RUNS: Final[Mapping[str, Callable[[Stand], str]]] = {
    "certificate-needed": access.needs_certificate,
    "client-id": access.client_id_is_the_certificate,
    "online-untouched": access.online_device_is_untouched,
    "queue-not-stolen": access.queue_cannot_be_stolen,
    "subscribe-foreign": access.foreign_filters_bring_nothing,
    "subscribe-own": access.own_filters_deliver,
    "publish-foreign": access.foreign_publishes_reach_nobody,
    "will-foreign": access.foreign_will_is_never_sent,
    "connect-quiet": access.connecting_brings_nothing,
    "revoked": access.revoked_certificate_is_refused,
    "queue-order": delivery.queue_keeps_the_order,
    "queue-depth": delivery.queue_is_deep,
    "online-order": delivery.online_messages_keep_the_order,
    "reconnect-no-loss": delivery.reconnecting_loses_nothing,
    "redelivery-cut": delivery.unacknowledged_after_cut,
    "redelivery-disconnect": delivery.unacknowledged_after_disconnect,
    "redelivery-silence": delivery.unacknowledged_after_silence,
    "acked-once": delivery.acknowledged_do_not_come_again,
    "retained": delivery.retained_newest_is_given,
    "retained-resubscribe": delivery.retained_again_when_subscribed_again,
    "retained-wildcard": delivery.retained_to_a_wildcard,
    "session-present": delivery.session_is_announced,
    "wave": delivery.wave_reaches_everybody,
    "shared-subscriptions": delivery.shared_subscription,
    "will-crash": link.will_after_a_crash,
    "will-disconnect": link.no_will_after_disconnect,
    "keepalive": link.frozen_device_is_noticed,
    "ping": link.pinging_device_stays,
    "take-over": link.newer_link_takes_over,
    "take-over-many": link.last_of_many_links_works,
    "huge-packet": link.huge_packet_ends_its_own_link,
    "garbage": link.garbage_ends_its_own_link,
    "packet-64k": capacity.packets_of_64_kib,
    "packet-block": capacity.packets_of_a_block,
    "packet-limit": capacity.largest_packet,
    "mqtt-5": capacity.speaks_version_5,
    "mqtt-3.1.1": capacity.speaks_version_311,
    "throughput": capacity.throughput,
    "clean-up": capacity.nothing_is_left,
}


def run_check(stand: Stand, check: Check) -> Finding:
    """Run one check and close its connections. Raises nothing of what a broker can do."""
    begun = time.monotonic()
    outcome, found = Outcome.OK, ""
    try:
        found = RUNS[check.name](stand)
    except UnsupportedError as error:
        outcome, found = Outcome.NOT_SUPPORTED, error.message
    except NotRunError as error:
        outcome, found = Outcome.NOT_RUN, error.message
    except (UnmetError, ClientRefusedError, OSError) as error:
        outcome, found = Outcome.FAILED, error.message if isinstance(error, UnmetError) else f"no connection: {error}"
    finally:
        stand.close()
    return Finding(check, outcome, found, time.monotonic() - begun)


def run_all(stand: Stand, only: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the finding of each check as it is made. only: names of checks; empty: all. Afterwards nothing is left on the broker."""
    try:
        for check in CHECKS:
            if not only or check.name in only:
                yield run_check(stand, check)
    finally:
        stand.clean()
