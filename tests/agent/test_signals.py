"""Signals go from a real worker through a real agent to the server, exactly, and not with every window."""

import time
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace

import numpy as np

from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.drift.model_drift import ModelDrift, noted
from edgefleet_agent.reporting.window import Sums, signals_every_s
from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.drift.detector import BLOCK_S, DAY_OF_BLOCKS
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, pack, unpack
from edgefleet_protocol.drift.reference import basis_of
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_runtime.port import load
from edgefleet_runtime.signals import counted as counted_by
from edgefleet_runtime.signals import signal_plan, signal_values
from edgefleet_server.telemetry.signals import store
from edgefleet_server.telemetry.signals.model import Scale
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_signals import REFERENCE, WITH_REFERENCE, expected, rows
from tests.server.gateway.conftest import Site

BASIS = b"12345678"


def stored(agent: Agent, sha256: str) -> list[SignalSums]:
    """Return what the server has counted of a device by the bundle's own bins."""
    house = agent.site.house
    now, day = house.clock.now(), timedelta(days=1)
    with house.db.session() as session:
        where = ([sha256], basis_of(REFERENCE).hex(), Scale.DAY.seconds, now - day, now + day, [agent.id])
        parts = [unpack(signals) for _, _, _, signals in store.buckets_of(session, *where)]
    return merged_windows(parts) if parts else []


def test_what_a_worker_counts_comes_to_the_server(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "1"}
    agent.start()
    data = bundle_bytes(classifier_onnx(), extra=WITH_REFERENCE)
    deploy(site, "1.0.0", data)
    agent.wait("committed", "1.0.0")
    x = rows(60)
    for row in x:
        agent.infer(x=[float(value) for value in row])
    wanted = expected(x)
    assert eventually(lambda: stored(agent, sha256_hex(data)) == wanted), (stored(agent, sha256_hex(data)), wanted)


def test_a_drift_is_told_and_what_was_counted_survives_a_stop(site: Site, agent: Agent) -> None:
    agent.start()
    data = bundle_bytes(classifier_onnx(), extra=WITH_REFERENCE)
    deploy(site, "1.0.0", data)
    agent.wait("committed", "1.0.0")
    assert eventually(lambda: agent.status().get("drift", {}).get("digits", {}).get("signals") == 6)
    assert "drift: 6 signals, learns for a day how they vary" in agent.command("status").stdout
    x = rows(25)
    for row in x:
        agent.infer(x=[float(value) for value in row])
    agent.stop()
    assert stored(agent, sha256_hex(data)) == []
    [file] = (agent.state / "drift").iterdir()
    known = read_record(ModelDrift, file)
    assert known is not None
    write_record(file, after_a_day_of_shifted_answers(known, time.time()))
    agent.start()
    event = eventually(lambda: next((one for one in agent.events() if one.kind == "drift"), None))
    detail = event.detail["detail"]
    assert (detail["signal"], detail["scale"], detail["lane"]) == ("x.2", "5m", "active")
    assert abs(detail["shift_z"] - 1.0) < 0.2
    assert eventually(lambda: [one["signal"] for one in agent.status()["drift"]["digits"]["drifting"]] == ["x.2"])
    assert "drift: x.2 since " in agent.command("status").stdout
    assert eventually(lambda: stored(agent, sha256_hex(data)) == expected(x)), "the open window of the run before"
    assert eventually(lambda: site.house.fleet.reader.device(agent.id).facts.get("drift") == {"digits": ["x.2"]})


def after_a_day_of_shifted_answers(known: ModelDrift, now_s: float) -> ModelDrift:
    """Return the state after a day of usual answers, with one signal moved in the block that is still open.

    By 0.25: the mean of two statistics gives a move of 0.2 in 300 answers a chance of 10^-6.91, and one must be below 10^-6.96.
    """
    model, draw = load("ort", classifier_onnx()), np.random.default_rng(4)
    plan = signal_plan(REFERENCE, model.inputs, model.outputs)
    begin = int(now_s // BLOCK_S - DAY_OF_BLOCKS - 2) * BLOCK_S
    for number in range(DAY_OF_BLOCKS + 1):
        x = draw.random((300, 4)).astype(np.float32)
        if number == DAY_OF_BLOCKS:
            x[:, 2] += 0.25
        answers = model.run({"x": x})
        classes = np.bincount(answers["y"].argmax(1), minlength=3).tolist()
        sums = counted_by(signal_values({"x": x}, answers, plan), plan)
        known, _ = noted(known, basis_of(REFERENCE), sums, classes, begin + number * BLOCK_S + 9.0)
    return known


def counted(n: int, basis: bytes = BASIS) -> Stats:
    sums = SignalSums((n, 0), total=n, squares=64 * n)
    return Stats(n=n, latency=LatencySketch().packed(), basis=basis, signals=pack([sums]))


def told(counts: Sequence[int], length_s: int) -> list[tuple[int, int]]:
    """Return (answers, seconds) of the signals in windows of this length, one after the other; so many answers in each."""
    worker, sums, found = SimpleNamespace(cpu_s=0.0), Sums("a" * 64, "1"), []
    for n in counts:
        if n:
            sums.add(counted(n), worker)
        window = sums.closed("m", "active", 0, length_s, signals_every_s(length_s))
        found.append((sum(one.n for one in unpack(window.signals)), window.signals_s))
        sums = sums.following("a" * 64, "1")
    return found


def test_signals_come_with_one_window_an_hour_and_cover_the_time_since() -> None:
    assert told([10, 20, 40, 80, 160, 320, 0, 0, 0, 0, 0, 0], 900) == [
        *[(0, 0)] * 3, (150, 3_600),
        *[(0, 0)] * 3, (480, 3_600),
        *[(0, 0)] * 4,
    ]  # fmt: skip
    assert told([30, 20, 0, 40], 60) == [(30, 60), (20, 60), (0, 0), (40, 60)]
    assert told([10] * 12, 3_600) == [(0, 0)] * 5 + [(60, 21_600)] + [(0, 0)] * 5 + [(60, 21_600)]


def test_signals_of_few_answers_wait_for_more() -> None:
    assert told([1, 0, 18, 1, 5], 60) == [(0, 0), (0, 0), (0, 0), (20, 240), (0, 0)]


def test_what_waits_for_its_hour_is_told_at_once_when_windows_become_short() -> None:
    worker, sums = SimpleNamespace(cpu_s=0.0), Sums("a" * 64, "1")
    sums.add(counted(70), worker)
    assert sums.closed("m", "active", 0, 900, 3_600).signals == b""
    sums = sums.following("a" * 64, "1")
    sums.add(counted(2), worker)
    window = sums.closed("m", "active", 900, 60, 0)
    assert (unpack(window.signals)[0].n, window.signals_s, window.basis) == (72, 960, BASIS)


def test_another_version_or_other_bins_begin_again() -> None:
    worker, sums = SimpleNamespace(cpu_s=0.0), Sums("a" * 64, "1")
    sums.add(counted(70), worker)
    assert sums.following("b" * 64, "2").closed("m", "active", 0, 60).signals == b""
    sums.add(counted(30, b"learned!"), worker)
    window = sums.closed("m", "active", 0, 60)
    assert (window.basis, unpack(window.signals)[0].n) == (b"learned!", 30)


def test_signals_that_nobody_counted_are_left_out() -> None:
    sums = Sums("a" * 64, "1")
    sums.add(Stats(n=4, latency=LatencySketch().packed(), basis=BASIS, signals=b"\1\377"), SimpleNamespace(cpu_s=0.0))
    window = sums.closed("m", "active", 0, 60)
    assert (window.n, window.signals, window.basis) == (4, b"", b"")
