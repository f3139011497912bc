"""What the outbox lost is told once, by class, when somebody can hear it."""

from pathlib import Path

from edgefleet_agent.connection.outbox import Kind, Outbox
from edgefleet_agent.reporting.reports import Reports
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, EventKind, SystemFigures, decode
from tests.agent.test_outbox import file_of, outbox, payload
from tests.server.fleet.house import TurnedClock


def reports(box: Outbox) -> Reports:
    """Return what a device tells through this outbox."""
    return Reports(DeviceId("d-1"), "boot", TurnedClock(), box, lambda: None)


def told(box: Outbox) -> list[Event]:
    """Return the losses that wait to be told."""
    events = [decode(Event, one.payload) for one in box.due(0.0, 100, (Kind.EVENT,))]
    return [event for event in events if event.kind is EventKind.OUTBOX_DROPPED]


def lose(box: Outbox, n: int, first: int = 1) -> None:
    """Fill an outbox with telemetry that cannot be added up until `n` messages were dropped."""
    before = box.dropped_by[Kind.TELEMETRY]
    seq = first
    while box.dropped_by[Kind.TELEMETRY] < before + n:
        box.add(Kind.TELEMETRY, "old", seq, bytes([seq % 256]) * 20_000)
        box.spill(10**6 * (seq + 1))
        seq += 1


def test_what_was_given_up_is_told_once_with_its_class(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=200_000)
    said = reports(box)
    said.telemetry([], SystemFigures())
    assert told(box) == [], "nothing was lost"
    lose(box, 3)
    lost = box.unreported_losses()
    said.telemetry([], SystemFigures())
    (event,) = told(box)
    assert event.detail == {"dropped": {"telemetry": lost["telemetry"]}, "merged": 0}
    assert lost["telemetry"] >= 3
    assert (event.code, event.reason) == (
        "outbox.dropped",
        f"given up for want of room: {lost['telemetry']} of class telemetry",
    )
    said.telemetry([], SystemFigures())
    assert len(told(box)) == 1


def test_nothing_is_added_to_a_queue_that_nobody_empties(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=200_000)
    said = reports(box)
    said.boot()
    lose(box, 2)
    said.telemetry([], SystemFigures())
    assert told(box) == [], "an event waits already: nobody hears"
    first = box.unreported_losses()["telemetry"]
    lose(box, 2, first=10_000)
    box.ack(Kind.EVENT, "boot", [1])
    said.telemetry([], SystemFigures())
    (event,) = told(box)
    assert event.detail["dropped"]["telemetry"] >= first + 2, "told together"


def test_what_was_only_added_up_is_said_so_and_told_over_a_restart_no_second_time(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=60_000)
    seq = 1
    while box.merged == 0:
        box.add(Kind.TELEMETRY, "old", seq, payload(seq))
        box.spill(10**6 * (seq + 1))
        seq += 1
    assert box.dropped == 0
    merged = box.unreported_losses()["merged"]
    reports(box).telemetry([], SystemFigures())
    (event,) = told(box)
    assert (event.code, event.detail["merged"]) == ("outbox.merged", merged)
    assert str(merged) in event.reason
    box.ack(Kind.EVENT, "boot", [event.seq])
    box.close()
    again = outbox(tmp_path, cap=60_000)
    reports(again).telemetry([], SystemFigures())
    assert told(again) == []
    again.close()


def test_a_damaged_queue_is_told(tmp_path: Path) -> None:
    outbox(tmp_path).close()
    file_of(tmp_path).write_bytes(b"no database" * 1_000)
    box = outbox(tmp_path)
    assert box.unreported_losses() == {"queue": 1}
    reports(box).telemetry([], SystemFigures())
    assert told(box)[0].detail == {"dropped": {"queue": 1}, "merged": 0}
