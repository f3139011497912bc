"""F03: every state that a power cut may leave of whole installs, each started from with the agent's own code.

A real agent installs, updates, brings a second model beside and removes it, under the shim, which records each point of its way to
the disk. After each point the disk model gives the states that a cut there may leave. Of each of them:

- the floor is not lost, nor lower than what was certain;
- the queue opens;
- whatever certainly served before serves again, and its bytes are those of a bundle that was published;
- with the document that is there, and then with the last one, the install goes on to its end: the right bytes, committed.

The runner, journal, slots, slot writer and floor are the agent's own; the worker and the network are played, since 5,000 processes
would prove nothing more about the disk.
"""

import dataclasses
import hashlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.connection.outbox import Joins, Outbox
from edgefleet_agent.core.durable import read_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.intake import Job
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.records import DesiredOk, ModelRecord, SlotInfo, SlotRef, Wanted
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import Fetched
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.window import begins_s, merge_payloads, pack_payloads
from edgefleet_agent.verifier.floor import FloorFile
from edgefleet_agent.verifier.slot_writer import SlotWriter
from edgefleet_agent.worker.control.protocol import Golden, Ready
from edgefleet_protocol.blocks import LEAF_BYTES, check_leaf, leaf_count, leaf_index
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.messages import Phase
from tests.agent.field import eventually, offer, publish
from tests.agent.records import LIMITS
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.disk_model import Cut, Disk, Point, State, points_of, written_out
from tests.crash.field import Field, field, note, run

PAD_BYTES = 40_000
AT_ONCE = dataclasses.replace(LIMITS, probation_s=0, probation_min_s=0)


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Check n states, spread evenly over all there are; all when n is larger."""

    def rounds(result: dict[str, Any], n: int, seed: int) -> None:
        with recorded(seed) as episode:
            check(episode, result, n, seed)

    return run("F03 crash-states", n, seed, rounds)


@dataclasses.dataclass(frozen=True)
class Episode:
    """What an agent did to its disk. base: the state folder at the beginning. bundles: by digest. last: the last document."""

    base: Path
    points: list[Point]
    bundles: dict[str, bytes]
    last: DesiredOk


@contextmanager
def recorded(seed: int) -> Iterator[Episode]:
    """Let an agent install, update and remove, and yield the record of it."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of fsyncs that prove nothing
    with tempfile.TemporaryDirectory(prefix="ef-states-", dir=memory) as name:
        base = Path(name, "base")
        points, bundles = _recorded(base, seed)
        last = read_record(DesiredOk, Path(name, "end") / "desired.ok")
        assert last is not None
        yield Episode(base, points, bundles, last)


def check(episode: Episode, result: dict[str, Any], n: int, seed: int, *, forget: str = "") -> None:
    """Start from n states. forget: "s" for the states of an agent that never syncs: of them some must be wrong."""
    base, points = episode.base, episode.points
    total = sum(1 for _ in _all(base, points, forget))
    result["points"], result["states"], result["distinct"] = len(points), total, 0
    step, due = max(1.0, total / n), 0.0
    seen: set[bytes] = set()
    folder = base.parent / "state"
    for index, (point, cut, promised) in enumerate(_all(base, points, forget)):
        if index < due:
            continue
        due += step
        state = cut.state(random.Random(seed + index))
        seen.add(_digest(state))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        written_out(state, folder)
        problem = _Check(folder, episode.bundles, promised.certain(), episode.last).problem()
        note(result, problem, point=point, state=index)
    result["distinct"] = len(seen)
    result["n"] = result["good"] + len(result["failures"])


def _digest(state: State) -> bytes:
    digest = hashlib.sha256()
    for name, what in sorted(state.items()):
        digest.update(f"{name}\0".encode() + (what if isinstance(what, bytes) else what.link.encode()))
    return digest.digest()


def _recorded(base: Path, seed: int) -> tuple[list[Point], dict[str, bytes]]:
    """Run the episode; return its points and the bundles by digest. The folder at its beginning is copied to `base`."""
    bundles: dict[str, bytes] = {}
    with field(seed, record=True) as here:
        agent = here.agent
        agent.stop()
        shutil.copytree(agent.state, base, ignore=shutil.ignore_patterns("run", "*.log", "*-shm", "*-wal"))
        here.faults.log.unlink(missing_ok=True)
        agent.start()
        for version, model in (("1.0.0", "digits"), ("1.0.1", "digits"), ("2.0.0", "other"), ("1.0.2", "digits")):
            _bring(here, bundles, version, model)
        offer(agent, None, model="other")
        assert eventually(lambda: not (agent.state / "models" / "other").exists()), agent.log.read_text()[-3000:]
        agent.stop()
        shutil.copytree(agent.state, base.parent / "end", ignore=shutil.ignore_patterns("run"))
        return points_of(here.faults.log, agent.state), bundles


def _bring(here: Field, bundles: dict[str, bytes], version: str, model: str) -> None:
    extra = {"pad.bin": here.rng.randbytes(PAD_BYTES)}
    scale = float(len(bundles) + 1)
    data = bundle_bytes(classifier_onnx(scale), name=model, version=version, extra=extra)
    bundles[sha256_hex(data)] = data
    offer(here.agent, publish(here.agent.site, version, data, model), model=model)
    here.agent.wait("committed", version, model)


def _all(base: Path, points: list[Point], forget: str) -> Iterator[tuple[int, Cut, Disk]]:
    """Yield (index of the point, one state, the disk whose certain content was promised) for each state, in order.

    A cut is true until the next one is asked for. forget: kind of points that the disk of the states does not get to know.
    """
    promised, disk = Disk(), Disk()
    for each in (promised, disk):
        each.load(base)
    for index, point in enumerate(points):
        promised.play(point)
        if point.op != forget:
            disk.play(point)
        for cut in disk.states():
            yield index, cut, promised


class _Check:
    """One state, started from."""

    def __init__(self, folder: Path, bundles: dict[str, bytes], certain: State, last: DesiredOk) -> None:
        self.paths = StatePaths(folder)
        self.bundles = bundles
        self.certain = certain
        self.last = last
        self.slots = Slots(self.paths.models)
        self.serving = PlayedServing(self.slots)
        self.intake = PlayedIntake(self.paths.models, bundles)
        self.runner = Runner(
            Journal(self.paths.models),
            self.slots,
            self.intake,  # type: ignore[arg-type]
            self.serving,  # type: ignore[arg-type]
            Silent(),
            AT_ONCE,
            lambda: Room(-1, -1, 0, 0, {"ort": "1"}),
            SystemClock(),
        )
        self.serving.runner = self.intake.runner = self.runner

    def problem(self) -> str:
        """Return what is wrong with starting from here, "" when nothing is."""
        try:
            return self._floor() or self._start() or self._go_on()
        except Exception as error:  # noqa: BLE001 - whatever it is, it would have kept a device from starting
            return f"{type(error).__name__}: {error}"

    def _floor(self) -> str:
        with tempfile.TemporaryDirectory(prefix="ef-certain-") as name:
            written_out({k: v for k, v in self.certain.items() if k.startswith("floor.")}, Path(name))
            known = FloorFile(Path(name))
        floor = FloorFile(self.paths.root)
        if known.floor.serial and (floor.lost or floor.floor.gen < known.floor.gen):
            return f"floor lost: gen {floor.floor.gen}, certain was {known.floor.gen}"
        Outbox(self.paths.outbox, 1 << 20, Joins(merge_payloads, pack_payloads, begins_s)).close()
        return ""

    def _start(self) -> str:
        desired = self._desired()
        wanted = {w.model for w in desired.wanted} if desired is not None else None
        self.runner.recover()
        for model in self._certainly_served():
            if model not in self.serving.refs and (wanted is None or model in wanted):
                return f"nothing serves {model}: {self.runner.records.get(model)}"
        return self._wrong_bytes()

    def _certainly_served(self) -> list[str]:
        found = []
        for name, what in self.certain.items():
            parts = name.split("/")
            if len(parts) == 3 and parts[2] == "current.msgpack" and isinstance(what, bytes):
                with tempfile.TemporaryDirectory(prefix="ef-record-") as folder:
                    path = Path(folder, "current.msgpack")
                    path.write_bytes(what)
                    record = read_record(ModelRecord, path)
                    if record is not None and record.active is not None:
                        found.append(parts[1])
        return found

    def _wrong_bytes(self) -> str:
        for model, ref in self.serving.refs.items():
            data = (self.slots.folder(model, ref.slot) / "bundle").read_bytes()
            if sha256_hex(data) != ref.sha256 or self.bundles.get(ref.sha256) != data:
                return f"{model} serves bytes that were never published as {ref.target}"
        return ""

    def _go_on(self) -> str:
        known = self._desired()
        for desired in ([known] if known is not None else []) + [self.last]:
            self.runner.apply(desired)
            for _ in range(4):
                self.runner.tick()
            for wish in desired.wanted:
                record = self.runner.records[wish.model]
                ref = self.serving.refs.get(wish.model)
                if record.phase is not Phase.COMMITTED or ref is None or ref.sha256 != wish.sha256:
                    return f"gen {desired.gen} ended as {record}"
            if set(self.serving.refs) != {wish.model for wish in desired.wanted}:
                return f"gen {desired.gen}: {sorted(self.serving.refs)} serve"
            if wrong := self._wrong_bytes():
                return wrong
        kept = {path.name for path in self.paths.models.iterdir()}
        return "" if kept == {"digits"} else f"left behind: {kept}"

    def _desired(self) -> DesiredOk | None:
        try:
            return read_record(DesiredOk, self.paths.desired_ok)
        except StateFileError:
            return None


class Silent:
    """A reporter that tells nobody."""

    def changed(self) -> None:
        """Nothing."""

    def event(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def quarantined(self, *_: Any) -> None:
        """Nothing."""


class PlayedServing:
    """Workers that are always well: `ModelServing` as the runner uses it."""

    def __init__(self, slots: Slots) -> None:
        self.refs: dict[str, SlotRef] = {}
        self._trials: dict[str, SlotRef] = {}
        self._slots = slots
        self.runner: Runner

    def serve(self, model: str, ref: SlotRef) -> None:
        """Serve from a slot."""
        if model not in self.refs:
            self.runner.before_start(model)
            self.refs[model] = ref

    def try_out(self, model: str, ref: SlotRef) -> None:
        """Load and prove: what is in the slot must be what the record says."""
        assert self._slots.rehash(model, ref.slot, ref.sha256)
        self._trials[model] = ref
        self.runner.on_trial_message(model, Golden(ok=True, checked=8))
        self.runner.on_trial_message(model, Ready())

    def promote(self, model: str) -> None:
        """Switch."""
        self.refs[model] = self._trials.pop(model)

    def stop(self, model: str) -> None:
        """Serve no more."""
        self.refs.pop(model, None)

    def stop_trial(self, model: str) -> None:
        """End a trial."""
        self._trials.pop(model, None)

    def is_serving(self, model: str) -> bool:
        """Whether it serves."""
        return model in self.refs

    golden_ok = is_serving

    def has_trial(self, model: str) -> bool:
        """Whether a trial runs."""
        return model in self._trials

    has_workers = is_serving

    def serving_s(self, model: str) -> float:
        """Long enough for everything."""
        return 3_600.0 if model in self.refs else 0.0

    def rss_bytes(self, _model: str) -> int:
        """Nothing to give back."""
        return 0

    def made_room(self, _model: str) -> bool:
        """Never."""
        return False

    def pids(self) -> dict[str, int]:
        """No processes."""
        return {}


class PlayedIntake:
    """The install child's way of writing a slot, with the bundle's bytes at hand instead of a network."""

    def __init__(self, models: Path, bundles: dict[str, bytes]) -> None:
        self._slots = Slots(models)
        self._bundles = bundles
        self.runner: Runner

    def fetch(self, job: Job) -> None:
        """Bring the bundle, going on with what is there, and tell the runner."""
        self.runner.on_fetch(Fetched(job.wanted.model, self._written(job.wanted, job.slot)))

    def _written(self, wanted: Wanted, slot: str) -> SlotInfo:
        writer = SlotWriter(self._slots.prepare(wanted.model, slot), wanted.sha256, wanted.length)
        found = writer.existing()
        if found is not None:
            return found
        data = self._bundles[wanted.sha256]
        index = leaf_index(data)
        have = writer.open()
        for _ in range(2):
            for leaf in set(range(leaf_count(wanted.length))) - have:
                part = data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
                assert check_leaf(index, leaf, part)
                writer.write(leaf, part)
            if writer.digest() == wanted.sha256:
                break
            have = set(range(leaf_count(wanted.length))) - writer.check_leaves(index)
        assert writer.digest() == wanted.sha256
        version = wanted.target.split("/")[1]
        info = SlotInfo(
            model=wanted.model,
            version=version,
            profile="generic-x86_64-ort",
            target=wanted.target,
            sha256=wanted.sha256,
            length=wanted.length,
            runtime="ort",
        )
        writer.seal(info)
        return info

    def cancel(self, _model: str) -> None:
        """Nothing is under way."""

    def is_fetching(self, _model: str) -> bool:
        """Nothing is under way."""
        return False
