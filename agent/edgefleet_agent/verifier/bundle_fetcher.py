"""Brings one verified `Wanted` into a slot: leaf index, leaves, whole digest, strict look at the bundle, seal.

1. A leaf is written only when its hash is the index's, and the index only used when its own hash is the signed one.
2. A damaged leaf is asked for again; five times damaged is a refusal, since then somebody else's bytes are at the source.
3. Nothing here decides what to run: the slot becomes valid, agentd goes on.
"""

import logging
from pathlib import Path

from msgspec.structs import replace

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.identity.tpm_secret import model_secret
from edgefleet_agent.install.records import ShutOut, SlotInfo, Wanted
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import Blocks, Fetch, Fetched, FetchProgress, NeedBlocks, Relink, Task
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.verifier.block_scheduler import BlockScheduler, RoundTrip
from edgefleet_agent.verifier.channel import Channel
from edgefleet_agent.verifier.errors import (
    BlobGoneError,
    BundleDigestError,
    DiskFullError,
    LeafDigestError,
    LeafIndexError,
    ManifestMismatchError,
    ModelKeyError,
    OwnKeyError,
    SecurityFloorError,
    SlotWriteError,
    TransportError,
)
from edgefleet_agent.verifier.metadata_fetcher import MetadataFetcher
from edgefleet_agent.verifier.slot_writer import SlotWriter
from edgefleet_agent.verifier.withdrawals import refuse_shut_out
from edgefleet_protocol.blocks import (
    LEAF_HASH_BYTES,
    BlockData,
    BlockError,
    BlockErrorCode,
    blob_prefix,
    check_leaf,
    decode_data,
    leaf_count,
)
from edgefleet_protocol.bundle import BundleError, open_bundle
from edgefleet_protocol.digest import parse_sha256, sha256_hex
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import parse_target_path
from edgefleet_protocol.manifest import Manifest, ManifestError

MODEL_KEY_BYTES = 80
PROGRESS_EVERY_S = 0.5
MAX_WHOLE_TRIES = 2

log = logging.getLogger(__name__)


class Fetcher:
    """Fetches one bundle after the other; block request ids rise from one to the next."""

    def __init__(self, channel: Channel, source: MetadataFetcher, task: Task, slots: Slots) -> None:
        self._channel = channel
        self._source = source
        self._task = task
        self._slots = slots
        self._key_file = StatePaths(Path(task.state_dir)).model_key
        self._rules = ShutOut()
        self._clock = SystemClock()
        self._received = 0
        self._refetched = 0
        self._progress_at = 0.0
        self._next_req_id = task.first_req_id
        self._line: RoundTrip | None = None
        """What block data took so far; None before the first."""

    def run(self, fetch: Fetch, rules: ShutOut) -> Fetched:
        """Return what is in the slot now. rules: what this device shuts out of the model, also where its bytes are here already.

        Raises ChildError, BundleError, ManifestError; blocks on network and disk.
        """
        self._rules, self._received, self._refetched = rules, 0, 0
        wanted = fetch.wanted
        refuse_shut_out(ShutOut(versions=rules.versions), wanted.target, 0)
        try:
            folder = self._slots.prepare(wanted.model, fetch.slot)
        except OSError as error:
            raise SlotWriteError(f"the slot folder cannot be made: {error.strerror}") from error
        writer = SlotWriter(folder, wanted.sha256, wanted.length)
        info = writer.existing()
        if info is not None:
            refuse_shut_out(rules, wanted.target, max(info.sec_version, wanted.sec_version))
            return Fetched(wanted.model, self._with_key(info, writer, wanted))
        index = self._index(wanted)
        try:
            self._fill(writer, wanted, index)
            info = self._inspect(writer, wanted)
            writer.seal(info)
        except (
            BundleError,
            ManifestError,
            LeafDigestError,
            BundleDigestError,
            ManifestMismatchError,
            SecurityFloorError,
            DiskFullError,
        ):
            writer.discard()
            raise
        finally:
            writer.close()
        return Fetched(wanted.model, info, self._received, self._refetched)

    def _index(self, wanted: Wanted) -> bytes:
        size = leaf_count(wanted.length) * LEAF_HASH_BYTES
        index = self._source(f"leaves.{wanted.leaves}", size)
        if index is None:
            raise BlobGoneError(f"the server has no leaf index for {wanted.target}")
        if len(index) != size or sha256_hex(index) != wanted.leaves:
            raise LeafIndexError(f"the leaf index of {wanted.target} is not the signed one")
        return index

    def _fill(self, writer: SlotWriter, wanted: Wanted, index: bytes) -> None:
        puller = BlockScheduler(
            leaf_count(wanted.length),
            self._task.credit,
            self._task.block_timeout_s,
            self._next_req_id,
            self._line or self._source.line,
            self._line is not None,
        )
        puller.have = writer.open()
        try:
            self._fill_with(puller, writer, wanted, index)
        finally:
            self._next_req_id = puller.req_id
            self._line = puller.line if puller.is_measured else None

    def _fill_with(self, puller: BlockScheduler, writer: SlotWriter, wanted: Wanted, index: bytes) -> None:
        for _ in range(MAX_WHOLE_TRIES):
            self._pull(puller, writer, wanted, index)
            self._tell(wanted, puller, verifying=True)
            if writer.digest() == wanted.sha256:
                return
            # only after a power cut, or with an index that does not belong to this file
            bad = writer.check_leaves(index)
            if not bad:
                break
            puller.lost(bad)
        raise BundleDigestError(f"{wanted.target} does not have its signed sha256 though its leaves fit their index")

    def _pull(self, puller: BlockScheduler, writer: SlotWriter, wanted: Wanted, index: bytes) -> None:
        prefix = blob_prefix(parse_sha256(wanted.sha256))
        last_progress = self._clock.monotonic_s()
        self._tell(wanted, puller)
        while not puller.is_done:
            now = self._clock.monotonic_s()
            if now - last_progress > self._task.no_progress_s:
                raise TransportError(f"no byte of {wanted.target} arrived for {self._task.no_progress_s:.0f} s")
            puller.expire(now)
            while (ask := puller.next_ask(now)) is not None:
                self._channel.send(
                    NeedBlocks(ask.req_id, wanted.sha256, ask.wanted, ask.leaves_per_message, ask.credit, ask.repeats)
                )
            answer = self._channel.wait_answer(min(puller.wait_s(now), 5.0))
            if isinstance(answer, Relink):
                puller.relink()
            elif isinstance(answer, Blocks) and self._take(answer, prefix, puller, writer, index):
                last_progress = self._clock.monotonic_s()
                if last_progress - self._progress_at >= PROGRESS_EVERY_S:
                    self._tell(wanted, puller)

    def _take(self, answer: Blocks, prefix: bytes, puller: BlockScheduler, writer: SlotWriter, index: bytes) -> bool:
        """Use one payload; True when it brought a leaf that was missing."""
        try:
            message = decode_data(answer.payload)
        except BadMessageError:
            return False
        if message.blob_prefix != prefix:
            return False
        if isinstance(message, BlockError):
            self._on_error(message, puller)
            return False
        return self._write_leaves(message, puller, writer, index)

    def _write_leaves(self, message: BlockData, puller: BlockScheduler, writer: SlotWriter, index: bytes) -> bool:
        useful = False
        puller.heard(message.req_id, self._clock.monotonic_s())
        for leaf, data in message.leaves():
            if leaf in puller.have or leaf >= puller.count:
                continue
            if not check_leaf(index, leaf, data):
                self._refetched += 1
                log.warning("leaf damaged", extra={"leaf": leaf})
                if puller.damaged(leaf):
                    raise LeafDigestError(
                        f"leaf {leaf} arrived damaged {puller.bad_tries[leaf]} times",
                        next_step="check the server's blob store and the network between it and this device",
                    )
                continue
            writer.write(leaf, data)
            puller.got(leaf)
            self._received += len(data)
            useful = True
        return useful

    def _on_error(self, message: BlockError, puller: BlockScheduler) -> None:
        if message.code is BlockErrorCode.BUSY:
            puller.busy(self._clock.monotonic_s(), message.retry_ms / 1000)
        elif message.code is not BlockErrorCode.TOO_BIG or not puller.too_big():
            raise BlobGoneError(f"the server answered {message.code.name.lower()} for the bundle's blocks")

    def _tell(self, wanted: Wanted, puller: BlockScheduler, *, verifying: bool = False) -> None:
        done = min(wanted.length, len(puller.have) * (wanted.length // max(1, puller.count)))
        self._progress_at = self._clock.monotonic_s()
        self._channel.send(
            FetchProgress(wanted.model, wanted.length if puller.is_done else done, wanted.length, verifying)
        )

    def _inspect(self, writer: SlotWriter, wanted: Wanted) -> SlotInfo:
        """Look at the bundle strictly and return what is in it. Raises BundleError, ManifestError, ChildError."""
        with writer.reader() as file:
            bundle = open_bundle(file)
            bundle.verify_members()
        manifest = bundle.manifest
        model, version, profile = parse_target_path(wanted.target)
        if (manifest.model, manifest.version, manifest.profile) != (model, version, profile):
            raise ManifestMismatchError(
                f"the bundle says it is {manifest.model}/{manifest.version}/{manifest.profile}, its signed path is {wanted.target}"
            )
        sec_version = max(manifest.sec_version, wanted.sec_version)
        refuse_shut_out(self._rules, wanted.target, sec_version)
        return SlotInfo(
            model=model,
            version=version,
            profile=profile,
            target=wanted.target,
            sha256=wanted.sha256,
            length=wanted.length,
            runtime=manifest.runtime,
            sec_version=sec_version,
            latency_p95_ms=manifest.declared.latency_p95_ms or 0.0,
            peak_memory_bytes=manifest.declared.peak_memory_bytes or 0,
            model_key=self._model_key(wanted, manifest),
        )

    def _with_key(self, info: SlotInfo, writer: SlotWriter, wanted: Wanted) -> SlotInfo:
        """Return the record of a slot that is filled already, with another key where the device lost the one that it was sealed to."""
        if info.model_key:
            with writer.bundle() as file:
                manifest = open_bundle(file).manifest
            key = self._model_key(wanted, manifest, info.model_key)
            if key != info.model_key:
                info = writer.note(replace(info, model_key=key))
        return info

    def _model_key(self, wanted: Wanted, manifest: Manifest, had: bytes = b"") -> bytes:
        """Return the key of a sealed bundle as it came, b"" of a plain one: `had`, or the server's, where the device can open it."""
        if not manifest.sealed or self._opens(had, wanted, manifest):
            return had
        key = self._source(f"model-key.{wanted.sha256}", MODEL_KEY_BYTES)
        if key is None or not self._opens(key, wanted, manifest):
            raise ModelKeyError(f"{wanted.target} is sealed, and the server has no key of it that this device can open")
        return key

    def _opens(self, key: bytes, wanted: Wanted, manifest: Manifest) -> bool:
        from edgefleet_agent.enrolment.wrapped_key import opened
        from edgefleet_protocol.hpke import SealedError
        from edgefleet_protocol.sealed_model import opened_key

        try:
            secret = model_secret(self._key_file.parent)
        except EdgefleetError as error:
            raise OwnKeyError(error.message, next_step=error.next_step) from error
        try:
            opened_key(opened(self._key_file.read_bytes(), secret), key, wanted.sha256, manifest)
        except (OSError, SealedError):
            return False
        return True
