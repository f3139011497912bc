"""Answers what devices ask for over MQTT: blocks of blobs (`up/blk`) and small files (`up/meta`).

Rules (docs/protocol/blocks.md):
1. Device-driven: one request earns at most the leaves of `credit` full messages (128 KiB each); the device then asks again.
2. A newer request of a device replaces its older one; a lost connection forgets them all. A request that repeats one which was
   taken is not answered again: what went to the broker is on its way, or lost, and then the device asks again.
3. Round robin: one message a device and turn. Metadata goes before blocks.
4. Bounded: at most MAX_WAITING devices wait for blocks; the next one gets BUSY and when to try again.
5. A device that has spent its downlink budget gets BUSY, at most once in LIMITED_RETRY_MS, and no metadata: both come when it asks later.
6. A device that was revoked, or that nobody knows, gets no answer at all; that is looked up at most LIVE_CACHE_S ago.
7. A device gets only blobs that its desired document names (DENIED otherwise), their leaf indexes and keys. A named blob that is
   not stored is GONE.
Publishing blocks while too much is on its way to the broker: that is the back-pressure.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from edgefleet_protocol.blocks import (
    LEAF_BYTES,
    BlockData,
    BlockError,
    BlockErrorCode,
    BlockRequest,
    blob_prefix,
    decode_request,
    encode_data,
    leaf_count,
)
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256, parse_sha256
from edgefleet_protocol.errors import BadIdError, BadMessageError, EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import MAX_META_CHUNK_BYTES, Downlink, MetaReply, MetaRequest, decode, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.gateway.device_ledger import DeviceLedger

MAX_WAITING: Final = 256
MAX_WAITING_META: Final = 4096
MAX_TAKEN: Final = 16_384
"""Devices whose newest request is remembered; beyond that a repeat is answered like a new request."""
MAX_META_A_DEVICE: Final = 16
MAX_META_BYTES: Final = 8 * 1024 * 1024
META_OVERHEAD_BYTES: Final = 256
"""What an answer costs beside its data, so that answers without any are not free."""
BUSY_RETRY_MS: Final = 1000
LIMITED_RETRY_MS: Final = 30_000
OFFER_CACHE_S: Final = 5.0
LIVE_CACHE_S: Final = 5.0
MISS_AGE_S: Final = 0.2
LEAVES_PREFIX: Final = "leaves."
MODEL_KEY_PREFIX: Final = "model-key."

_log = logging.getLogger(__name__)


class Offered(Protocol):
    """A blob that a device may pull."""

    @property
    def sha256(self) -> Sha256:
        """Return its digest."""
        ...

    @property
    def length(self) -> int:
        """Return its length in bytes."""
        ...


class Blobs(Protocol):
    """What the responder needs of the registry."""

    def blob_size(self, sha256: Sha256) -> int | None:
        """Return a blob's length in bytes, or None."""
        ...

    def open_blob_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return a part of a blob."""
        ...


Publish = Callable[[str, bytes, int], bool]
"""topic, payload, QoS -> whether it was taken; blocks while there is no room."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers come from. metadata_file: by its name; offered_to: what a device may pull; is_live: known and not revoked;
    model_key: the key of a sealed blob, sealed to a device, None where there is none.
    """

    blobs: Blobs
    metadata_file: Callable[[str], bytes | None]
    offered_to: Callable[[DeviceId], Sequence[Offered]]
    is_live: Callable[[DeviceId], bool]
    model_key: Callable[[DeviceId, Sha256], bytes | None]


@dataclass
class _Job:
    """What is left of one block request: runs of (first leaf, count), each one message."""

    req_id: int
    prefix: bytes
    sha256: Sha256
    length: int
    runs: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Offers:
    """What a device may pull, by block prefix and by digest, as it was at a moment; lengths: of each blob in bytes."""

    at_s: float
    blobs: dict[bytes | Sha256, Sha256]
    lengths: dict[str, int]


@dataclass
class Counters:
    """What the responder did since it started."""

    block_requests: int = 0
    block_messages: int = 0
    block_bytes: int = 0
    block_errors: int = 0
    meta_requests: int = 0
    bad: int = 0


class Responder:
    """One thread that answers. Thread-safe; `ask_block` and `ask_meta` return at once."""

    def __init__(
        self,
        topics: Topics,
        sources: Sources,
        publish: Publish,
        ledger: DeviceLedger,
        clock: Clock,
        count: Callable[[DeviceId, Sha256, int], None],
    ) -> None:
        """Wire the parts; `start` runs the thread. count: takes the bytes of a blob that were sent to a device."""
        self._count = count
        self._topics = topics
        self._blobs = sources.blobs
        self._metadata_file = sources.metadata_file
        self._offered_to = sources.offered_to
        self._is_live = sources.is_live
        self._model_key = sources.model_key
        self._lives: dict[DeviceId, tuple[float, bool]] = {}
        self._publish = publish
        self._ledger = ledger
        self._clock = clock
        self._waiting = threading.Condition()
        self._block_requests: OrderedDict[DeviceId, bytes] = OrderedDict()
        self._jobs: OrderedDict[DeviceId, _Job] = OrderedDict()
        self._taken: OrderedDict[DeviceId, tuple[bytes, int]] = OrderedDict()
        self._metas: OrderedDict[DeviceId, list[MetaRequest]] = OrderedDict()
        self._offers: dict[DeviceId, _Offers] = {}
        self._limited: OrderedDict[DeviceId, float] = OrderedDict()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="gateway-responder", daemon=True)
        self.counters = Counters()

    def start(self) -> None:
        """Run the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the message it is at."""
        with self._waiting:
            self._is_stopping = True
            self._waiting.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def ask_block(self, device: DeviceId, payload: bytes) -> None:
        """Take a block request; a newer one of the same device replaces it."""
        with self._waiting:
            self._block_requests[device] = payload
            if len(self._block_requests) > 4 * MAX_WAITING:
                self._block_requests.popitem(last=False)
            self._waiting.notify()

    def ask_meta(self, device: DeviceId, payload: bytes) -> None:
        """Take a metadata request; what is too much for one device or in all is dropped (the device asks again)."""
        try:
            request = decode(MetaRequest, payload)
        except BadMessageError:
            self.counters.bad += 1
            return
        with self._waiting:
            of_device = self._metas.setdefault(device, [])
            if len(of_device) < MAX_META_A_DEVICE and len(self._metas) <= MAX_WAITING_META:
                of_device.append(request)
            self._waiting.notify()

    def forget_offers(self, devices: Sequence[DeviceId]) -> None:
        """Look again at what these devices may pull: their documents changed."""
        for device in devices:
            self._offers.pop(device, None)

    def reset(self) -> None:
        """Drop everything asked so far: the connection it was asked on is gone."""
        with self._waiting:
            self._block_requests.clear()
            self._metas.clear()
            self._jobs.clear()
            self._taken.clear()

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self._waiting:
                while not (self._block_requests or self._metas or self._jobs or self._is_stopping):
                    self._waiting.wait()
                if self._is_stopping:
                    return
                metas = [(device, request) for device, asked in self._metas.items() for request in asked]
                self._metas.clear()
                requests = list(self._block_requests.items())
                self._block_requests.clear()
            for device, request in metas:
                self._attempt(partial(self._answer_meta, device, request))
            for device, payload in requests:
                self._attempt(partial(self._open_job, device, payload))
            self._attempt(self._serve_one_round)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001  # the outermost loop of this thread: one bad request must cost nobody else anything
            _log.exception("responder failed")

    # ---- blocks

    def _open_job(self, device: DeviceId, payload: bytes) -> None:
        try:
            request = decode_request(payload)
        except BadMessageError:
            self.counters.bad += 1
            return
        self.counters.block_requests += 1
        if not self._may_have(device):
            return
        if self._is_taken(device, request) or self._is_limited(device):
            return
        current = self._jobs.get(device)
        if current is None and len(self._jobs) >= MAX_WAITING:
            self._refuse(device, request, BlockErrorCode.BUSY, BUSY_RETRY_MS)
            return
        sha256 = self._offered(device, request.blob_prefix)
        if sha256 is None:
            self._refuse(device, request, BlockErrorCode.DENIED)
            return
        length = self._blobs.blob_size(sha256)
        if length is None:
            self._refuse(device, request, BlockErrorCode.GONE)
            return
        runs = runs_of(request, leaf_count(length))
        with self._waiting:
            self._jobs[device] = _Job(request.req_id, request.blob_prefix, sha256, length, runs)
            self._taken[device] = (request.blob_prefix, request.req_id)
            self._taken.move_to_end(device)
            if len(self._taken) > MAX_TAKEN:
                self._taken.popitem(last=False)

    def _may_have(self, device: DeviceId) -> bool:
        """Return whether the device is known and not revoked."""
        now_s = self._clock.monotonic_s()
        known = self._lives.get(device)
        if known is None or now_s - known[0] > LIVE_CACHE_S:
            if len(self._lives) > MAX_TAKEN:
                self._lives.clear()
            known = self._lives[device] = (now_s, self._is_live(device))
        return known[1]

    def _is_taken(self, device: DeviceId, request: BlockRequest) -> bool:
        """Say whether this only repeats the request that was taken last, or is that very one: QoS 0 may come twice."""
        prefix, req_id = self._taken.get(device, (b"", 0))
        return prefix == request.blob_prefix and request.req_id - request.repeats <= req_id <= request.req_id

    def _serve_one_round(self) -> None:
        """Send one message to each device that waits for blocks."""
        for device in list(self._jobs):
            job = self._jobs.get(device)
            if job is None:
                continue
            if not self._may_have(device):
                self._give_up(device, job)
            if job.runs:
                first, count = job.runs.pop(0)
                self._send_run(device, job, first, count)
            if not job.runs:
                with self._waiting:
                    if self._jobs.get(device) is job:
                        del self._jobs[device]

    def _send_run(self, device: DeviceId, job: _Job, first: int, count: int) -> None:
        start = first * LEAF_BYTES
        length = min(count * LEAF_BYTES, job.length - start)
        offers = self._offers.get(device)
        if not self._ledger.serve(device, length, offers=offers.lengths if offers else {job.sha256: job.length}):
            self._limit(device, job)
            return
        try:
            payload = self._blobs.open_blob_range(job.sha256, start, length)
        except EdgefleetError as error:
            _log.warning("blob not readable", extra={"blob": job.sha256, "code": error.code})
            self._give_up(device, job)
            self._send_error(device, BlockError(job.req_id, job.prefix, BlockErrorCode.GONE))
            return
        data = encode_data(BlockData(job.req_id, job.prefix, first, count, payload))
        if self._publish(self._topics.dn_blk(device), data, 0):
            self.counters.block_messages += 1
            self.counters.block_bytes += length
            self._count(device, job.sha256, length)
        else:
            self._give_up(device, job)

    def _is_limited(self, device: DeviceId) -> bool:
        """Say whether a device was told to wait and asks all the same."""
        until_s = self._limited.get(device)
        return until_s is not None and self._clock.monotonic_s() < until_s

    def _limit(self, device: DeviceId, job: _Job) -> None:
        """Tell a device that has spent its budget to wait."""
        self._give_up(device, job)
        self._limited[device] = (
            self._clock.monotonic_s() + LIMITED_RETRY_MS / 2000
        )  # an honest one asks after the whole time
        self._limited.move_to_end(device)
        if len(self._limited) > MAX_TAKEN:
            self._limited.popitem(last=False)
        self._send_error(device, BlockError(job.req_id, job.prefix, BlockErrorCode.BUSY, LIMITED_RETRY_MS))

    def _give_up(self, device: DeviceId, job: _Job) -> None:
        job.runs.clear()
        self._taken.pop(device, None)  # it is not answered: a repeat may be

    def _refuse(self, device: DeviceId, request: BlockRequest, code: BlockErrorCode, retry_ms: int = 0) -> None:
        self._send_error(device, BlockError(request.req_id, request.blob_prefix, code, retry_ms))

    def _send_error(self, device: DeviceId, error: BlockError) -> None:
        self.counters.block_errors += 1
        self._publish(self._topics.dn_blk(device), encode_data(error), 0)

    def _offered(self, device: DeviceId, name: bytes | Sha256) -> Sha256 | None:
        """Return the digest of the blob with this block prefix or digest, or None when the device may not pull it.

        Looked up at most OFFER_CACHE_S ago. Nothing is denied by a look older than MISS_AGE_S: another process may have
        signed the device's document since.
        """
        for max_age_s in (OFFER_CACHE_S, MISS_AGE_S):
            now_s = self._clock.monotonic_s()
            known = self._offers.get(device)
            if known is None or now_s - known.at_s > max_age_s:
                offered = self._offered_to(device)
                digests = [blob.sha256 for blob in offered]
                by_name = {blob_prefix(sha256): sha256 for sha256 in digests} | {one: one for one in digests}
                known = _Offers(now_s, by_name, {blob.sha256: blob.length for blob in offered})
                if len(self._offers) > 4 * MAX_WAITING:
                    self._offers.clear()
                self._offers[device] = known
            if name in known.blobs:
                return known.blobs[name]
        return None

    # ---- metadata

    def _answer_meta(self, device: DeviceId, request: MetaRequest) -> None:
        self.counters.meta_requests += 1
        if not self._may_have(device):
            return
        data, error = self._small_file(device, request)
        if not self._ledger.serve(device, len(data) + META_OVERHEAD_BYTES):
            return
        for reply in replies_of(request, data, error):
            if not self._publish(self._topics.dn_meta(device), encode(Downlink(reply=reply)), 1):
                return

    def _small_file(self, device: DeviceId, request: MetaRequest) -> tuple[bytes, str]:
        """Return the bytes asked for and "", or nothing and the error's word."""
        limit = min(request.max_bytes, MAX_META_BYTES)
        if request.name.startswith(LEAVES_PREFIX):
            return self._leaf_index(device, request.name.removeprefix(LEAVES_PREFIX), limit)
        if request.name.startswith(MODEL_KEY_PREFIX):
            return self._key_of(device, request.name.removeprefix(MODEL_KEY_PREFIX))
        data = self._metadata_file(request.name)
        if data is None:
            return b"", "not_found"
        return (data, "") if len(data) <= limit else (b"", "too_big")

    def _key_of(self, device: DeviceId, digest: str) -> tuple[bytes, str]:
        try:
            sha256 = parse_sha256(digest)
        except BadIdError:
            return b"", "not_found"
        if self._offered(device, sha256) is None:
            return b"", "denied"
        try:
            key = self._model_key(device, sha256)
        except EdgefleetError as error:  # of the server's own keys: the device asks again
            what = {"device": device, "sha256": sha256, "reason": error.message, "next": error.next_step}
            _log.error("no key of a sealed model can be given", extra=what)
            return b"", "failed"
        return (b"", "not_found") if key is None else (key, "")

    def _leaf_index(self, device: DeviceId, digest: str, limit: int) -> tuple[bytes, str]:
        try:
            sha256 = parse_sha256(digest)
        except BadIdError:
            return b"", "not_found"
        if self._offered(device, sha256) is None:
            return b"", "denied"
        size = self._blobs.blob_size(sha256)
        if size is None:
            return b"", "not_found"
        if size > limit:
            return b"", "too_big"
        return self._blobs.open_blob_range(sha256, 0, size), ""


def runs_of(request: BlockRequest, leaves: int) -> list[tuple[int, int]]:
    """Return the messages that a request earns: (first leaf, count) of consecutive wanted leaves below `leaves`.

    Credit counts full messages: scattered leaves come in more, smaller messages, never in more bytes.
    """
    runs: list[tuple[int, int]] = []
    room = request.credit * request.leaves_per_message
    for leaf in request.wanted[:room]:
        if leaf >= leaves:
            break
        if runs and sum(runs[-1]) == leaf and runs[-1][1] < request.leaves_per_message:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((leaf, 1))
    return runs


def replies_of(request: MetaRequest, data: bytes, error: str) -> list[MetaReply]:
    """Return the answer to a metadata request in chunks; always at least one."""
    parts = max(1, -(-len(data) // MAX_META_CHUNK_BYTES))
    return [
        MetaReply(
            req_id=request.req_id,
            name=request.name,
            part=part,
            parts=parts,
            data=data[part * MAX_META_CHUNK_BYTES : (part + 1) * MAX_META_CHUNK_BYTES],
            error=error,
        )
        for part in range(parts)
    ]
