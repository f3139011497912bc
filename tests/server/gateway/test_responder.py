"""The responder without a broker: fairness, limits, errors."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.blocks import (
    LEAF_BYTES,
    MAX_DATA_MESSAGE_BYTES,
    BlockData,
    BlockError,
    BlockErrorCode,
    BlockRequest,
    blob_prefix,
    decode_data,
    encode_request,
    leaf_count,
)
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.messages import MAX_META_CHUNK_BYTES, Downlink, MetaRequest, decode, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.encryption.errors import FleetKeyMissingError
from edgefleet_server.gateway import responder as module
from edgefleet_server.gateway.device_ledger import DeviceLedger
from edgefleet_server.gateway.device_quota import Limits
from edgefleet_server.gateway.responder import Responder, Sources, replies_of, runs_of
from edgefleet_server.registry.errors import BlobStoreError

TOPICS = Topics(TenantId("acme"))
LIMITS = Limits(1e6, 1e9, (0, 0, 0), 0, hourly_downlink=1 << 30)
ONE, TWO = DeviceId("d-one"), DeviceId("d-two")


@dataclass(frozen=True)
class Offer:
    """A blob on offer."""

    sha256: Sha256
    length: int = 0


class Desk:
    """A responder whose answers are kept, and whose door can be shut."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.blobs: dict[Sha256, bytes] = {}
        self.offers: list[Offer] = []
        self.unreadable: set[Sha256] = set()
        self.revoked: set[DeviceId] = set()
        self.answers: list[tuple[str, bytes]] = []
        self.door = threading.Event()
        self.door.set()
        self.takes = True
        self.counted: list[tuple[DeviceId, Sha256, int]] = []
        self.refused = 0
        self.responder = Responder(
            TOPICS,
            Sources(
                self,
                lambda name: b"x" * 200_000 if name == "big.json" else None,
                lambda _: self.offers,
                lambda device: device not in self.revoked,
                lambda device, sha256: f"{device} {sha256[:4]}".encode() if device == ONE else None,
            ),
            self.take,
            DeviceLedger(limits, SystemClock()),
            SystemClock(),
            lambda device, sha256, size: self.counted.append((device, sha256, size)),
        )
        self.responder.start()

    def add(self, data: bytes) -> Sha256:
        """Store a blob and offer it."""
        sha256 = sha256_hex(data)
        self.blobs[sha256] = data
        self.offers.append(Offer(sha256, len(data)))
        return sha256

    def blob_size(self, sha256: Sha256) -> int | None:
        """Return a size."""
        return len(self.blobs[sha256]) if sha256 in self.blobs else None

    def open_blob_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return a part."""
        if sha256 in self.unreadable:
            raise BlobStoreError("the disk is gone")
        return self.blobs[sha256][start : start + length]

    def take(self, topic: str, payload: bytes, _qos: int) -> bool:
        """Keep an answer once the door is open."""
        self.door.wait(10)
        if not self.takes:
            self.refused += 1
            return False
        self.answers.append((topic, payload))
        return True

    def ask(
        self,
        device: DeviceId,
        sha256: Sha256,
        wanted: tuple[int, ...],
        req_id: int = 1,
        credit: int = 8,
        repeats: int = 0,
    ) -> None:
        """Ask for leaves."""
        request = BlockRequest(req_id, blob_prefix(sha256), wanted, credit=credit, repeats=repeats)
        self.responder.ask_block(device, encode_request(request))

    def blocks(self, device: DeviceId) -> list[BlockData | BlockError]:
        """Return what a device got."""
        return [decode_data(payload) for topic, payload in self.answers if topic == TOPICS.dn_blk(device)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk."""
    made = Desk()
    yield made
    made.door.set()
    made.responder.stop()


def until(is_true: Callable[[], bool]) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + 10
    while not is_true() and time.monotonic() < end:
        time.sleep(0.005)
    return is_true()


def test_what_another_process_offered_meanwhile_is_not_denied(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFER_CACHE_S", 3600.0)
    monkeypatch.setattr(module, "MISS_AGE_S", 0.0)
    desk.ask(ONE, desk.add(b"first"), (0,))
    assert until(lambda: len(desk.blocks(ONE)) == 1)
    second = desk.add(b"second")  # nobody tells the responder
    desk.ask(ONE, second, (0,), req_id=2)
    assert until(lambda: len(desk.blocks(ONE)) == 2)
    answer = desk.blocks(ONE)[1]
    assert isinstance(answer, BlockData)
    assert answer.payload == b"second"
    third = desk.add(b"third")
    desk.responder.ask_meta(ONE, encode(MetaRequest(req_id=3, name=f"leaves.{third}", max_bytes=100)))
    assert until(lambda: any(topic == TOPICS.dn_meta(ONE) for topic, _ in desk.answers))
    reply = next(decode(Downlink, payload).reply for topic, payload in desk.answers if topic == TOPICS.dn_meta(ONE))
    assert reply is not None
    assert (reply.error, reply.data) == ("", b"third")


def test_devices_take_turns(desk: Desk) -> None:
    sha256 = desk.add(b"a" * (64 * LEAF_BYTES))
    desk.door.clear()
    desk.ask(ONE, sha256, tuple(range(32)))
    assert until(lambda: desk.responder.counters.block_requests == 1)
    desk.ask(TWO, sha256, tuple(range(32)))
    desk.door.set()
    assert until(lambda: len(desk.answers) == 16)
    order = [topic for topic, _ in desk.answers]
    assert order[1:15].count(TOPICS.dn_blk(ONE)) == 7


def test_a_newer_request_replaces_the_older(desk: Desk) -> None:
    sha256 = desk.add(b"a" * (64 * LEAF_BYTES))
    desk.door.clear()
    desk.ask(ONE, sha256, tuple(range(32)), req_id=1)
    assert until(lambda: desk.responder.counters.block_requests == 1)
    desk.ask(ONE, sha256, (60,), req_id=2)
    desk.door.set()
    assert until(lambda: len(desk.answers) >= 2)
    got = desk.blocks(ONE)
    assert [one.req_id for one in got] == [1, 2]
    assert desk.responder.counters.block_messages == 2


def test_a_repeat_of_what_was_taken_is_not_answered_again(desk: Desk) -> None:
    sha256 = desk.add(b"a" * (8 * LEAF_BYTES))
    desk.ask(ONE, sha256, (0,), req_id=7)
    assert until(lambda: len(desk.answers) == 1)
    desk.ask(ONE, sha256, (0,), req_id=7)  # QoS 0 may come twice
    assert until(lambda: desk.responder.counters.block_requests == 2)
    desk.ask(ONE, sha256, (0,), req_id=8, repeats=1)
    assert until(lambda: desk.responder.counters.block_requests == 3)
    desk.ask(TWO, sha256, (0,), req_id=9, repeats=2)  # the first of that device that came through
    desk.ask(ONE, sha256, (0,), req_id=10)
    assert until(lambda: len(desk.answers) == 3)
    assert [one.req_id for one in desk.blocks(ONE)] == [7, 10]
    assert [one.req_id for one in desk.blocks(TWO)] == [9]


def test_a_repeat_of_what_the_broker_did_not_take_is_answered(desk: Desk) -> None:
    sha256 = desk.add(b"a" * (8 * LEAF_BYTES))
    desk.takes = False
    desk.ask(ONE, sha256, (0,), req_id=7)
    assert until(lambda: desk.refused == 1)
    desk.takes = True
    desk.ask(ONE, sha256, (0,), req_id=8, repeats=1)
    assert until(lambda: len(desk.answers) == 1)
    assert [one.req_id for one in desk.blocks(ONE)] == [8]


def test_a_last_short_leaf_is_sent_as_it_is(desk: Desk) -> None:
    data = bytes(range(256)) * 200
    sha256 = desk.add(data)
    desk.ask(ONE, sha256, (0, 1))
    assert until(lambda: len(desk.answers) == 1)
    [block] = desk.blocks(ONE)
    assert isinstance(block, BlockData)
    assert block.payload == data


def test_a_leaf_beyond_the_end_earns_nothing(desk: Desk) -> None:
    sha256 = desk.add(b"a" * LEAF_BYTES)
    desk.ask(ONE, sha256, (5,))
    desk.ask(TWO, sha256, (0,))
    assert until(lambda: len(desk.blocks(TWO)) == 1)
    assert desk.blocks(ONE) == []


def test_refusals_name_their_reason(desk: Desk) -> None:
    gone = desk.add(b"a")
    del desk.blobs[gone]
    desk.ask(ONE, gone, (0,))
    desk.ask(TWO, sha256_hex(b"never offered"), (0,))
    assert until(lambda: len(desk.answers) == 2)
    assert [getattr(desk.blocks(device)[0], "code", None) for device in (ONE, TWO)] == [
        BlockErrorCode.GONE,
        BlockErrorCode.DENIED,
    ]


def test_an_unreadable_blob_costs_only_who_asked_for_it(desk: Desk) -> None:
    sha256, bad = desk.add(b"a" * (64 * LEAF_BYTES)), desk.add(b"b")
    desk.unreadable.add(bad)
    desk.door.clear()
    desk.ask(ONE, sha256, tuple(range(32)))
    assert until(lambda: desk.responder.counters.block_requests == 1)
    desk.responder.ask_meta(TWO, encode(MetaRequest(req_id=1, name=f"leaves.{bad}", max_bytes=100)))
    desk.ask(TWO, bad, (0,))
    desk.door.set()
    assert until(lambda: len(desk.blocks(ONE)) == 8)
    assert [getattr(answer, "code", None) for answer in desk.blocks(TWO)] == [BlockErrorCode.GONE]
    assert all(topic != TOPICS.dn_meta(TWO) for topic, _ in desk.answers)  # the device asks again


def test_too_many_waiting_devices_are_told_to_come_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    sha256 = desk.add(b"a" * (64 * LEAF_BYTES))
    desk.door.clear()
    desk.ask(ONE, sha256, tuple(range(32)))
    assert until(lambda: desk.responder.counters.block_requests == 1)
    desk.ask(TWO, sha256, (0,))
    desk.door.set()
    assert until(lambda: len(desk.blocks(TWO)) == 1)
    [busy] = desk.blocks(TWO)
    assert isinstance(busy, BlockError)
    assert (busy.code, busy.retry_ms) == (BlockErrorCode.BUSY, module.BUSY_RETRY_MS)


def test_metadata_comes_in_chunks_and_within_its_limit(desk: Desk) -> None:
    for req_id, limit in ((1, 10**6), (2, 1000)):
        request = MetaRequest(req_id=req_id, name="big.json", max_bytes=limit)
        desk.responder.ask_meta(ONE, encode(request))
    assert until(lambda: len(desk.answers) == 4)
    replies = [decode(Downlink, payload).reply for _, payload in desk.answers]
    whole = [reply for reply in replies if reply is not None and reply.req_id == 1]
    assert b"".join(reply.data for reply in whole) == b"x" * 200_000
    assert all(len(reply.data) <= MAX_META_CHUNK_BYTES for reply in whole)
    assert [reply.error for reply in replies if reply is not None and reply.req_id == 2] == ["too_big"]


def test_the_bytes_of_blocks_that_the_broker_took_are_counted(desk: Desk) -> None:
    sha256 = desk.add(b"a" * (2 * LEAF_BYTES + 7))
    desk.ask(ONE, sha256, (0, 1, 2))
    assert until(lambda: sum(size for _, _, size in desk.counted) == 2 * LEAF_BYTES + 7)
    assert {one[:2] for one in desk.counted} == {(ONE, sha256)}
    desk.takes = False
    desk.ask(ONE, sha256, (0,), req_id=2)
    assert until(lambda: desk.refused == 1)
    assert sum(size for _, _, size in desk.counted) == 2 * LEAF_BYTES + 7


def test_garbage_is_counted(desk: Desk) -> None:
    desk.responder.ask_block(ONE, b"junk")
    desk.responder.ask_meta(ONE, b"junk")
    assert until(lambda: desk.responder.counters.bad == 2)


REQUESTS = st.builds(
    lambda first, offsets, per, credit: BlockRequest(
        1, b"x" * 8, tuple(sorted({first, *(first + o for o in offsets)})), per, credit
    ),
    st.integers(0, 1000),
    st.sets(st.integers(0, 255), max_size=60),
    st.integers(1, 4),
    st.integers(1, 32),
)


@given(REQUESTS, st.integers(0, 1300))
def test_a_request_earns_its_first_wanted_leaves_and_no_more(request: BlockRequest, leaves: int) -> None:
    runs = runs_of(request, leaves)
    sent = [first + i for first, count in runs for i in range(count)]
    room = request.credit * request.leaves_per_message
    assert sent == [leaf for leaf in request.wanted[:room] if leaf < leaves]
    assert all(1 <= count <= request.leaves_per_message for _, count in runs)


@given(st.binary(max_size=3 * MAX_META_CHUNK_BYTES))
def test_chunks_join_to_the_whole(data: bytes) -> None:
    replies = replies_of(MetaRequest(req_id=1, name="a", max_bytes=1), data, "")
    assert b"".join(reply.data for reply in replies) == data
    assert [reply.part for reply in replies] == list(range(replies[0].parts))
    assert leaf_count(MAX_DATA_MESSAGE_BYTES - 20) == 4


def test_a_revoked_device_gets_no_answer_and_what_is_under_way_to_it_stops(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVE_CACHE_S", 0.0)
    sha256 = desk.add(b"x" * 32_768 * 64)
    desk.door.clear()
    desk.ask(ONE, sha256, tuple(range(32)))
    assert until(lambda: desk.responder.counters.block_requests == 1)
    desk.revoked.add(ONE)
    desk.door.set()
    desk.ask(ONE, sha256, (0,), req_id=2)
    desk.responder.ask_meta(ONE, encode(MetaRequest(req_id=3, name="big.json", max_bytes=1_000_000)))
    assert until(lambda: desk.responder.counters.meta_requests == 1)
    desk.ask(TWO, sha256, (0,), req_id=4)
    assert until(lambda: len(desk.blocks(TWO)) == 1)
    assert len(desk.blocks(ONE)) <= 1, "the one message that was on its way already"
    assert all(topic != TOPICS.dn_meta(ONE) for topic, _ in desk.answers)


def test_the_key_of_a_sealed_bundle_goes_to_devices_that_should_run_it_alone(desk: Desk) -> None:
    sha256 = desk.add(b"sealed")
    names = {1: f"model-key.{sha256}", 2: f"model-key.{sha256_hex(b'never offered')}", 3: "model-key.junk"}
    for req_id, name in names.items():
        desk.responder.ask_meta(ONE, encode(MetaRequest(req_id=req_id, name=name, max_bytes=80)))
    desk.responder.ask_meta(TWO, encode(MetaRequest(req_id=4, name=names[1], max_bytes=80)))
    assert until(lambda: len(desk.answers) == 4)
    replies = {reply.req_id: reply for _, data in desk.answers if (reply := decode(Downlink, data).reply) is not None}
    assert replies[1].data == f"{ONE} {sha256[:4]}".encode()
    assert [replies[number].error for number in (1, 2, 3, 4)] == ["", "denied", "not_found", "not_found"]
    desk.revoked.add(ONE)
    desk.responder._lives.clear()
    desk.responder.ask_meta(ONE, encode(MetaRequest(req_id=5, name=names[1], max_bytes=80)))
    desk.responder.ask_meta(TWO, encode(MetaRequest(req_id=6, name=names[1], max_bytes=80)))
    assert until(lambda: len(desk.answers) == 5)
    last = decode(Downlink, desk.answers[4][1]).reply
    assert last is not None
    assert last.req_id == 6


def test_a_server_that_cannot_open_its_own_keys_says_so_and_the_device_asks_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(_device: DeviceId, _sha256: Sha256) -> bytes | None:
        raise FleetKeyMissingError("there is no fleet key", next_step="bring it back")

    monkeypatch.setattr(desk.responder, "_model_key", lost)
    name = f"model-key.{desk.add(b'sealed')}"
    desk.responder.ask_meta(ONE, encode(MetaRequest(req_id=1, name=name, max_bytes=80)))
    assert until(lambda: len(desk.answers) == 1)
    reply = decode(Downlink, desk.answers[0][1]).reply
    assert reply is not None
    assert reply.error == "failed"
    (record,) = [one for one in caplog.records if "sealed model" in one.message]
    assert (record.__dict__["reason"], record.__dict__["next"]) == ("there is no fleet key", "bring it back")
    assert record.exc_info is None
