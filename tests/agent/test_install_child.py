"""The install child against a real TUF repository and real signed documents: every refusal has a reason of its own."""

import datetime as dt
import os
import shutil
import time

import msgspec
import pytest
from sqlalchemy import delete
from sqlmodel import col

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install.records import DesiredOk, SlotInfo
from edgefleet_agent.install.verifier_protocol import Accepted, Fetched, FetchFailed, Refused
from edgefleet_agent.verifier.floor import Floor
from edgefleet_protocol.desired import Desired, Hold, encode_desired, encode_hold
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.messages import RepoHead, Seen, encode
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing.fast_forward_recovery import VersionsSeen
from edgefleet_server.signing.tables import SigningMetadata
from tests.agent.child import ChildDriver
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE

BIG = 3_000_000


def wish(driver: ChildDriver, data: bytes | None = None, version: str = "1.0.0") -> bytes:
    """Publish a bundle, deploy it, return the signed document."""
    data = data if data is not None else bundle_bytes(classifier_onnx(), version=version, extra={"pad.bin": padding()})
    ref = driver.house.release(f"digits@{version}", bundles={PROFILE: data})
    driver.house.fleet.deployer.deploy(ref, selector="")
    document = driver.house.fleet.documents.of_device(driver.device)
    assert document is not None
    return bytes(document.envelope)


def padding() -> bytes:
    """Return bytes that make a bundle of about a hundred leaves."""
    return os.urandom(BIG)


def signed(driver: ChildDriver, raw: bytes, **changes: object) -> bytes:
    """Return the document with other fields, signed by the real director."""
    document = msgspec.json.decode(parse_envelope(raw).payload, type=Desired)
    return driver.house.signing.sign_desired(encode_desired(msgspec.structs.replace(document, **changes)))


def accepted(driver: ChildDriver, raw: bytes) -> DesiredOk:
    """Verify a document that must be accepted."""
    answer, desired = driver.verify(raw)
    assert isinstance(answer, Accepted), answer
    assert desired is not None
    return desired


def refused(driver: ChildDriver, raw: bytes) -> Refused:
    """Verify a document that must be refused."""
    answer, _ = driver.verify(raw)
    assert isinstance(answer, Refused), answer
    return answer


def test_an_honest_bundle_is_installed_and_its_floor_kept(driver: ChildDriver) -> None:
    desired = accepted(driver, wish(driver))
    answer = driver.install(desired.wanted[0])
    assert isinstance(answer, Fetched), answer
    slot = driver.state / "models" / "digits" / "A"
    info = read_record(SlotInfo, slot / "slot.msgpack")
    assert info == answer.info
    assert (slot / "bundle").stat().st_mode & 0o777 == 0o444
    assert not (slot / "bundle.part").exists()
    floor = read_record(Floor, driver.state / "floor.a")
    assert floor is not None
    assert floor == read_record(Floor, driver.state / "floor.b")
    assert floor.gen == desired.gen
    assert {"root", "timestamp", "snapshot", "targets", "releases", "m.digits"} <= floor.versions.keys()
    again = driver.install(desired.wanted[0])
    assert isinstance(again, Fetched)
    assert again.received_bytes == 0


def test_a_flipped_bit_costs_one_leaf_and_a_lasting_one_is_refused(driver: ChildDriver) -> None:
    desired = accepted(driver, wish(driver))
    flips: list[int] = []

    def once(_blob: str, leaf: int, data: bytes) -> bytes:
        if leaf == 7 and not flips:
            flips.append(leaf)
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    driver.leaf = once
    answer = driver.install(desired.wanted[0])
    assert isinstance(answer, Fetched), answer
    assert (answer.refetched, answer.received_bytes) == (1, desired.wanted[0].length)

    driver.leaf = lambda _blob, leaf, data: bytes([data[0] ^ 1]) + data[1:] if leaf == 7 else data
    answer = driver.install(desired.wanted[0], slot="B")
    assert isinstance(answer, FetchFailed), answer
    assert (answer.code, answer.error_class) == ("install.leaf_digest", "signature")
    assert list((driver.state / "models" / "digits" / "B").iterdir()) == []


def test_what_was_accepted_last_is_accepted_again_as_agentd_may_not_have_heard_it(driver: ChildDriver) -> None:
    """A newer hold ends the child that has just accepted a document: without a second yes the device would never follow it."""
    raw = wish(driver)
    before, floor = accepted(driver, raw), read_record(Floor, driver.state / "floor.a")
    driver.meta = lambda name: pytest.fail(f"asked for {name}, though nothing is left to verify")
    assert accepted(driver, raw) == before
    assert read_record(Floor, driver.state / "floor.a") == floor


def test_a_document_that_was_written_but_not_counted_is_verified_anew(driver: ChildDriver) -> None:
    """The power went between `desired.ok` and the floor."""
    raw = wish(driver)
    gen = accepted(driver, raw).gen
    floors = {name: (driver.state / name).read_bytes() for name in ("floor.a", "floor.b")}
    newer = signed(driver, raw, gen=gen + 1)
    accepted(driver, newer)
    for name, data in floors.items():
        (driver.state / name).write_bytes(data)
    driver.asked.clear()
    assert accepted(driver, newer).gen == gen + 1
    assert driver.asked


def test_the_same_hold_is_accepted_again(driver: ChildDriver) -> None:
    wish(driver)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    hold = driver.house.signing.sign_hold(encode_hold(Hold(seq=1, expires=expires)))
    answer, _ = driver.verify(hold, kind="hold")
    assert isinstance(answer, Accepted)
    answer, _ = driver.verify(hold, kind="hold")
    assert isinstance(answer, Accepted), "the same hold again, as agentd may not have heard of it"


def test_a_killed_fetch_goes_on_where_it_was(driver: ChildDriver) -> None:
    wanted = accepted(driver, wish(driver)).wanted[0]
    assert driver.install(wanted, kill_after=70) is None
    answer = driver.install(wanted)
    assert isinstance(answer, Fetched), answer
    assert answer.received_bytes <= wanted.length - 32 * 32768


def test_bits_that_promise_leaves_the_disk_lost_are_found_out(driver: ChildDriver) -> None:
    wanted = accepted(driver, wish(driver)).wanted[0]
    assert driver.install(wanted, kill_after=70) is None
    part = driver.state / "models" / "digits" / "A" / "bundle.part"
    with part.open("r+b") as file:
        file.seek(3 * 32768)
        file.write(b"\0" * 32768)
    answer = driver.install(wanted)
    assert isinstance(answer, Fetched), answer
    assert driver.install(wanted) == Fetched("digits", answer.info)


def test_old_metadata_is_refused_though_ngclient_lost_its_cache(driver: ChildDriver) -> None:
    old = {"timestamp.json": driver.honest_meta("timestamp.json")}
    raw = wish(driver)
    accepted(driver, raw)
    for file in (driver.state / "tuf").glob("*.json"):
        if not file.is_symlink():
            file.write_bytes(b"")
    driver.meta = lambda name: old.get(name) or driver.honest_meta(name)
    answer = refused(driver, signed(driver, raw, gen=90))
    assert (answer.code, answer.seen) == ("trust.rollback", Seen(version=floor_of(driver)["timestamp"]))


def test_what_a_restored_server_must_outrun_is_told_and_then_the_same_document_is_accepted(driver: ChildDriver) -> None:
    signing, known_there = driver.house.signing, wish(driver)
    backup = SystemClock().now()
    driver.house.release("late@1.0.0", bundles={PROFILE: b"late"})
    accepted(driver, wish(driver, version="1.1.0"))
    before = floor_of(driver)
    with driver.house.db.session() as session:
        session.execute(delete(SigningMetadata).where(col(SigningMetadata.created_at) > backup))
    highest = max(version for role, version in before.items() if role != "root")
    while time.time() < highest + 1:  # versions are seconds, or a little ahead of them
        time.sleep(0.1)
    signing.start()

    raw = signed(driver, known_there, gen=90)
    answer = refused(driver, raw)
    assert (answer.code, answer.gen, answer.retry) == ("tuf.rollback", 0, False)
    assert answer.seen == Seen(version=highest)
    assert signing.outrun(VersionsSeen(highest)) is not None
    answer = refused(driver, raw)
    assert answer.code == "tuf.roles_missing"
    assert answer.seen == Seen(roles={"m.late": before["m.late"]})
    assert signing.outrun(VersionsSeen(0, {"m.late": before["m.late"]})) is not None
    accepted(driver, raw)
    after = floor_of(driver)
    assert all(after[role] >= version for role, version in before.items())


def floor_of(driver: ChildDriver) -> dict[str, int]:
    """Return the versions that the device has accepted."""
    floor = read_record(Floor, driver.state / "floor.a")
    assert floor is not None
    return floor.versions


def test_a_lost_floor_is_told(driver: ChildDriver) -> None:
    raw = wish(driver)
    accepted(driver, raw)
    for name in ("floor.a", "floor.b"):
        (driver.state / name).write_bytes(b"torn")
    accepted(driver, signed(driver, raw, gen=60))
    assert [notice.code for notice in driver.notices] == ["trust.floor_lost"]


def test_the_floor_remembers_the_time(driver: ChildDriver) -> None:
    began_s = int(SystemClock().now().timestamp())
    accepted(driver, wish(driver))
    floor = read_record(Floor, driver.state / "floor.a")
    assert floor is not None
    assert floor.trusted_s >= began_s


def test_the_head_hint_saves_round_trips_and_a_stale_one_harms_nothing(driver: ChildDriver) -> None:
    raw = wish(driver)
    fresh = driver.house.signing.metadata_file("timestamp.json")
    assert fresh is not None
    answer, _ = driver.verify(raw, head=encode(RepoHead(root_version=1, timestamp=fresh)))
    assert isinstance(answer, Accepted)
    assert "timestamp.json" not in driver.asked
    assert "2.root.json" not in driver.asked
    raw = wish(driver, version="2.0.0", data=bundle_bytes(classifier_onnx(), version="2.0.0"))
    answer, desired = driver.verify(raw, head=encode(RepoHead(root_version=1, timestamp=fresh)))
    assert isinstance(answer, Accepted)
    assert desired is not None
    assert [w.target for w in desired.wanted] == [f"digits/2.0.0/{PROFILE}.bundle"]


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
