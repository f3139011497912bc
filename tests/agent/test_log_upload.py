"""The prediction logs of a device as agentd keeps them: who keeps one, what a worker's death takes, what is sent and erased."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_agent.captures.log_upload import PredictionUpload
from edgefleet_agent.captures.store import CaptureRecord, CaptureStore
from edgefleet_agent.install.records import DesiredOk, LogRules
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.protocol import Entry, Logged, SetLog
from edgefleet_protocol.hpke import new_key
from edgefleet_protocol.prediction_parts import Gap, decode_head, unpack_part
from tests.server.fleet.house import TurnedClock

KEY = new_key()[1].hex()
SUBJECTS = b"k" * 32
MODEL = "digits"


class Loop:
    """Runs what is due when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        """Note a callback."""
        self.due.append(callback)

    def turn(self) -> None:
        """Run what was noted so far."""
        due, self.due = self.due, []
        for callback in due:
            callback()


class Worker:
    """A worker that was told something. numbered: as its file says."""

    def __init__(self, pid: int, counts: Path) -> None:
        self.pid = pid
        self.model = MODEL
        self.ref = SimpleNamespace(version="1.0.0", sha256="a" * 64)
        self.candidate = None
        self.is_gone = False
        self.heard: list[SetLog] = []
        self._path = counts / f"{pid}.count"

    def send(self, message: SetLog) -> None:
        """Hear a message."""
        self.heard.append(message)

    def die(self, numbered: int) -> None:
        """End, after so many answers were numbered."""
        self._path.write_bytes(numbered.to_bytes(8, "little"))
        self.is_gone = True


class Device:
    """agentd's part of one device."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.loop, self.clock = Loop(), TurnedClock()
        self.paths = StatePaths(folder)
        self.captures = CaptureStore(self.paths.captures, 1 << 20, 7, 0, 0.0)
        self.closed = 0
        self.upload = PredictionUpload(
            cast("Any", self.loop),
            self.clock,
            AgentSettings(**settings),
            self.paths,
            "d-1",
            self.captures.forget,
            self._part,
        )

    def _part(self) -> None:
        self.closed += 1

    def follow(self, *, key: str = KEY, **rules: Any) -> SetLog | None:
        """Take a document that asks for this of the model; nothing without rules."""
        logs = {MODEL: LogRules(subject_key=SUBJECTS, **rules)} if rules else {}
        document = DesiredOk(
            device="d-1", gen=1, raw_sha256="", issued_s=0, expires_s=0, wanted=[], idle_models=[], capture_key=key,
            prediction_logs=logs,
        )  # fmt: skip
        return self.upload.follow(document, lambda: b"salt")

    def worker(self, pid: int) -> Worker:
        """Return a worker that is ready."""
        made = Worker(pid, self.paths.run / "counts")
        self.upload.on_ready(cast("Any", made))
        return made

    def say(self, worker: Worker, first: int, n: int, subject: bytes = b"") -> None:
        """Have a worker tell of n answers."""
        entries = [Entry(1_000, f"{worker.pid}-{first + i}", "ok", 1, subject, first + i, b"body") for i in range(n)]
        self.upload.hear(cast("Any", worker), Logged(first, entries))

    def parts(self) -> list[Any]:
        """Return all parts that would be sent, oldest first; they stay on their way."""
        found = []
        while (sample := self.upload.next_sample()) is not None:
            found.append((sample, unpack_part(sample.sealed)))
        return found


def test_a_log_is_kept_only_while_server_and_owner_want_it(tmp_path: Path) -> None:
    device = Device(tmp_path / "a")
    worker = device.worker(7)
    assert device.follow() is None
    order = device.follow(ratio=1.0)
    assert order is not None
    assert (set(order.models), order.key, order.models[MODEL].inputs) == ({MODEL}, bytes.fromhex(KEY), False)
    assert device.follow(ratio=1.0) is None, "nothing has changed"
    assert device.worker(8).heard == [order]
    assert worker.heard == [], "it hears of it by what `follow` returned"
    assert device.follow(ratio=0.0) == SetLog(), "a share of nothing only erases"
    assert Device(tmp_path / "b", prediction_upload_bytes=0).follow(ratio=1.0) is None, "the owner says no"
    pinned = Device(tmp_path / "c", capture_key=new_key()[1].hex())
    assert pinned.follow(ratio=1.0) is None, "a key that the owner does not pin"
    sealed = pinned.follow(key="", ratio=1.0)
    assert sealed is not None
    assert sealed.key != b"", "the pinned key seals without the server's word"
    wrong = Device(tmp_path / "w", capture_key="k" * 64)
    with pytest.raises(ValueError, match="hexadecimal"):
        wrong.follow(key="", ratio=1.0)
    wrong.say(wrong.worker(7), 1, 1)
    assert wrong.upload.status()[MODEL]["on"] is False  # type: ignore[index]
    inputs = Device(tmp_path / "d", capture_consent=True).follow(ratio=1.0, inputs=True)
    assert inputs is not None
    assert inputs.models[MODEL].inputs
    assert (
        not cast("SetLog", Device(tmp_path / "e", capture_consent=True).follow(key="", ratio=1.0, inputs=True))
        .models[MODEL]
        .inputs
    )


def test_what_a_dead_worker_had_not_told_and_what_got_lost_on_the_way_are_gaps(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.follow(ratio=1.0)
    one, two = device.worker(7), device.worker(8)
    device.say(one, 1, 2)
    device.say(two, 1, 1)
    device.say(two, 4, 1)  # 2 and 3 did not fit
    one.die(5)
    device.loop.turn()
    assert device.upload.status()[MODEL]["seq"] == 9  # type: ignore[index]
    device.clock.turn(seconds=901)
    device.loop.turn()
    ((_, part),) = device.parts()
    head = decode_head(part.head)
    assert [row.seq for row in part.rows] == [1, 2, 3, 6]
    assert head.gaps == [Gap(4, 5, "lost"), Gap(7, 9, "lost")]
    assert device.closed == 1
    assert not list((tmp_path / "run" / "counts").iterdir())


def test_a_kill_before_anything_was_told_is_a_gap(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.worker(7)
    device.follow(ratio=1.0)
    ((_, part),) = Device(tmp_path).parts()
    assert [gap.reason for gap in decode_head(part.head).gaps] == ["stopped"]
    again = Device(tmp_path)
    again.follow(ratio=1.0)
    again.worker(8)
    _, (_, part) = Device(tmp_path).parts()
    assert [gap.reason for gap in decode_head(part.head).gaps] == ["stopped"]


def test_parts_go_one_after_the_other_and_stay_until_the_server_has_them(tmp_path: Path) -> None:
    device = Device(tmp_path, prediction_part_s=0.0)
    device.follow(ratio=1.0)
    worker = device.worker(7)
    for first in (1, 2):
        device.say(worker, first, 1)
        device.loop.turn()
    names = [sample.record for sample, _ in device.parts()]
    assert names == [f"{MODEL}/1", f"{MODEL}/2"]
    assert device.parts() == [], "they are on their way"
    device.upload.stored(names[0])
    device.upload.stored(names[1], is_there=False)
    assert [sample.record for sample, _ in device.parts()] == names[1:]
    device.upload.close()
    again = Device(tmp_path)
    assert [sample.record for sample, _ in again.parts()] == names[1:]
    assert again.upload.status()[MODEL]["lost"] == 0  # type: ignore[index]


def test_the_document_erases_rows_and_what_was_captured_of_them(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.follow(ratio=1.0)
    worker = device.worker(7)
    device.say(worker, 1, 2, b"s" * 16)
    device.say(worker, 3, 1)
    for trace in ("7-1", "7-3"):
        record = CaptureRecord(
            record=f"{ord(trace[-1]):x}", model=MODEL, version="1", sha256="", reason="flag", label=0, trace_id=trace,
            taken_ms=1, seen=1, key="", sealed=b"x",
        )  # fmt: skip
        device.captures.add(record, 0.0)
    device.follow(ratio=0.0, erased={b"s" * 16: 5_000})
    assert device.closed == 1
    device.clock.turn(seconds=901)
    device.loop.turn()
    assert device.closed == 1, "nothing is open any more"
    ((_, part),) = device.parts()
    assert [row.seq for row in part.rows] == [3]
    assert [one.seq for one in part.erased] == [1, 2]
    kept = [device.captures.read(entry.name) for entry in device.captures.select()]
    assert [record.trace_id for record in kept if record is not None] == ["7-3"]
    assert b"s" * 16 not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("room", [0, 700])
def test_the_budget_is_for_all_logs_together(tmp_path: Path, room: int) -> None:
    device = Device(tmp_path, prediction_upload_bytes=1_000 + room)
    device.follow(ratio=1.0)
    worker = device.worker(7)
    for first in range(1, 400, 20):
        device.say(worker, first, 20)
    status: Any = device.upload.status()[MODEL]
    assert status["bytes"] <= 1_000 + room
    assert status["lost"] > 0
    assert status["seq"] == 400
