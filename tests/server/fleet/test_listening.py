"""Who is told that something was reported, and when."""

from typing import Any

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import ModelState, Phase, Presence, State
from tests.server.fleet.house import PROFILE, House


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


class Reporter:
    """A device that reports, and how often listeners were told."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.id: DeviceId = house.device().id
        self.told = 0
        self.seq = 0
        self.stop = house.fleet.receiver.news.subscribe(self._count)

    def _count(self) -> None:
        self.told += 1

    def rings(self, **model: Any) -> bool:
        """Report one model; return whether listeners were told."""
        self.seq += 1
        gen = model.pop("gen", 1)
        said = ModelState(model="digits", **{"phase": Phase.DOWNLOADING, **model})
        before = self.told
        state = State(device=self.id, gen=gen, boot_id="b", seq=self.seq, ts=self.seq, models=[said])
        self.house.fleet.receiver.take_state(self.id, state)
        return self.told > before

    def rings_for_presence(self, on: bool, conn_id: str = "c") -> bool:
        """Come or go; return whether listeners were told."""
        before = self.told
        self.house.fleet.receiver.take_presence(self.id, Presence(on=on, conn_id=conn_id, boot_id="b", ts=0))
        return self.told > before


def test_what_is_new_is_told_and_progress_is_not(house: House) -> None:
    reporter = Reporter(house)
    assert reporter.rings(progress_pct=1)
    assert not reporter.rings(progress_pct=90)
    assert reporter.rings(phase=Phase.VERIFYING)
    assert not reporter.rings(phase=Phase.VERIFYING)
    assert reporter.rings(phase=Phase.COMMITTED, active_target=f"digits/1.0.0/{PROFILE}.bundle")
    assert reporter.rings(phase=Phase.COMMITTED, active_target=f"digits/1.1.0/{PROFILE}.bundle")
    assert reporter.rings(phase=Phase.COMMITTED, active_target=f"digits/1.1.0/{PROFILE}.bundle", gen=2)
    reporter.stop()
    assert not reporter.rings()


def test_presence_is_told_when_it_changes(house: House) -> None:
    reporter = Reporter(house)
    assert reporter.rings_for_presence(True)
    assert not reporter.rings_for_presence(True)
    assert not reporter.rings_for_presence(True, "c2")
    assert not reporter.rings_for_presence(False, "c")  # of an older connection
    assert reporter.rings_for_presence(False, "c2")


def test_a_revocation_is_told(house: House) -> None:
    reporter = Reporter(house)
    house.fleet.revocation.revoke(reporter.id)
    assert reporter.told == 1
    house.fleet.revocation.revoke(reporter.id)
    assert (reporter.told, reporter.rings()) == (1, False)


def test_once_a_commit_and_never_after_a_rollback(house: House) -> None:
    reporter, other = Reporter(house), Reporter(house)
    with house.db.session():
        reporter.rings_for_presence(True)
        other.rings_for_presence(True)
        assert reporter.told == 0
    assert reporter.told == 1

    def fail() -> None:
        with house.db.session():
            reporter.rings_for_presence(False)
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        fail()
    assert reporter.told == 1
