"""Who waited longest is next."""

from __future__ import annotations

import threading
import time

from edgefleet_server.db.database import FairLock
from tests.broker.client import eventually


def test_turns_go_to_whoever_waited_longest() -> None:
    turns = FairLock()
    served: list[int] = []

    def take(number: int) -> None:
        with turns.mine(10) as is_mine:
            assert is_mine
            served.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns.mine(0) as is_first:
        assert is_first
        for number, thread in enumerate(threads):
            thread.start()
            eventually(lambda want=number: len(turns._waiting) == want + 1, "one more waits")  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert served == [0, 1, 2, 3, 4]
    with turns.mine(0) as is_free:
        assert is_free


def test_who_waits_too_long_goes_on_without_and_takes_nobodys_turn() -> None:
    turns = FairLock()
    with turns.mine(0):
        with turns.mine(0.01) as came:
            assert not came
        late: list[bool] = []

        def wait() -> None:
            with turns.mine(10) as is_mine:
                late.append(is_mine)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: len(turns._waiting) == 1, "it waits")
        assert not late, "the one that gave up did not give away what it never had"
    thread.join()
    assert late == [True]


def test_a_busy_writer_gives_way_to_the_one_that_waits() -> None:
    turns = FairLock()
    stop, served = threading.Event(), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with turns.mine(10):
                time.sleep(0.01)

    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(20):
        with turns.mine(10) as is_mine:
            assert is_mine
            served.set()
    stop.set()
    thread.join()
    assert served.is_set()
