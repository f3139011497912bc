"""Documents with numbers no device can store, a floor that vanished, links planted in a slot: refused, told, not followed."""

import datetime as dt
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.install.verifier_protocol import Accepted, Fetched, Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.verify import ExpiredError
from tests.agent.child import ChildDriver
from tests.agent.test_install_child import accepted, refused, signed, wish
from tests.support.servers import HandClock

HUGE = 2**80


def with_numbers(house_driver: ChildDriver, raw: bytes, number: int, where: str) -> bytes:
    """Return the document with one number changed, signed by the real director."""
    document: dict[str, Any] = json.loads(parse_envelope(raw).payload)
    document["gen"] += 10
    active = document["models"]["digits"]["active"]
    if where == "gen":
        document["gen"] = number
    elif where == "sec_floor":
        document["sec_floor"] = {"digits": number}
    elif where == "deadlines":
        active["deadlines"]["download_s"] = number
    else:
        active[where] = number
    return house_driver.house.signing.sign_desired(json.dumps(document, sort_keys=True).encode())


def test_numbers_that_no_device_can_store_are_refused(driver: ChildDriver) -> None:
    raw = wish(driver)
    for where in ("gen", "sec_floor", "deadlines", "attempt", "length"):
        for number in (2**63, HUGE):
            assert refused(driver, with_numbers(driver, raw, number, where)).code == "message.bad", where
    assert isinstance(driver.verify(raw)[0], Accepted)


def test_a_floor_that_vanished_is_told_and_no_older_document_is_taken(driver: ChildDriver) -> None:
    first = driver.house.fleet.documents.of_device(driver.device)
    assert first is not None
    raw = wish(driver)
    gen = accepted(driver, raw).gen
    for name in ("floor.a", "floor.b"):
        (driver.state / name).unlink()
    shutil.rmtree(driver.state / "tuf")
    assert refused(driver, bytes(first.envelope)).code == "verify.old_generation"
    other = signed(driver, raw, gen=gen, sec_floor={"digits": 0})
    assert refused(driver, other).code == "verify.old_generation"
    assert {notice.code for notice in driver.notices} == {"trust.floor_lost"}
    accepted(driver, signed(driver, raw, gen=gen + 1))


def test_a_clock_of_1970_still_knows_that_a_document_is_over(driver: ChildDriver) -> None:
    raw = wish(driver)
    accepted(driver, raw)
    over = signed(driver, raw, gen=50, expires=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=30))
    task = Task(kind="desired", state_dir=str(driver.state), device=driver.device)
    clock = HandClock(dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(ExpiredError):
        Documents(task, lambda name, _limit: driver.honest_meta(name), clock).desired(over)


@pytest.mark.parametrize("name", ["bundle.part", "bundle", "bundle.bits", ".bundle.bits.tmp", "slot.msgpack"])
@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hardlink"])
def test_nothing_is_written_through_a_link_in_a_slot(
    driver: ChildDriver,
    tmp_path: Path,
    name: str,
    plant: Any,
) -> None:
    wanted = accepted(driver, wish(driver)).wanted[0]
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    slot = driver.state / "models" / "digits" / "A"
    slot.mkdir(parents=True)
    plant(victim, slot / name)
    assert isinstance(driver.install(wanted), Fetched)
    assert victim.read_bytes() == b"precious"
