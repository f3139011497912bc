"""The contract that any broker has to keep, on each kind: the checks of `edgectl server check broker`, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgefleet_server.gateway.broker.model import BrokerKind
from edgefleet_server.gateway.broker_contract.catalogue import CHECKS
from edgefleet_server.gateway.broker_contract.contract_runner import RUNS, run_check
from edgefleet_server.gateway.broker_contract.model import Check, Finding, Need, Outcome, is_fit
from edgefleet_server.gateway.broker_contract.stand import Stand
from tests.broker.conftest import TENANT, Site, TestIssuer

LACKS = {BrokerKind.EMBEDDED: {"mqtt-5", "shared-subscriptions"}, BrokerKind.MOSQUITTO: set[str]()}
"""What a kind does not do. The server knows that its embedded broker speaks MQTT 3.1.1, and takes smaller steps there."""
FOUND = {
    (BrokerKind.EMBEDDED, "subscribe-foreign"): "of 14: 14 refused, 0 ended the link, 0 deliver nothing",
    (BrokerKind.EMBEDDED, "client-id"): "refused",
    (BrokerKind.EMBEDDED, "will-foreign"): "refused at the connect",
    (BrokerKind.MOSQUITTO, "subscribe-foreign"): "of 14: 0 refused, 0 ended the link, 14 deliver nothing",
}
"""How a check is passed, where there are several ways."""


@pytest.fixture(scope="module")
def stand(site: Site) -> Iterator[Stand]:
    """Return a stand at the shared broker of a kind."""
    made = Stand(site.endpoint, TestIssuer(site), TENANT, "t", patience_s=20.0)
    yield made
    made.clean()


SHARED = [one for one in CHECKS if one.name != "revoked"]
"""At the broker that all tests of a kind share. mosquitto 2.0.21 may crash some time after it has read its files again (ADR 0150)."""


@pytest.mark.parametrize(
    "check", [pytest.param(one, marks=[pytest.mark.slow] * one.is_slow, id=one.name) for one in SHARED]
)
def test_a_broker_of_ours_keeps_the_contract(check: Check, site: Site, stand: Stand) -> None:
    finding = run_check(stand, check)
    wanted = Outcome.NOT_SUPPORTED if check.name in LACKS[site.kind] else Outcome.OK
    assert finding.outcome is wanted, finding.found
    if way := FOUND.get((site.kind, check.name)):
        assert finding.found == way


def test_a_broker_of_ours_refuses_what_was_revoked(own_site: Site) -> None:
    own_site.supervisor.start()
    own = Stand(own_site.endpoint, TestIssuer(own_site), TENANT, "r", patience_s=20.0)
    revoked = next(one for one in CHECKS if one.name == "revoked")
    finding = run_check(own, revoked)
    assert finding.outcome is Outcome.OK, finding.found


def test_every_check_is_described_and_can_be_run() -> None:
    assert [one.name for one in CHECKS] == list(dict.fromkeys(one.name for one in CHECKS))
    assert {one.name for one in CHECKS} == set(RUNS)
    assert CHECKS[-1].name == "clean-up", "it looks at what all others left behind"
    assert all(one.why and one.remedy for one in CHECKS)


def test_what_is_needed_decides() -> None:
    needed = next(one for one in CHECKS if one.need is Need.NEEDED)
    advised = next(one for one in CHECKS if one.need is Need.ADVISED)
    assert is_fit([Finding(needed, Outcome.OK, ""), Finding(advised, Outcome.FAILED, "")])
    assert not is_fit([Finding(needed, Outcome.NOT_SUPPORTED, "")])
    assert not is_fit([Finding(needed, Outcome.FAILED, "")])
    assert is_fit([Finding(needed, Outcome.NOT_RUN, "")])


def test_kinds_speak_the_version_they_promise(site: Site) -> None:
    assert site.endpoint.mqtt == ("3.1.1" if site.kind is BrokerKind.EMBEDDED else "5")
