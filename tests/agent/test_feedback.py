"""Labels meet answers on the device: from the log of answers, over restarts, once each, counted for the version that answered."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_agent.captures.prediction_log import Block, PredictionLog, Row, pack_block
from edgefleet_agent.feedback import service
from edgefleet_agent.feedback.label_counts import MAX_SEGMENTS, LabelCounts, Lane
from edgefleet_agent.feedback.service import READ_S, FeedbackDeps, FeedbackKeeper
from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.worker.control.protocol import Label, Labels, ReadLabels
from edgefleet_protocol.ground_truth import Truth, unpack
from edgefleet_protocol.messages import Window
from tests.server.fleet.house import TurnedClock

NEW, OLD = "a" * 64, "b" * 64
HOUR = 3_600


class Device:
    """The keeper of one device on a clock that is turned, with one worker and a real log."""

    def __init__(self, folder: Path) -> None:
        self.paths = StatePaths(folder)
        self.clock = TurnedClock()
        self.due: list[tuple[float, Any]] = []
        self.sent: list[Any] = []
        self.finished: list[tuple[str, ...]] = []
        self.wrote_out = 0
        self.worker = SimpleNamespace(
            model="digits", lane="active", ref=SimpleNamespace(sha256=NEW, version="2.0.0"), send=self.sent.append
        )
        self.start()

    def start(self) -> None:
        """Start agentd."""
        self.due.clear()
        loop = SimpleNamespace(call_later=lambda s, run: self.due.append((self.clock.monotonic_s() + s, run)))
        deps = FeedbackDeps(self._write_out, self._worker_of, lambda *words: self.finished.append(words), lambda: None)
        self.keeper = FeedbackKeeper(cast("Any", loop), self.clock, self.paths, deps)

    def _write_out(self, done: Any) -> None:
        self.wrote_out += 1
        done(True)

    def _worker_of(self, model: str) -> Any:
        return self.worker if model == "digits" else None

    def answered(self, *rows: Row, sha256: str = NEW, version: str = "2.0.0", ago_s: int = 0) -> None:
        """Log answers."""
        log = PredictionLog(self.paths.predictions, 1 << 22, 0, 0.0)
        t0_ms = (int(self.clock.now().timestamp()) - ago_s) * 1_000
        log.add(pack_block(Block(1, "digits", version, sha256, "active", t0_ms, list(rows))), len(rows), 0.0)
        log.flush()

    def told(self, *labels: Label, unit: float = 1.0, task: str = "", refused: int = 0) -> None:
        """Let the worker tell labels."""
        message = Labels(items=list(labels), unit=unit, task=task, refused=refused)
        assert self.keeper.hear(cast("Any", self.worker), message)

    def wait(self, seconds: float = 60.0) -> None:
        """Let time pass."""
        until = self.clock.monotonic_s() + seconds
        while self.due:
            at, run = min(self.due, key=lambda one: one[0])
            if at > until:
                break
            self.due.remove((at, run))
            self.clock.turn(seconds=max(0.0, at - self.clock.monotonic_s()))
            run()
        self.clock.turn(seconds=max(0.0, until - self.clock.monotonic_s()))

    def windows(self) -> list[Window]:
        """Close the window, that of the active version among them."""
        t0 = int(self.clock.now().timestamp()) - 900
        own = Window(t0=t0, length_s=900, model="digits", lane="active", sha256=NEW, version="2.0.0", n=10)
        return self.keeper.told([own], t0, 900)

    def truth(self) -> Truth:
        """Return what the active version's window says."""
        (window,) = self.windows()
        return unpack(window.truth)

    def hour(self, ago_s: int = 0) -> int:
        """Return the hour of an answer that was given so long ago."""
        return (int(self.clock.now().timestamp()) - ago_s) // HOUR


def test_labels_count_once_for_the_answer_that_was_given(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, 3, 0.9), Row(0, "t2", 5, 1, 0.8), Row(0, "order-7", 5, 3, 0.7))
    hour = device.hour()
    device.told(Label("t1", 3), Label("t2", 3), Label("order-7", 3, None, "line-1", 0, {"scrap": 2.5}))
    device.wait()
    device.told(Label("t1", 4), Label("nobody", 1))
    device.wait()
    truth = device.truth()
    assert [(one.hour, one.segment, one.n, one.correct) for one in truth.parts] == [
        (hour, "", 2, 1),
        (hour, "line-1", 1, 1),
    ]
    assert [(one.label, one.answered, one.n) for one in truth.parts[0].cells] == [(3, 1, 1), (3, 3, 1)]
    assert truth.parts[1].figures["scrap"].total == 2_500
    assert (truth.unmatched, truth.late, truth.repeated) == (1, 0, 1)
    assert device.keeper.status()["digits"]["matched"] == 3
    assert device.truth() == Truth(), "told once"


def test_a_late_label_counts_for_the_version_and_the_hour_of_its_answer(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, 3, 0.9), sha256=OLD, version="1.0.0", ago_s=50 * HOUR)
    hour = device.hour(50 * HOUR)
    device.told(Label("t1", 3), Label("gone", 3, None, "", 1_000))
    device.wait()
    older, own = device.windows()
    assert (older.sha256, older.version, older.n) == (OLD, "1.0.0", 0)
    assert [(one.hour, one.correct) for one in unpack(older.truth).parts] == [(hour, 1)]
    assert (unpack(own.truth).unmatched, unpack(own.truth).late) == (1, 1)


def test_of_two_answers_with_one_key_the_newer_has_the_label_and_both_can(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "part", 5, 1, 0.9), ago_s=HOUR)
    device.told(Label("part", 1))
    device.wait()
    device.answered(Row(0, "part", 5, 2, 0.9))
    device.told(Label("part", 1))
    device.wait()
    truth = device.truth()
    assert sum(one.n for one in truth.parts) == 2
    assert sum(one.correct for one in truth.parts) == 1
    assert truth.repeated == 0


def test_after_a_restart_an_answer_is_still_there_and_is_not_counted_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, 3, 0.9), Row(0, "t2", 5, 3, 0.9))
    device.told(Label("t1", 3))
    device.keeper.close()  # it waited no second, and is counted all the same
    assert device.truth().parts[0].n == 1
    device.start()
    device.told(Label("t1", 3), Label("t2", 3))
    device.wait()
    truth = device.truth()
    assert (truth.parts[0].n, truth.repeated) == (1, 1)


def test_errors_of_numbers_are_counted_in_the_references_unit(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, -1, 21.5), Row(0, "t2", 5, -1, float("nan"), True), Row(0, "t3", 5, 2, 0.5))
    device.told(*(Label(key, -1, 20.0) for key in ("t1", "t2", "t3")), unit=0.5)
    device.wait()
    truth = device.truth()
    assert (truth.unit, truth.parts[0].numbers.total, truth.parts[0].numbers.n) == (0.5, 3 * 64, 1)
    assert device.keeper.status()["digits"]["misfit"] == 2


def test_errors_of_a_version_stay_in_its_unit_over_a_restart_with_another_version(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, -1, 21.5), Row(0, "t2", 5, -1, 21.5))
    for key, unit in (("t1", 0.5), ("t2", 2.0)):
        device.told(Label(key, -1, 20.0), unit=unit)
        device.wait()
        truth = device.truth()
        assert (truth.unit, truth.parts[0].numbers.total) == (0.5, 3 * 64), (
            "other units would replace these on the server"
        )
        device.keeper.close()
        device.start()


def test_figures_without_an_answer_count_for_what_serves(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.told(Label(segment="line-1", figures={"units_rejected": 3}))
    (part,) = device.truth().parts
    assert (part.segment, part.n, part.figures["units_rejected"].total) == ("line-1", 0, 3_000)
    assert device.wrote_out == 0, "nothing was looked for"


def test_figures_of_an_answer_count_in_its_hour_without_a_label(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "class", 5, 3, 0.9), Row(0, "number", 5, -1, 21.5), ago_s=5 * HOUR)
    hour = device.hour(5 * HOUR)
    device.told(*(Label(key, figures={"scrap": 2}) for key in ("class", "number")))
    device.wait()
    (part,) = device.truth().parts
    assert (part.hour, part.n, part.numbers.n, part.figures["scrap"].total) == (hour, 0, 0, 4_000)
    assert device.keeper.status()["digits"]["matched"] == 2


def test_figures_of_tomorrow_count_now(tmp_path: Path) -> None:
    device = Device(tmp_path)
    hour = device.hour()
    tomorrow = int(device.clock.now().timestamp()) + 24 * HOUR
    device.told(Label(figures={"scrap": 1}, at_s=tomorrow), Label(figures={"scrap": 1}, at_s=-5))
    assert [one.hour for one in device.truth().parts] == [hour]


def test_names_are_bounded_and_what_does_not_fit_a_window_waits() -> None:
    counts, lane = LabelCounts(), Lane("digits", "active", NEW, "2.0.0")
    for n in range(40):
        for hour in range(60):
            counts.figures(lane, Label(segment=f"s{n}", figures={f"k{n}": 1.0}, at_s=hour * HOUR), 60 * HOUR)
    parts, rounds = [], 0
    while windows := [one for one in counts.told([], 0, 900) if one.truth]:
        rounds += 1
        assert all(len(one.truth) <= 8 * 1024 for one in windows)
        parts += [part for one in windows for part in unpack(one.truth).parts]
    assert rounds > 1
    assert len({part.segment for part in parts}) == MAX_SEGMENTS  # "other" would have no figure: its names are too many
    assert sum(figure.n for part in parts for figure in part.figures.values()) == 16 * 60


def test_a_task_is_read_by_the_worker_and_says_how_its_labels_fared(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, 3, 0.9))
    items = [{"trace_id": "t1", "label": "three"}, {"trace_id": "t9", "label": "three"}, {"label": "three"}]
    device.keeper.begin_task(TaskRequest(id="t-1", kind="feedback", args={"model": "digits", "items": items}))
    (asked,) = device.sent
    assert isinstance(asked, ReadLabels)
    device.told(Label("t1", 3), Label("t9", 3), task=asked.task, refused=1)
    device.wait()
    words = "matched=1 unmatched=1 late=0 repeated=0 misfit=0 refused=1"
    assert device.finished == [("t-1", "done", "", words)]
    device.keeper.begin_task(TaskRequest(id="t-2", kind="feedback", args={"model": "other", "items": items}))
    assert device.finished[1][:3] == ("t-2", "failed", "feedback.no_model")
    device.keeper.begin_task(TaskRequest(id="t-3", kind="feedback", args={"model": "digits", "items": items}))
    device.wait(READ_S)
    assert device.finished[2][:3] == ("t-3", "failed", "feedback.unread")
    device.told(Label("t1", 3), task="t-3")
    assert len(device.finished) == 3


def test_labels_of_a_task_beyond_what_may_wait_end_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_WAITING", 0)
    device = Device(tmp_path)
    args = {"model": "digits", "items": [{"trace_id": "t1", "label": "three"}], "wide": True}
    device.keeper.begin_task(TaskRequest(id="t-1", kind="feedback", args=args))
    device.told(Label("t1", 3), Label("t2", 3), task="t-1")
    assert device.finished == [("t-1", "done", "", "matched=0 unmatched=2 late=0 repeated=0 misfit=0 refused=0")]
    assert device.truth() == Truth(), "other devices look for them, too"


def test_labels_of_a_search_in_progress_count_when_agentd_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLICE_S", 0.0)
    device = Device(tmp_path)
    device.answered(Row(0, "t1", 5, 3, 0.9))
    device.told(Label("t1", 3))
    ((_, look),) = device.due
    device.due.clear()
    look()
    assert device.due, "it has read a slice"
    device.keeper.close()
    assert device.truth().parts[0].n == 1
    device.wait()
    assert device.truth() == Truth(), "once"
    device.answered(Row(0, "t2", 5, 3, 0.9))
    device.told(Label("t2", 3))
    device.wait()
    assert device.truth().parts[0].n == 1


def test_a_long_log_is_read_in_slices(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for block in range(40):
        device.answered(*(Row(0, f"b{block}-{n}", 5, n % 10, 0.5) for n in range(50)), ago_s=40 - block)
    device.told(*(Label(f"b{block}-7", 7) for block in range(40)))
    device.wait()
    assert sum(one.correct for one in device.truth().parts) == 40
