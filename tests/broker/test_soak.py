"""The soak of `soak.py` at a small count, so that it stays true in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.broker import reload_soak
from tests.broker.soak import run
from tests.house.soak import SOAKS


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_sessions_survive_that_mosquitto_reads_its_files_again() -> None:
    report = reload_soak.main(SOAKS["broker-reloads"].in_ci, 0)
    assert report["ok"], report


@pytest.mark.slow
def test_nothing_is_lost_over_random_breaks(kind: BrokerKind, tmp_path: Path) -> None:
    report = run(kind, 60, 20261125, tmp_path)
    assert report["ok"], report
