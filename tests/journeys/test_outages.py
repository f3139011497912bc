"""Parts that die or are away in the middle: the device ends on the wanted release."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

BIG_BYTES = 30_000_000


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device(road: Road) -> Traveller:
    """One device for all outages; each test has a model of its own."""
    return Traveller(road, "device")


def bundle(name: str, version: str, pad: int = 0) -> bytes:
    """Return a good bundle of at least `pad` bytes."""
    extra = {"pad.bin": os.urandom(pad)} if pad else None
    return bundle_bytes(classifier_onnx(), name=name, version=version, extra=extra)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that may be in use."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def restorations(road: Road) -> list[dict[str, Any]]:
    """Return what the events say of signing again after a restore, newest first."""
    events = road.edgectl("events", "--kind", "restored", "--limit", "200")["items"]
    assert {event["type"] for event in events} <= {"edgefleet.server.restored"}
    return [event["detail"] for event in events]


def unknown_models(road: Road) -> dict[str, list[str]]:
    """Return the models that devices know and the server does not, and who names them."""
    return {one["model"]: one["named_by"] for one in road.edgectl("server", "restored")["models"]}


def test_the_server_is_killed_in_the_middle_of_a_deployment(road: Road, device: Traveller) -> None:
    road.release("digits@1.0.0", bundle("digits", "1.0.0", BIG_BYTES))
    assert eventually(lambda: device.model("digits").get("phase") == "downloading", PATIENCE_S)
    road.kill()
    assert device.model("digits").get("phase") == "downloading"
    road.start()
    device.told("digits", release="digits@1.0.0", phase="committed")
    assert device.served("digits") == "1.0.0"


def test_the_broker_is_killed_before_a_deployment(road: Road, device: Traveller) -> None:
    children = psutil.Process(road.server.process.pid).children(recursive=True)
    (broker,) = [child for child in children if "broker" in " ".join(child.cmdline()) or child.name() == "mosquitto"]
    os.kill(broker.pid, signal.SIGKILL)
    road.release("radio@1.0.0", bundle("radio", "1.0.0"))
    device.told("radio", release="radio@1.0.0", phase="committed")
    assert road.server.process.poll() is None
    assert device.served("radio") == "1.0.0"


def test_a_device_that_was_away_takes_the_newest_wish(road: Road, device: Traveller) -> None:
    road.release("sleeper@1.0.0", bundle("sleeper", "1.0.0"))
    device.told("sleeper", release="sleeper@1.0.0", phase="committed")
    device.stop()
    assert eventually(lambda: device.shown()["status"] == "offline", PATIENCE_S, ASK_AGAIN_S)
    road.release("sleeper@1.1.0", bundle("sleeper", "1.1.0"))
    road.release("sleeper@1.2.0", bundle("sleeper", "1.2.0"))
    device.start()
    device.told("sleeper", release="sleeper@1.2.0", phase="committed")
    assert device.served("sleeper") == "1.2.0"


def test_a_fleet_hears_a_server_restored_from_an_older_copy(road: Road, device: Traveller, tmp_path: Path) -> None:
    """Three devices are enough: two that are drawn confirm what the first says, and nobody types anything."""
    others = [Traveller(road, "second"), Traveller(road, "third")]
    road.release("memory@1.0.0", bundle("memory", "1.0.0"))
    device.told("memory", release="memory@1.0.0", phase="committed")
    database, copy = road.data / "edgefleet.db", tmp_path / "copy.db"
    copy_database(database, copy)
    for version in ("1.1.0", "1.2.0", "1.3.0"):
        road.release(f"memory@{version}", bundle("memory", version))
    for one in (device, *others):
        one.told("memory", release="memory@1.3.0", phase="committed")
    known = device.shown()["reported_gen"]

    road.kill()
    road.house.db.dispose()
    copy_database(copy, database)
    road.start()

    assert eventually(lambda: restorations(road), PATIENCE_S, ASK_AGAIN_S), "no device has outrun the server"
    for one in (device, *others):
        one.told(
            "memory", release="memory@1.0.0", phase="committed"
        )  # before that the copy says so, of a time long gone
    (event,) = restorations(road)
    assert {event["device"], *event["confirmed_by"]} == {one.name for one in (device, *others)}
    road.release("memory@2.0.0", bundle("memory", "2.0.0"))
    device.told("memory", release="memory@2.0.0", phase="committed")
    assert device.shown()["reported_gen"] > known
    assert device.served("memory") == "2.0.0"
    for one in others:
        one.stop()


def test_a_restored_server_deploys_what_it_knows_without_publishing_again(
    road: Road, device: Traveller, tmp_path: Path
) -> None:
    """One device does not confirm its own word, and no role of a model is made at it: an operator says both.

    Devices go to what the copy wants, since that is all that is known.
    """
    for version in ("1.0.0", "1.0.1"):
        road.house.release(f"atlas@{version}", bundles={PROFILE: bundle("atlas", version)})
    road.want("atlas@1.0.0")
    device.told("atlas", release="atlas@1.0.0", phase="committed")
    database, copy = road.data / "edgefleet.db", tmp_path / "copy.db"
    copy_database(database, copy)
    road.release("atlas@1.1.0", bundle("atlas", "1.1.0"))
    late = bundle("late", "1.0.0")
    road.release("late@1.0.0", late)
    device.told("atlas", release="atlas@1.1.0", phase="committed")
    device.told("late", release="late@1.0.0", phase="committed")

    road.kill()
    road.house.db.dispose()
    copy_database(copy, database)
    road.start()

    said = eventually(lambda: road.edgectl("server", "restored")["words"], PATIENCE_S, ASK_AGAIN_S)
    assert said, "the device has not spoken"
    road.edgectl("server", "restored", "--yes")
    assert eventually(lambda: unknown_models(road) == {"late": [device.name]}, PATIENCE_S, ASK_AGAIN_S)
    road.edgectl("server", "restored", "--model", "late", "--yes")
    device.told("atlas", release="atlas@1.0.0", phase="committed")
    road.want("atlas@1.0.1")
    device.told("atlas", release="atlas@1.0.1", phase="committed")
    assert device.served("atlas") == "1.0.1"
    assert [detail["lost_models"] for detail in restorations(road)][:2] == [["late"], []]
    assert road.house.signing.lost_models() == ["late"]

    road.release("late@1.0.0", late)
    device.told("late", release="late@1.0.0", phase="committed")
    assert device.served("late") == "1.0.0"


def test_devices_stay_where_they_are_when_what_was_lost_is_there_before_they_connect(
    road: Road, device: Traveller, tmp_path: Path
) -> None:
    before, after = bundle("rock", "1.0.0"), bundle("rock", "1.1.0")
    road.release("rock@1.0.0", before)
    device.told("rock", release="rock@1.0.0", phase="committed")
    database, copy = road.data / "edgefleet.db", tmp_path / "copy.db"
    copy_database(database, copy)
    road.release("rock@1.1.0", after)
    device.told("rock", release="rock@1.1.0", phase="committed")
    known = device.shown()["reported_gen"]

    road.kill()
    road.house.db.dispose()
    copy_database(copy, database)
    road.release("rock@1.1.0", after)  # as a server does that listens where no device looks for it
    road.start()
    assert eventually(lambda: device.shown()["reported_gen"] > known, PATIENCE_S, ASK_AGAIN_S)
    told = device.told("rock", release="rock@1.1.0", phase="committed")
    assert (told["slot"], told["previous_target"]) == ("B", f"rock/1.0.0/{PROFILE}.bundle")
    assert road.block_requests() == 0
