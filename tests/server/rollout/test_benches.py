"""The benchmarks of rollouts run: their figures are for people, but a benchmark that has rotted measures nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import rollout, rollout_scale

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.support.postgres import shared_server


def test_the_benchmark_of_one_rollout_runs(tmp_path: Path) -> None:
    found = rollout._measure(f"sqlite:///{tmp_path / 'b.db'}", tmp_path, 20)
    assert {"create_s", "offered_per_s", "offer_ratio", "tick_nothing_new_ms"} <= found.keys()


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_the_benchmark_of_a_large_fleet_runs(tmp_path: Path) -> None:
    server = shared_server()
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    url = server.new_database()
    try:
        found = rollout_scale._one_large(url, tmp_path, 30)
        assert found["ended"] == "rolled_back"
        assert found["offered_per_s"] > 0
    finally:
        server.drop_database(url)


def test_the_benchmark_of_many_rollouts_runs(tmp_path: Path) -> None:
    server = shared_server()
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    url = server.new_database()
    try:
        found = rollout_scale._many(url, tmp_path, 3, 2)
        assert found["looks"] >= 9
    finally:
        server.drop_database(url)
