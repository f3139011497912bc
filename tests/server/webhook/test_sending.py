"""Webhooks against real HTTP receivers, on SQLite and PostgreSQL."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.events.model import NewEvent
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.process.lifecycle.engine_work import build_webhook_sender
from edgefleet_server.webhook.engine import WebhookSender
from edgefleet_server.webhook.model import NewSecret
from tests.server.webhook.independent import hmac_sha256, is_signed
from tests.support.receivers import LOOPBACK, Got, receiving
from tests.support.servers import ApiHouse


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[ApiHouse]:
    """All services, which may call the loopback; a clock that stands."""
    made = ApiHouse(tmp_path / "server", database_url, webhook_networks=LOOPBACK)
    poster = HttpPoster(
        parse_networks(LOOPBACK), SystemClock()
    )  # how long a try takes is no matter of the clock that stands
    made.parts = replace(made.parts, poster=poster)
    yield made
    made.close()


def happen(house: ApiHouse, *rollouts: str, to: str = "paused") -> list[int]:
    """Let a rollout event happen for each name."""
    events = [
        NewEvent("rollout", rollout=one, detail={"from": "running", "to": to, "actor": "ann"}) for one in rollouts
    ]
    return house.parts.fleet.feed.add(events)


def webhook(house: ApiHouse, url: str, *types: str) -> NewSecret:
    return house.parts.webhooks.create("test", url, types, "ann")


@contextmanager
def lanes(house: ApiHouse, owner: str = "main") -> Iterator["Ticker"]:
    """A sender that is ticked by hand, and ended."""
    sender = build_webhook_sender(house.parts, owner, draw=lambda: 0.0)
    try:
        yield Ticker(sender)
    finally:
        sender.stop()


class Ticker:
    """Ticks a sender, and waits until its lanes are through."""

    def __init__(self, sender: WebhookSender) -> None:
        self.sender = sender

    def tick(self) -> int:
        """Open lanes and wait for their end."""
        opened = self.sender.tick()
        while True:
            self.sender._woken.wait(0.02)
            with self.sender._lock:
                if not self.sender._busy:
                    return opened


def log(house: ApiHouse, made: NewSecret, state: str | None = None) -> list[Any]:
    return house.parts.webhooks.deliveries(made.webhook.id, state=state, before=None, limit=500)[0]


def test_hmac_of_the_independent_check_is_that_of_rfc_4231() -> None:
    assert hmac_sha256(b"\x0b" * 20, b"Hi There").hex() == (
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    )


def test_an_event_arrives_as_a_signed_cloud_event(house: ApiHouse) -> None:
    with receiving() as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url, "edgefleet.rollout.*")
        [number] = happen(house, "r-1")
        house.parts.fleet.feed.add([NewEvent("enrolled", "d-1")])  # not chosen
        assert sender.tick() == 1
        [got] = receiver.got
    now = house.clock.now().timestamp()
    assert is_signed(made.secret, dict(got.headers), got.body, now)
    assert not is_signed(made.secret, dict(got.headers), got.body + b" ", now)
    assert not is_signed(made.secret, {**got.headers, "webhook-id": "evt-0"}, got.body, now)
    assert not is_signed(made.secret, dict(got.headers), got.body, now + 301)
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert got.json == {
        "specversion": "1.0",
        "id": f"evt-{number}",
        "source": "urn:edgefleet:default",
        "type": "edgefleet.rollout.paused",
        "subject": "r-1",
        "time": "2026-11-25T12:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "event": number,
            "kind": "rollout",
            "device": None,
            "model": None,
            "rollout": "r-1",
            "received_at": "2026-11-25T12:00:00Z",
            "detail": {"from": "running", "to": "paused", "actor": "ann"},
        },
    }
    assert got.id == got.json["id"]
    [told] = log(house, made)
    assert (told.state, told.attempts_made, told.status) == ("delivered", 1, 204)
    assert [one.status for one in house.parts.webhooks.delivery(made.webhook.id, told.id).attempts] == [204]


def test_what_is_rolled_back_is_never_sent(house: ApiHouse) -> None:
    with receiving() as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        with pytest.raises(RuntimeError, match="boom"), house.parts.db.session():  # noqa: PT012
            happen(house, "r-1")
            raise RuntimeError("boom")
        assert sender.tick() == 0
        assert receiver.got == []
        assert log(house, made) == []


def test_device_and_enrolment_events_go_out_too_and_duplicates_do_not(house: ApiHouse) -> None:
    from edgefleet_protocol.messages import Event, EventKind

    crash = Event(device="d-1", boot_id="b", seq=1, ts=0, kind=EventKind.CRASH, model="digits")
    with receiving() as receiver, lanes(house) as sender:
        webhook(house, receiver.url)
        assert [
            house.parts.fleet.receiver.take_events([crash, crash]),
            house.parts.fleet.receiver.take_events([crash]),
        ] == [1, 0]
        sender.tick()
        assert [one.json["type"] for one in receiver.got] == ["edgefleet.device.crash"]


def test_a_failure_is_tried_again_with_the_same_id_and_then_in_order(house: ApiHouse) -> None:
    answers = iter([500, 500, 204, 204, 204])
    with receiving(lambda _got: next(answers)) as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        first, second = happen(house, "r-1", "r-1")
        sender.tick()
        assert [one.id for one in receiver.got] == [f"evt-{first}"]  # the second waits for the first
        assert sender.tick() == 0
        house.clock.turn(seconds=5)
        sender.tick()
        house.clock.turn(seconds=5)
        assert sender.tick() == 0  # the back-off doubled
        house.clock.turn(seconds=5)
        sender.tick()
        assert [one.id for one in receiver.got] == [f"evt-{first}"] * 3 + [f"evt-{second}"]
    [later, earlier] = log(house, made)
    assert [(one.state, one.attempts_made) for one in (earlier, later)] == [("delivered", 3), ("delivered", 1)]
    tries = house.parts.webhooks.delivery(made.webhook.id, earlier.id).attempts
    assert [one.status for one in tries] == [500, 500, 204]
    assert tries[0].error == "the receiver answered 500"


def test_one_rollout_that_is_refused_does_not_hold_up_another(house: ApiHouse) -> None:
    def answer(got: Got) -> int:
        return 422 if got.json["subject"] == "r-bad" else 204

    with receiving(answer) as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        happen(house, "r-bad", "r-good", "r-bad", "r-good")
        sender.tick()
        assert [one.json["subject"] for one in receiver.got] == ["r-bad", "r-good", "r-good"]
        assert sorted(one.state for one in log(house, made)) == ["delivered", "delivered", "pending", "pending"]


def test_after_its_time_a_delivery_is_dead_and_can_be_sent_again_by_hand(house: ApiHouse) -> None:
    answers = [500]
    with receiving(lambda _got: answers[0]) as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        happen(house, "r-1")
        while log(house, made, "pending"):
            house.clock.turn(hours=1)
            sender.tick()
        [dead] = log(house, made)
        assert dead.state == "dead"
        assert dead.error == "the receiver answered 500; its time is over"
        assert house.clock.now() - dead.created_at == timedelta(hours=24)
        assert house.parts.webhooks.webhook(made.webhook.id).dead == 1
        assert sender.tick() == 0
        answers[0] = 200
        again = house.parts.webhooks.redeliver(made.webhook.id, dead.id)
        assert (again.state, again.message_id) == ("pending", dead.message_id)
        sender.tick()
        assert len({one.id for one in receiver.got}) == 1
        assert log(house, made)[0].state == "delivered"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(house: ApiHouse, status: int) -> None:
    with receiving() as elsewhere, lanes(house) as sender, receiving() as receiver:
        receiver.answer = lambda _got: (status, {"location": elsewhere.url}, b"")
        made = webhook(house, receiver.url)
        happen(house, "r-1")
        sender.tick()
        assert elsewhere.got == []
        assert "redirects are not followed" in log(house, made)[0].error


def test_who_answers_gone_is_switched_off(house: ApiHouse) -> None:
    with receiving(lambda _got: 410) as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        happen(house, "r-1", "r-2")
        sender.tick()
        happen(house, "r-3")
        assert sender.tick() == 0
        assert len(receiver.got) == 1
        view = house.parts.webhooks.webhook(made.webhook.id)
        assert (view.is_enabled, view.pending, view.dead) == (False, 0, 2)
        client = house.client(Role.ADMIN)
        assert client.post(f"/api/v1/webhooks/{made.webhook.id}:ping").json()["code"] == "webhook.disabled_conflict"


def test_a_busy_receiver_says_when_and_nothing_comes_before(house: ApiHouse) -> None:
    answers = iter([(429, {"retry-after": "120"}, b""), (204, {}, b""), (204, {}, b"")])
    with receiving(lambda _got: next(answers)) as receiver, lanes(house) as sender:
        made = webhook(house, receiver.url)
        happen(house, "r-1", "r-2")
        sender.tick()
        assert len(receiver.got) == 1  # the other rollout waits too
        house.clock.turn(seconds=119)
        assert sender.tick() == 0
        assert house.parts.webhooks.webhook(made.webhook.id).held_until is not None
        house.clock.turn(seconds=1)
        sender.tick()
        assert len(receiver.got) == 3


def test_a_receiver_that_is_away_is_held_as_a_whole_and_a_ping_goes_anyway(house: ApiHouse) -> None:
    with receiving() as receiver:
        made = webhook(house, receiver.url)
    with lanes(house) as sender:
        happen(house, "r-1", "r-2", "r-3")
        sender.tick()
        assert sum(one.attempts_made for one in log(house, made)) == 1
        ping = house.parts.webhooks.ping(made.webhook.id)
        assert sender.tick() == 1
        tried = house.parts.webhooks.delivery(made.webhook.id, ping.id)
        assert tried.attempts_made == 0 or tried.status is None
        assert log(house, made, "delivered") == []


def test_a_slow_receiver_does_not_delay_another(house: ApiHouse) -> None:
    go = threading.Event()

    def answer(_got: Got) -> int:
        go.wait(30)
        return 204

    with receiving(answer) as slow, receiving() as quick:
        webhook(house, slow.url)
        webhook(house, quick.url)
        sender = build_webhook_sender(house.parts, "main")
        sender.start()
        try:
            happen(house, "r-1", "r-2")
            assert len(quick.wait(lambda got: len(got) == 2)) == 2
            assert len(slow.got) <= 1  # it has not answered its first one yet
            go.set()
            slow.wait(lambda got: len(got) == 2)
        finally:
            go.set()
            sender.stop()


def test_a_receiver_that_never_ends_its_answer_is_cut_off(tmp_path: Path, database_url: str) -> None:
    import socket

    house = ApiHouse(tmp_path / "server", database_url, SystemClock(), webhook_networks=LOOPBACK, webhook_timeout_s=0.5)
    drips = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
                while not drips.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        made = webhook(house, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        with lanes(house) as sender:
            happen(house, "r-1")
            sender.tick()
        drips.set()
        thread.join(10)
    [one] = log(house, made)
    assert (one.state, one.status) == ("pending", None)
    assert "no answer within 0.5 s" in one.error
    house.close()


def test_two_processes_send_each_event_once_and_in_order(house: ApiHouse) -> None:
    with receiving() as receiver, lanes(house, "a") as one, lanes(house, "b") as two:
        webhook(house, receiver.url)
        numbers = happen(house, *(f"r-{n % 3}" for n in range(60)))
        threads = [threading.Thread(target=side.tick) for side in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one.tick()
        assert [got.id for got in receiver.got] == [f"evt-{number}" for number in numbers]


def test_who_lost_its_claim_writes_nothing(house: ApiHouse) -> None:
    """A lane that was away for longer than its lease: another process took over, and what it sent stands."""
    with receiving() as receiver, lanes(house, "b") as other:

        def answer(got: Got) -> int:
            if len(receiver.got) == 1:
                house.clock.turn(seconds=61)
                other.tick()
            return 204

        receiver.answer = answer
        made = webhook(house, receiver.url)
        happen(house, "r-1")
        with lanes(house, "a") as sender:
            sender.tick()
        assert [got.id for got in receiver.got] == [receiver.got[0].id] * 2
        [told] = log(house, made)
        assert (told.state, told.attempts_made) == ("delivered", 1)


def test_during_the_overlap_both_secrets_sign_and_then_only_the_new_one(house: ApiHouse) -> None:
    with receiving() as receiver, lanes(house) as sender:
        old = webhook(house, receiver.url)
        new = house.parts.webhooks.rotate(old.webhook.id, timedelta(hours=1))
        assert new.secret != old.secret
        for _ in range(2):
            happen(house, "r-1")
            sender.tick()
            house.clock.turn(hours=1)
        during, after = receiver.got
    at = [int(got.headers["webhook-timestamp"]) for got in (during, after)]
    assert [is_signed(secret, dict(during.headers), during.body, at[0]) for secret in (old.secret, new.secret)] == [
        True,
        True,
    ]
    assert [is_signed(secret, dict(after.headers), after.body, at[1]) for secret in (old.secret, new.secret)] == [
        False,
        True,
    ]
    assert len(house.parts.webhooks.webhook(old.webhook.id).secrets) == 1
    third = house.parts.webhooks.rotate(old.webhook.id, timedelta())
    assert len(third.webhook.secrets) == 1


def test_deleted_webhooks_and_old_deliveries_leave_nothing(house: ApiHouse) -> None:
    from sqlalchemy import func, select

    from edgefleet_server.webhook.tables import WebhookAttempt, WebhookDelivery, WebhookSecret

    def left() -> list[int]:
        with house.parts.db.read() as session:
            tables = (WebhookDelivery, WebhookAttempt, WebhookSecret)
            return [session.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

    with receiving() as receiver, lanes(house) as sender:
        kept, gone = webhook(house, receiver.url), webhook(house, receiver.url)
        happen(house, "r-1")
        sender.tick()
        assert left() == [2, 2, 2]
        house.parts.webhooks.delete(gone.webhook.id)
        assert left() == [1, 1, 1]
        house.clock.turn(days=31)
        happen(house, "r-1")
        assert house.parts.webhooks.prune() == 1
        assert left() == [1, 0, 1]
        assert [one.state for one in log(house, kept)] == ["pending"]
