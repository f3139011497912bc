"""Candidates of agentd with real workers: sequential shadow, suspension and return, a crash loop. No server, no network."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_agent.candidate import rules
from edgefleet_agent.candidate.controller import CandidateController, CandidateDeps
from edgefleet_agent.candidate.pressure import PressureLimits, Readings
from edgefleet_agent.candidate.process import CandidateContext, CandidateOptions
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import encode_record
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.intake import Intake
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.records import CandidateRequest, DesiredOk, ModelRecord, SlotInfo, SlotRef, Wanted
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.worker_process import Worker, WorkerOptions
from edgefleet_agent.worker.control.protocol import (
    Captured,
    GetStats,
    LaneRoute,
    ModelRoute,
    Predictions,
    RoutesTable,
    SetCapture,
    Stats,
    ToAgentd,
    write_routes,
)
from edgefleet_agent.worker.shadow.disagreements import read_kept
from edgefleet_protocol.comparison import ShadowFigures, merge_shadows
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.hpke import new_key
from edgefleet_protocol.messages import Phase, Window
from edgefleet_protocol.sketch import LatencySketch
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx

MIB = 1024 * 1024
EXTRA = {"postprocess.json": b'{"v":1,"outputs":[{"name":"y","steps":[{"op":"argmax"}]}]}'}
OPTIONS = CandidateOptions(
    shadow="auto",
    keep_inputs=False,
    samples=4,
    max_bytes=MIB,
    record_s=60.0,
    rest_s=60.0,
    headroom_bytes=0,
    measure_s=0.01,
    limits=PressureLimits(memory_available_bytes=0, resume_s=0.2),
)
RULES = SetCapture(new_key()[1], bytes(32), "d-1", 0.0, 0.1)


class Ear:
    """Hears of answers, and lets them be captured from the start, as agentd's keeper does."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ToAgentd]] = []

    def on_ready(self, worker: Worker) -> None:
        worker.send(RULES)

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        if isinstance(message, Captured | Predictions):
            self.heard.append((worker.ref.version, message))
            return True
        return False


class Yard:
    """A serving worker, a verified bundle in the other slot, and the candidates that stand beside."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.rig = Rig(_made(folder / "rig"))
        self.paths = StatePaths(_made(folder / "state"))
        _made(self.paths.run)
        _made(self.paths.sockets())  # a short folder elsewhere where this one's path is long
        old, new = (
            bundle_bytes(classifier_onnx(scale), version=version, extra=EXTRA)
            for scale, version in ((1.0, "1.0.0"), (-1.0, "1.1.0"))
        )
        self.active = self.rig.start(old, routes_path=str(self.paths.routes))
        self.active.serve()
        self.sha256 = sha256_hex(new)
        slot = _made(self.paths.models / "digits" / "B")
        (slot / "bundle").write_bytes(new)
        info = SlotInfo(
            model="digits", version="1.1.0", profile="p", target="t", sha256=self.sha256, length=len(new), runtime="ort"
        )
        (slot / "slot.msgpack").write_bytes(encode_record(info))
        self.loop = Loop(SystemClock())
        self.readings = Readings()
        self.events: list[tuple[str, str]] = []
        self.figures = ShadowFigures()
        self.ear = Ear()
        self.windows: list[Window] = []
        self.candidates = self._candidates(_replaced(OPTIONS, **options))
        self.write_routes()

    def _candidates(self, options: CandidateOptions) -> CandidateController:
        workers = WorkerOptions((), self.paths.routes, self.paths.sockets(), 1, 0, MIB, 5.0, log_predictions=True)
        slots, clock_s = Slots(self.paths.models), SystemClock().monotonic_s
        ground = CandidateContext(
            self.loop, self.paths, slots, workers, options, clock_s, time.time, self.write_routes, self.ear
        )
        active = SlotRef(slot="A", target="o", sha256=self.active.start.digest, version="1.0.0", proven=True)
        record = ModelRecord(model="digits", phase=Phase.COMMITTED, active=active)
        near = CandidateDeps(
            records=lambda: {"digits": record},
            lend=lambda _model: None,
            event=lambda _kind, _model, _sha, state, code, *_: self.events.append((state, code)),
            changed=lambda: None,
            windows=self.windows.extend,
            room=lambda: Room(-1, -1, 0, 0, {"ort": "1"}),
            readings=lambda: self.readings,
        )
        intake = cast("Intake", SimpleNamespace(cancel=lambda _model: None))
        return CandidateController(ground, intake, SystemClock(), near)

    def write_routes(self) -> None:
        start = self.active.start
        route = ModelRoute({"active": LaneRoute(start.own_socket_path, "1.0.0", start.digest, "A")})
        if hasattr(self, "candidates"):
            route = self.candidates.route("digits", route)
        write_routes(self.paths.routes, RoutesTable(models={"digits": route}))

    def want(self, mode: str | None = "shadow", attempt: int = 1) -> None:
        wanted = Wanted(model="digits", target="t", sha256=self.sha256, length=1, leaves="l", gen=2, attempt=attempt)
        wishes = [CandidateRequest(wanted=wanted, mode=mode, share_pct=50)] if mode is not None else []
        document = DesiredOk(
            device="d", gen=2, raw_sha256="", issued_s=0, expires_s=2**40, wanted=[], idle_models=[], candidates=wishes
        )
        self.candidates.apply(document)

    def until(self, is_true: Callable[[], bool]) -> None:
        """Run agentd's loop until it is so."""
        give_up = time.monotonic() + 60

        def look() -> None:
            self.candidates.tick()
            self.candidates.ask_stats()
            if is_true() or time.monotonic() > give_up:
                self.loop.stop()
            else:
                self.loop.call_later(0.02, look)

        self.loop.call_later(0.0, look)
        self.loop.run()
        assert is_true(), self.events

    def state(self) -> str:
        told = self.candidates.state("digits")
        return told.state if told is not None else ""

    def compared(self) -> ShadowFigures:
        """Return the sums of all windows so far."""
        self.active.link.send(GetStats())
        self.candidates.on_primary_stats("digits", self.active.until(Stats))
        for window in self.candidates.take_windows(0, 1):
            if window.shadow is not None:
                self.figures = merge_shadows([self.figures, window.shadow])
        return self.figures

    def infer(self, n: int) -> None:
        self.rig.request("GET", "/v2/models/nothing")  # makes the worker look at the table now
        for i in range(n):
            status, answer, _ = self.rig.infer([[1.0 + i, 0.0, 0.5, 0.0]])
            assert (status, answer["model_version"]) == (200, "1.0.0")

    def close(self) -> None:
        self.candidates.close()
        self.loop.close()
        self.rig.close()
        if self.paths.sockets() != self.paths.run:
            shutil.rmtree(self.paths.sockets())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _replaced(options: CandidateOptions, **changes: Any) -> CandidateOptions:
    return CandidateOptions(**{name: changes.get(name, getattr(options, name)) for name in CandidateOptions.__slots__})


@pytest.fixture
def yard(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Yard]:
    """A yard with the options that a test asks for."""
    made = Yard(tmp_path, **getattr(request, "param", {}))
    yield made
    made.close()


@pytest.mark.parametrize("yard", [{"shadow": "sequential"}], indirect=True)
def test_a_sequential_shadow_records_replays_and_leaves_nothing_resident(yard: Yard) -> None:
    yard.want()
    yard.until(lambda: yard.state() == "recording")
    assert yard.candidates.pids() == {}
    yard.infer(6)
    assert yard.paths.recording("digits").is_file()
    yard.until(lambda: yard.compared().compared == 4)
    yard.until(lambda: yard.state() == "waiting")
    assert yard.candidates.pids() == {}
    assert list(yard.paths.run.glob("*.recording*")) == []
    figures = yard.compared()
    assert (figures.offered, figures.judged, figures.agreed) == (4, 4, 0)
    kept = read_kept(yard.paths.kept("digits"))
    assert kept is not None
    assert len(kept.kept) == figures.kept == 4
    assert [state for state, _ in yard.events] == ["recording", "replaying", "waiting"]
    yard.want(None)
    assert not yard.paths.kept("digits").exists()
    assert not (yard.paths.models / "digits" / "candidate.msgpack").exists()


def test_a_measurement_is_told_round_by_round_once_for_each_attempt(yard: Yard) -> None:
    yard.want("measure")
    yard.until(lambda: yard.state() == "measured")
    assert yard.candidates.pids() == {}
    assert len(yard.windows) == 3
    for window in yard.windows:
        assert (window.lane, window.sha256, window.version) == ("measure", yard.sha256, "1.1.0")
        assert window.n >= 20
        assert LatencySketch.unpacked(window.latency).n == window.n
        assert window.worker_rss_bytes > 10 * MIB
    yard.want("measure")
    assert yard.state() == "measured"
    yard.want("measure", attempt=2)
    yard.until(lambda: yard.state() == "measured" and len(yard.windows) == 6)
    assert list(yard.candidates.take_windows(0, 1)) == []


def test_what_a_shadow_disagrees_on_is_offered_to_the_capture(yard: Yard) -> None:
    yard.want()
    yard.until(lambda: yard.state() == "running")
    yard.infer(2)
    yard.until(lambda: yard.ear.heard != [])
    version, message = yard.ear.heard[0]
    assert isinstance(message, Captured)
    assert (version, message.reason) == ("1.1.0", "disagreement")


def test_what_a_split_answers_is_told_to_the_prediction_log(yard: Yard) -> None:
    yard.want("split")
    yard.until(lambda: yard.state() == "running")
    yard.rig.request("GET", "/v2/models/nothing")  # makes the worker look at the table now
    answered = [yard.rig.infer([[1.0 + i, 0.0, 0.5, 0.0]])[1]["model_version"] for i in range(20)]
    assert "1.1.0" in answered
    told = answered.count("1.1.0")
    yard.until(lambda: sum(m.n for _, m in yard.ear.heard if isinstance(m, Predictions)) == told)
    assert {version for version, _ in yard.ear.heard} == {"1.1.0"}


def test_heat_takes_a_shadow_away_and_it_comes_back_when_it_is_cool(yard: Yard) -> None:
    yard.want()
    yard.until(lambda: yard.state() == "running")
    yard.infer(2)
    yard.until(lambda: yard.compared().compared == 2)
    yard.readings = Readings(temperature_celsius=85.0)
    yard.until(lambda: yard.state() == "suspended" and yard.candidates.pids() == {})
    yard.infer(3)
    assert yard.compared().offered == 2
    yard.readings = Readings(temperature_celsius=60.0)
    yard.until(lambda: yard.state() == "running")
    states = [state for state, _ in yard.events]
    assert states == ["starting", "running", "suspended", "starting", "running"]
    assert ("suspended", "candidate.thermal") in yard.events


def test_a_candidate_that_dies_each_time_fails_for_good_and_what_serves_answers(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RETRY_S", (0.01,))
    monkeypatch.setattr(rules, "MAX_STARTS", 2)
    yard.want()
    for _ in range(2):
        yard.until(lambda: yard.state() == "running")
        worker = yard.candidates._all["digits"].lane.worker
        assert worker is not None
        worker.kill()
        yard.until(lambda: yard.state() != "running")
        yard.infer(3)
    yard.until(lambda: yard.state() == "failed")
    told = yard.candidates.state("digits")
    assert told is not None
    assert told.code == "candidate.restarts"
    yard.want()  # the same document once more: it is not tried again
    assert yard.state() == "failed"
    yard.infer(3)
