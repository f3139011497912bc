"""Drift on the device: learned, noticed, told, shown, kept over a restart, and over at last; all without a server."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_agent.drift.files import DriftFiles
from edgefleet_agent.drift.model_drift import MAX_TOLD, ModelDrift, closed, following, noted, told
from edgefleet_agent.drift.watcher import KEEP_EVERY_S, DriftDeps, DriftWatcher
from edgefleet_agent.worker.control.protocol import KnownReference, SetDrift, Stats
from edgefleet_protocol.drift.detector import BLOCK_S, DAY_OF_BLOCKS
from edgefleet_protocol.drift.histogram import SignalSums, pack
from edgefleet_protocol.drift.reference import Reference, Signal, basis_of, write_reference
from edgefleet_protocol.messages import EventKind
from edgefleet_protocol.sketch import LatencySketch
from tests.server.fleet.house import TurnedClock

SHA = "a" * 64
REFERENCE = Reference(
    n=100_000,
    features=[
        Signal(name=f"x.{i}", std=1.0, low=-4.0, high=4.0, edges=[-0.674, 0.0, 0.674], counts=[25_000] * 4)
        for i in range(3)
    ],
    classes=[50_000, 50_000],
)
BASIS = basis_of(REFERENCE)


def sums(draw: random.Random, shift: float = 0.0, n: int = 300) -> SignalSums:
    """Return the sums of n independent normal values."""
    values = [draw.gauss(shift, 1.0) for _ in range(n)]
    bins = [0] * 4
    for value in values:
        bins[sum(value >= edge for edge in (-0.674, 0.0, 0.674))] += 1
    return SignalSums(
        tuple(bins),
        total=sum(round(value * 64) for value in values),
        squares=sum(round(value * value * 64) for value in values),
    )


class Device:
    """The watcher of one device on a clock that is turned, with one worker."""

    def __init__(self, folder: Path, source: str = "reference") -> None:
        self.folder = folder
        self.clock = TurnedClock()
        self.draw = random.Random(3)
        self.due: list[tuple[float, Any]] = []
        self.events: list[tuple[EventKind, dict[str, Any]]] = []
        self.sent: list[bool] = []
        self.digests = {SHA}
        self.shift = 0.0
        self.n = 300
        self.source = source
        self.worker = SimpleNamespace(
            model="digits",
            ref=SimpleNamespace(sha256=SHA, version="1.0.0"),
            candidate=None,
            state="serving",
            send=lambda message: self.sent.append(message.is_drifting) if isinstance(message, SetDrift) else None,
        )
        self.start()

    def start(self) -> None:
        """Start agentd and the worker."""
        deps = DriftDeps(self.answer, lambda: self.digests, self._tell, lambda: None)
        loop = SimpleNamespace(call_later=lambda s, run: self.due.append((self.clock.monotonic_s() + s, run)))
        self.due.clear()
        self.watcher = DriftWatcher(cast("Any", loop), self.clock, DriftFiles(self.folder), deps)
        self.watcher.start()
        body = write_reference(Reference(**{**_fields(REFERENCE), "source": self.source}))
        assert self.watcher.hear(cast("Any", self.worker), KnownReference(body=body))
        self.watcher.on_ready(cast("Any", self.worker))

    def _tell(self, kind: EventKind, model: str, sha256: str, reason: str, detail: dict[str, Any]) -> None:
        assert (model, sha256) == ("digits", SHA)
        assert reason
        self.events.append((kind, detail))

    def answer(self) -> None:
        """Tell what was counted since the last block; agentd asks for it."""
        signals = [sums(self.draw, self.shift if i == 1 else 0.0, self.n) for i in range(3)] if self.n else []
        half = sum(self.draw.random() < 0.5 for _ in range(self.n))
        stats = Stats(
            n=self.n,
            latency=LatencySketch().packed(),
            basis=BASIS if signals else b"",
            signals=pack(signals),
            classes=[half, self.n - half] if self.n else [],
        )
        assert not self.watcher.hear(cast("Any", self.worker), stats)

    def blocks(self, n: int) -> None:
        """Let so many blocks pass."""
        until = self.clock.monotonic_s() + n * BLOCK_S
        while self.due:
            at, run = min(self.due, key=lambda one: one[0])
            if at > until:
                break
            self.due.remove((at, run))
            self.clock.turn(seconds=at - self.clock.monotonic_s())
            run()
        self.clock.turn(seconds=until - self.clock.monotonic_s())

    def state(self) -> dict[str, Any]:
        """Return what the status shows of the model."""
        return dict(self.watcher.status()["digits"])


def _fields(reference: Reference) -> dict[str, Any]:
    return {name: getattr(reference, name) for name in reference.__struct_fields__}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state file of a device that learned for a day how its signals vary."""
    device = Device(tmp_path_factory.mktemp("learned"))
    device.blocks(DAY_OF_BLOCKS + 12)
    assert device.events == []
    assert device.sent == []
    device.watcher.close()
    [file] = device.folder.iterdir()
    return file.read_bytes()


@pytest.fixture
def device(tmp_path: Path, learned: bytes) -> Device:
    """A device that has learned."""
    folder = tmp_path / "drift"
    folder.mkdir()
    (folder / f"digits.{SHA[:16]}.watch").write_bytes(learned)
    return Device(folder)


def test_a_shift_is_told_with_its_next_block_and_its_end_too(device: Device) -> None:
    device.blocks(3)
    assert device.state() == {
        "version": "1.0.0",
        "reference": "reference",
        "n": 100_000,
        "wanted": 0,
        "basis": BASIS.hex(),
        "signals": 4,
        "judged": 4,
        "drifting": [],
    }
    device.shift = 0.8
    device.blocks(2)
    [(kind, detail)] = device.events
    assert kind is EventKind.DRIFT
    assert detail.keys() == {"lane", "version", "signal", "kind", "scale", "cause", "psi", "shift_z", "n", "since"}
    assert {name: detail[name] for name in ("lane", "version", "signal", "kind", "scale", "cause")} == {
        "lane": "active", "version": "1.0.0", "signal": "x.1", "kind": "numeric", "scale": "5m", "cause": "bins",
    }  # fmt: skip
    assert abs(detail["shift_z"] - 0.8) < 0.2
    assert detail["psi"] > 0.3
    assert detail["n"] == 300
    assert detail["since"] % BLOCK_S == 0
    assert device.sent == [True], "its worker captures more"
    assert device.watcher.facts() == {"digits": ["x.1"]}
    device.blocks(30)
    assert {detail["scale"] for _, detail in device.events} == {"5m", "1h"}
    device.shift = 0.0
    device.blocks(60)
    assert [(kind, detail["signal"], detail["scale"]) for kind, detail in device.events[2:]] == [
        (EventKind.DRIFT_OVER, "x.1", "5m"),
        (EventKind.DRIFT_OVER, "x.1", "1h"),
    ]
    assert device.sent == [True, False]
    assert device.watcher.facts() == {}


def test_a_drift_is_still_known_after_a_restart_and_told_once(device: Device) -> None:
    device.shift = 0.8
    device.blocks(2)
    assert len(device.events) == 1
    device.start()  # killed: nothing is written at the end
    assert device.sent == [True, True], "the next worker learns of it when it is ready"
    assert device.state()["drifting"][0]["signal"] == "x.1"
    device.blocks(3)
    assert [kind for kind, _ in device.events] == [EventKind.DRIFT]


def test_an_open_block_is_judged_by_the_next_run(device: Device) -> None:
    device.blocks(1)
    device.shift = 1.0
    device.answer()
    device.watcher.close()
    device.due.clear()
    device.clock.turn(seconds=3_600)
    device.start()
    assert [(kind, detail["signal"]) for kind, detail in device.events] == [(EventKind.DRIFT, "x.1")]


def test_blocks_without_answers_end_nothing(device: Device) -> None:
    device.shift = 0.8
    device.blocks(2)
    device.n = 0
    device.blocks(50)
    assert len(device.events) == 1
    assert device.state()["drifting"]


def test_what_was_learned_is_written_now_and_then_and_not_with_each_block(device: Device) -> None:
    [file] = device.folder.iterdir()
    times = set()
    for _ in range(int(KEEP_EVERY_S / BLOCK_S) + 2):
        device.blocks(1)
        times.add(file.stat().st_mtime_ns)
    assert len(times) == 2
    assert file.stat().st_size < 64 * 1024


def test_a_baseline_is_kept_told_once_and_removed_with_its_version(tmp_path: Path) -> None:
    device = Device(tmp_path / "drift", source="learned")
    assert [(kind, detail) for kind, detail in device.events] == [
        (EventKind.DRIFT_BASELINE, {"n": 100_000, "source": "learned", "basis": BASIS.hex()})
    ]
    assert {path.suffix for path in device.folder.iterdir()} == {".watch", ".reference"}
    device.start()
    assert len(device.events) == 1
    assert device.state()["reference"] == "learned"
    device.digests.clear()
    device.blocks(2)
    assert list(device.folder.iterdir()) == []
    assert device.watcher.status() == {}


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    folder = tmp_path / "drift"
    folder.mkdir()
    (folder / f"digits.{SHA[:16]}.watch").write_bytes(b"EFR1 torn")
    assert Device(folder).state()["signals"] == 4


def test_candidates_and_bad_signals_count_nothing(device: Device) -> None:
    device.blocks(1)
    device.shift = 3.0
    device.worker.candidate = object()
    device.blocks(3)
    device.worker.candidate = None
    bad = Stats(n=9, latency=LatencySketch().packed(), basis=BASIS, signals=b"\1\377")
    assert not device.watcher.hear(cast("Any", device.worker), bad)
    assert device.events == []


def test_other_bins_begin_again_and_the_same_go_on() -> None:
    begun = following(ModelDrift(model="m", sha256=SHA, version="1"), REFERENCE)
    one, _ = noted(begun, BASIS, [sums(random.Random(1))] * 3, [150, 150], 1_000.0)
    assert following(one, REFERENCE) is one
    assert following(one, Reference(**{**_fields(REFERENCE), "classes": []})).block == []
    foreign, _ = noted(one, b"learned!", [SignalSums((1, 2))] * 3, [], 1_001.0)
    assert foreign.block == one.block
    ended, changes = closed(one, 2_000.0)
    assert (ended.slot, ended.block, changes) == (-1, [], [])
    assert [watch.scales["5m"].effect.windows + watch.scales["5m"].coming.windows for watch in ended.watches] == [1] * 4


def test_of_very_many_drifts_the_greatest_are_told() -> None:
    changes: list[Any] = [
        SimpleNamespace(is_over=False, verdict=SimpleNamespace(psi=float(psi))) for psi in range(100)
    ] + [SimpleNamespace(is_over=True, verdict=SimpleNamespace(psi=0.0))] * 30
    kept = told(changes)
    assert sum(one.is_over for one in kept) == 30
    assert [one.verdict.psi for one in kept if not one.is_over] == [99.0 - i for i in range(MAX_TOLD)]
