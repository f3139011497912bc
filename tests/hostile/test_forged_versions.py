"""One device says that it has seen a repository from the future, and names roles of models: the server signs nothing for it."""

from __future__ import annotations

from edgefleet_protocol.messages import MAX_SEEN_ROLES, Presence, Seen, State
from edgefleet_server.fleet.reported import store
from edgefleet_server.fleet.reported.metadata_recovery import KIND_OF_WORD
from edgefleet_server.signing.trust import RoleView
from tests.broker.client import eventually
from tests.server.gateway.conftest import Site, site
from tests.server.gateway.device import MqttDevice

__all__ = ["site"]

FORGED = 2**50


def says(device: MqttDevice, seq: int, seen: Seen | None) -> None:
    """Send a state as an agent does."""
    state = State(device=device.id, gen=0, boot_id="b", seq=seq, ts=0, models=[], seen=seen)
    device.say(device.topics.state(device.id), state, retain=True)


def files(site: Site) -> dict[str, bytes]:
    """Return the newest file of every role."""
    return {
        role.name: site.house.signing.metadata_file(f"{role.version}.{role.name}.json") or b"" for role in _roles(site)
    }


def _roles(site: Site) -> list[RoleView]:
    return [role for role in site.house.signing.roles() if role.name != "timestamp"]


def await_words(site: Site, *versions: int) -> None:
    """Wait until the server knows that devices have said these versions, least first."""

    def is_heard() -> bool:
        with site.house.db.read() as session:
            return sorted(one.version for one in store.said_words(session)) == list(versions)

    eventually(is_heard, f"the words {versions}")


def test_forged_versions_and_256_names_sign_nothing(site: Site) -> None:
    house = site.house
    devices = [site.connect(house.device()) for _ in range(4)]
    liar, others = devices[0], devices[1:]
    for device in devices:
        device.say(device.topics.presence(device.id), Presence(on=True, conn_id="c", boot_id="b", ts=0), retain=True)
        says(device, 1, None)
    eventually(lambda: house.fleet.reader.summary().status["online"] == len(devices), "all devices")
    before = files(site)
    names = [f"m.attacker-owned-{number:03}" for number in range(2 * MAX_SEEN_ROLES)]
    for turn, chosen in enumerate((names[:MAX_SEEN_ROLES], names[MAX_SEEN_ROLES:])):
        says(liar, 2 + turn, Seen(version=FORGED + turn, roles=dict.fromkeys(chosen, FORGED)))
        await_words(site, FORGED + turn)
        house.fleet.recovery.step(house.clock.now())
    for number, device in enumerate(
        others
    ):  # they were asked, fetch the metadata and find nothing wrong; one lies as well
        device.desired.get(timeout=20)
        says(device, 2, Seen(version=FORGED, roles={"m.second": FORGED}) if number == 0 else None)
    await_words(site, FORGED, FORGED + 1)
    house.fleet.recovery.step(house.clock.now())
    assert files(site) == before, "releases and snapshot are the files that they were"
    events = house.fleet.feed.page(limit=100, kinds=[KIND_OF_WORD])[0]
    assert [event.detail["device"] for event in events] == [liar.id]

    view = house.fleet.recovery.view()
    assert {one.model for one in view.models} == {*(name[2:] for name in names[MAX_SEEN_ROLES:]), "second"}
    house.fleet.recovery.sign(view.version, ["second"], "an operator")
    assert files(site).keys() - before.keys() == {"m.second"}, (
        "an operator's word makes what it names, and nothing else"
    )
