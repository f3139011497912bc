"""kill -9 of the whole server between the commit of an event and its sending: nothing is lost, what comes twice has the same id."""

import os
import signal
import threading
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.events.model import NewEvent
from edgefleet_server.settings import load_settings
from tests.support.receivers import LOOPBACK, Got, receiving
from tests.support.servers import copy_server, server_process

EVENTS = 12


@pytest.mark.slow
def test_a_server_killed_while_it_sends_loses_nothing_and_repeats_with_the_same_id(tmp_path: Path) -> None:
    data = tmp_path / "data"
    token = copy_server(data)
    (data / "server.toml").write_text(f'webhook_networks = ["{LOOPBACK[0]}"]\nroles = ["api", "engine"]\n')
    parts = build_parts(load_settings(data), SystemClock())  # another process of the same database: it stores events
    stuck = threading.Event()

    def answer(_got: Got) -> int:
        if len(receiver.got) == 3:
            stuck.wait(60)  # taken, and never answered: the server dies before it knows
        return 204

    try:
        with receiving() as receiver:
            receiver.answer = answer
            with server_process(data, token) as first:
                with first.client() as http:
                    made = http.post("/api/v1/webhooks", json={"url": receiver.url, "types": ["edgefleet.rollout.*"]})
                    assert made.status_code == 201, made.text
                detail = {"from": "running", "to": "paused"}
                numbers = [
                    parts.fleet.feed.add([NewEvent("rollout", rollout="r-1", detail=detail)])[0] for _ in range(EVENTS)
                ]
                receiver.wait(lambda got: len(got) == 3)
                os.kill(first.process.pid, signal.SIGKILL)
                first.process.wait(30)
            stuck.set()
            more = parts.fleet.feed.add([NewEvent("rollout", rollout="r-1", detail=detail)])  # while no server runs
            with server_process(data, token):
                got = receiver.wait(lambda found: len({one.id for one in found}) == EVENTS + 1, 120)
        wanted = [f"evt-{number}" for number in [*numbers, *more]]
        ids = [one.id for one in got]
        assert list(dict.fromkeys(ids)) == wanted  # all of them, in their order
        assert ids.count(wanted[2]) == 2  # the one that was under way came again, under its id
        assert len(ids) == EVENTS + 2
        assert len({one.body for one in got if one.id == wanted[2]}) == 1
    finally:
        stuck.set()
        parts.db.dispose()
