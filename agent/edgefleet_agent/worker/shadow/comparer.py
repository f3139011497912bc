"""The candidate's side of a shadow: takes copies of what was answered, answers them too, and compares. Its answers go nowhere.

1. Samples come over a socket of its own, one connection at a time, or from a recording that is replayed.
2. All of it happens here and not in the serving worker: decoding, running, comparing and keeping cost the candidate's low priority.
3. What serves may be another model in another quantization with other labels: `Hello` says how its outputs are read.
"""

import asyncio
import logging
import threading
import time
from pathlib import Path

from edgefleet_agent.worker.control.launch import listen_unix
from edgefleet_agent.worker.runtime.engine import BusyError, Engine
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.disagreements import Keep, Worst
from edgefleet_agent.worker.shadow.frames import BadFrameError, FrameReader, Hello, Sample
from edgefleet_protocol.comparison import (
    IOU_BUCKETS,
    ShadowFigures,
    delta_bucket,
    iou_bucket,
    pack_counts,
)
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import CaptureReason
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_runtime.likeness import Likeness, compare_answers
from edgefleet_runtime.nonfinite import total_nonfinite
from edgefleet_runtime.postprocess import Postprocessor, build_postprocessor

_READ_BYTES = 256 * 1024
_log = logging.getLogger(__name__)


class ShadowSums:
    """Counts since the last `take`. Written by the engine's thread, taken by the loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin()
        self.kept = 0

    def _begin(self) -> None:
        self._compared = self._failed = self._judged = self._agreed = 0
        self._deltas: dict[int, int] = {}
        self._overlaps = [0] * IOU_BUCKETS
        self._primary = LatencySketch()

    def failed(self) -> None:
        """Count a sample that the candidate could not answer, or that could not be read."""
        with self._lock:
            self._failed += 1

    def compared(self, primary_s: float, likenesses: list[Likeness]) -> None:
        """Count an inference that both answered; one likeness a sample in it."""
        with self._lock:
            self._compared += 1
            self._primary.add(primary_s)
            for likeness in likenesses:
                if likeness.agreed is not None:
                    self._judged += 1
                    self._agreed += likeness.agreed
                bucket = delta_bucket(likeness.delta)
                self._deltas[bucket] = self._deltas.get(bucket, 0) + 1
                for overlap in likeness.overlaps:
                    self._overlaps[iou_bucket(overlap)] += 1

    def take(self) -> ShadowFigures:
        """Return the counts and begin again."""
        with self._lock:
            figures = ShadowFigures(
                compared=self._compared,
                failed=self._failed,
                judged=self._judged,
                agreed=self._agreed,
                deltas=pack_counts(self._deltas),
                overlaps=list(self._overlaps) if any(self._overlaps) else [],
                primary_latency=self._primary.packed(),
                kept=self.kept,
            )
            self._begin()
        return figures


class Comparer:
    """Runs samples through the candidate and compares. Used from one thread at a time."""

    def __init__(self, served: ServedModel, figures: WorkerStats, capture: Keep | None = None) -> None:
        """Know the candidate. capture: is offered what is kept here, and follows its own policy."""
        start = served.start
        self._capture = capture
        self._served = served
        self._figures = figures
        self.sums = ShadowSums()
        path = Path(start.kept_path) if start.kept_path else None
        self._keep = Worst(path, start.model, start.digest, keep_inputs=start.keep_inputs)
        self._old: Postprocessor | None = None
        tolerances = served.manifest.tolerances
        self._top1 = {name for name, tolerance in tolerances.items() if tolerance.top1}

    def greet(self, hello: Hello) -> None:
        """Learn how the serving version's outputs are read. Raises EdgefleetError."""
        self._old = build_postprocessor(hello.declared, tuple(hello.labels), hello.outputs)
        self._keep.against(hello.digest)
        self.sums.kept = len(self._keep)

    def take(self, sample: Sample) -> None:
        """Answer one sample and count how alike it is. Raises nothing that a sample can be the reason of."""
        began = time.perf_counter()
        try:
            new = self._served.runtime.run(sample.inputs)
        except EdgefleetError as error:  # its inputs may be other ones: that is a result, not a fault of this process
            self._figures.failed(time.perf_counter() - began)
            self.sums.failed()
            _log.debug("shadow gave no answer: %s", error.message)
            return
        elapsed_s = time.perf_counter() - began
        nonfinite = total_nonfinite(new.values()) > 0 and not total_nonfinite(sample.inputs.values())
        self._figures.answered(elapsed_s, nonfinite=nonfinite, classes=self._served.postprocess.classes(new))
        if self._old is None:
            self.sums.failed()
            return
        try:
            old_answers = self._old.answers(sample.outputs)
            new_answers = self._served.postprocess.answers(new)
        except (EdgefleetError, KeyError, IndexError, ValueError) as error:
            self.sums.failed()
            _log.info("answers cannot be compared: %s", error)
            return
        recipe = self._served.postprocess.declared.outputs[0]
        name, op = recipe.name, str(type(recipe.steps[-1]).__struct_config__.tag)
        old_name = self._old.declared.outputs[0].name
        likenesses = [
            compare_answers(a.get(old_name), b.get(name), top1=name in self._top1, op=op)
            for a, b in zip(old_answers, new_answers, strict=False)
        ]
        self.sums.compared(sample.run_s, likenesses)
        self._keep_worst(sample, likenesses, old_answers, new_answers)

    def _keep_worst(
        self, sample: Sample, likenesses: list[Likeness], old: list[dict[str, object]], new: list[dict[str, object]]
    ) -> None:
        if not likenesses:
            return
        worst = max(range(len(likenesses)), key=lambda i: likenesses[i].difference)
        difference = likenesses[worst].difference
        if self._keep.is_worth(difference):
            answers = {"active": old[worst], "candidate": new[worst]}
            self._keep(CaptureReason.DISAGREEMENT, sample.inputs, answers, difference=difference)
            if self._capture is not None:
                self._capture(CaptureReason.DISAGREEMENT, sample.inputs, answers, difference=difference)
            self.sums.kept = len(self._keep)

    def save(self) -> None:
        """Write what is kept."""
        self._keep.save()


class ShadowConnection(asyncio.Protocol):
    """One serving worker that mirrors. A newer connection takes the place of an older one (after a swap of what serves)."""

    def __init__(self, comparer: Comparer, engine: Engine) -> None:
        self._comparer = comparer
        self._engine = engine
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take frames; each sample is acknowledged when it was compared."""
        try:
            frames = self._reader.feed(data)
            for frame in frames:
                if isinstance(frame, Hello):
                    self._comparer.greet(frame)
                else:
                    self._submit(frame)
        except EdgefleetError as error:
            _log.warning("mirrored stream ended: %s", error.message)
            self.close()

    def _submit(self, sample: Sample) -> None:
        try:
            future = self._engine.submit(lambda: self._comparer.take(sample), None)
        except BusyError:
            self._acknowledge()
            return
        future.add_done_callback(self._done)

    def _done(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._comparer.sums.failed()
            _log.warning("comparison failed: %s", error)
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\x01")

    def close(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.close()


class ShadowListener:
    """The socket on which copies come. Made and used in the event loop."""

    def __init__(
        self, path: Path, served: ServedModel, figures: WorkerStats, engine: Engine, capture: Keep | None = None
    ) -> None:
        """Listen at `path`. capture: see `Comparer`. Raises SocketError."""
        self._path = path
        self._engine = engine
        self._comparer = Comparer(served, figures, capture)
        figures.shadow = self._comparer.sums.take
        self._loop = asyncio.get_running_loop()
        self._listener = listen_unix(path)
        self._connection: ShadowConnection | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        if self._connection is not None:
            self._connection.close()
        connection = self._connection = ShadowConnection(self._comparer, self._engine)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: connection, accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Take no more, and write what is kept."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)
        if self._connection is not None:
            self._connection.close()
        self._comparer.save()


def replay(path: Path, comparer: Comparer) -> int:
    """Compare all whole samples of a recording; return how many. Raises OSError, EdgefleetError for what is no recording."""
    reader, count = FrameReader(), 0
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            for frame in reader.feed(data):
                if isinstance(frame, Hello):
                    comparer.greet(frame)
                else:
                    comparer.take(frame)
                    count += 1
    if count == 0:
        raise BadFrameError("the recording holds no whole sample")
    comparer.save()
    return count
