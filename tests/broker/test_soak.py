"""The soak of `soak.py` at a small count, so that it stays true in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_server.gateway.broker.model import BrokerKind
from tests.broker.soak import run


@pytest.mark.slow
def test_nothing_is_lost_over_random_breaks(kind: BrokerKind, tmp_path: Path) -> None:
    report = run(kind, 60, 20261125, tmp_path)
    assert report["ok"], report
