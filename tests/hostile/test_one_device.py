"""One device lies about a release that runs well on others: real server, real agents, a liar that speaks MQTT by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.desired import DESIRED_TYPE, Desired, decode_desired
from edgefleet_protocol.messages import ErrorClass, ModelState, Phase, Presence, State
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from tests.agent.field import eventually
from tests.journeys.fleet import ALL, Fleet, Json, bundle, enrolled
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road
from tests.server.fleet.house import PROFILE
from tests.server.gateway.device import MqttDevice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KINDS = [
    pytest.param(
        BrokerKind.MOSQUITTO, marks=pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
    ),
    BrokerKind.EMBEDDED,
]


@pytest.fixture
def road(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Road]:
    """A running server on each broker."""
    made = Road(tmp_path, request.param.value)
    yield made
    made.close()


class Liar:
    """An enrolled device that says what it likes."""

    def __init__(self, road: Road, folder: Path) -> None:
        self.road = road
        own = road.house.device(profile=PROFILE)
        kind = BrokerKind(road.broker)
        self.mqtt = MqttDevice(own, BrokerEndpoint(kind, "127.0.0.1", road.broker_port, kind.mqtt, road.folder), folder)
        self.id, self._seq = self.mqtt.id, 0
        presence = Presence(on=True, conn_id="c", boot_id="b", ts=0)
        self.mqtt.say(self.mqtt.topics.presence(self.id), presence, retain=True)

    def _told(self) -> Desired:
        raw = self.mqtt.desired.get(timeout=PATIENCE_S)
        return decode_desired(verify_envelope(raw, DESIRED_TYPE, [self.road.house.signing.director_key()]))

    def cry(self, model: str, error_class: ErrorClass) -> None:
        """Take up the document that offers a model, and say that its release failed."""
        desired = self._told()
        while model not in desired.models:
            desired = self._told()
        active = desired.models[model].active
        assert active is not None
        self._seq += 1
        state = ModelState(
            model=model,
            phase=Phase.FAILED,
            wanted_sha256=active.sha256,
            attempt=active.attempt,
            gen=desired.gen,
            error_class=error_class,
            reason="so it says",
            rollout=active.rollout or "",
        )
        said = State(device=self.id, gen=desired.gen, boot_id="b", seq=self._seq, ts=0, models=[state])
        self.mqtt.say(self.mqtt.topics.state(self.id), said, retain=True)


@pytest.mark.parametrize("road", KINDS, ids=str, indirect=True)
def test_a_forged_failure_takes_nothing_back_and_makes_its_device_suspect(road: Road, tmp_path: Path) -> None:
    honest = Fleet(road, [enrolled(road, f"honest{number}") for number in range(2)])
    liar = Liar(road, tmp_path)
    everybody = f"id in ({','.join([*(one.name for one in honest.devices), liar.id])})"
    release = honest.publish("vetoed@1.0.0", bundle("vetoed", "1.0.0"))
    rollout = honest.roll(release, ALL, selector=everybody)
    honest.prove(release)
    liar.cry("vetoed", ErrorClass.GOLDEN)
    paused = rollout.ends("paused")
    assert "the golden failure is not confirmed" in paused["reason"]
    assert {rollout.stands(one.name)["state"] for one in honest.devices} == {"healthy"}
    for device in honest.devices:
        assert device.served("vetoed") == "1.0.0"
    shown: Json = {}

    def is_suspect() -> bool:
        shown.update(road.edgectl("device", "show", liar.id))
        return bool(shown.get("suspect_since"))

    assert eventually(is_suspect, PATIENCE_S, ASK_AGAIN_S), shown
    assert "golden" in shown["suspect_reason"]
    rollout.act("promote", "--reason", "two devices and the server say that it is well")
    rollout.ends("finished")
    _goes_on_without_its_word(road, honest, liar, everybody)


def _goes_on_without_its_word(road: Road, honest: Fleet, liar: Liar, everybody: str) -> None:
    """What a suspect says of the next release asks nobody, and it is not among the first that get it."""
    release = honest.publish("vetoed@1.1.0", bundle("vetoed", "1.1.0"))
    canary = {"name": "canary", "size": {"count": 2}, "soak": 0}
    rollout = honest.roll(release, canary, ALL | {"name": "rest"}, selector=everybody)
    honest.prove(release)
    opened = rollout.until(lambda shown: shown["stages"][0]["state"] == "passed")
    assert set(opened["stages"][0]["devices"]) == {one.name for one in honest.devices}
    liar.cry("vetoed", ErrorClass.SIGNATURE)
    rollout.until(lambda shown: shown["counts"]["failed"] == 1)
    told = road.edgectl("events", "--rollout", rollout.id)["items"]
    assert [one for one in told if one["kind"] == "confirmation"] == []
    assert {rollout.stands(one.name)["state"] for one in honest.devices} == {"healthy"}
