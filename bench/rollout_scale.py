"""Rollouts of a large fleet on PostgreSQL: how long one takes to make, how late many are looked at, how fast documents go out and back.

Prints one JSON object. All services are real, the database is a PostgreSQL of its own, the broker a mosquitto with mutual TLS: a document
counts as offered when the broker has acknowledged it. Engine and gateway share this process, as with `server start`, but where it says
apart: there the gateway is a process of its own, as with `--roles gateway`. Figures, with what they are held to:
- create_ms: one rollout over all devices (100 at 100,000 devices);
- first_offer_s: from its making to the first signed document; signed_per_s: documents a second until all are committed;
  offered_per_s: until all are at the broker (5,000); offered_apart_per_s: the same with a gateway of its own (5,000);
- back_s: an abort with rollback, until every device, online and answering at once, is confirmed to be back (60 at 100,000);
- lag_p99_s: of `--rollouts` rollouts that all begin at once, how late looks of `--replicas` processes at those that have begun were (2
  at 500), until all have begun and as many looks more; waiting_lag_p99_s: the same later, when all wait for their devices.
  all_begun_s: until each had had its first look, which comes behind those at others that have begun.
`…_cpu_…` is the same in processor time of the server's processes, without the database's: what is left of a figure when the machine is
busy (look_cpu_ms: of one look at a small rollout).
`within` says of each whether it holds at the size that was measured; a smaller size than the goal's proves nothing about it.

    python bench/rollout_scale.py [--devices 100000] [--rollouts 500] [--replicas 3]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import bindparam, update

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.rollout import _enrol as enrol  # noqa: E402
from tests.broker.conftest import Site  # noqa: E402
from tests.broker.pki import Authority  # noqa: E402
from tests.server.fleet.house import PROFILE, START, House  # noqa: E402
from tests.support.postgres import own_server  # noqa: E402

from edgefleet_protocol.ids import DeviceId, ModelName  # noqa: E402
from edgefleet_protocol.messages import ModelState, Phase, State  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.fleet.desired.model import SignedDesired  # noqa: E402
from edgefleet_server.fleet.tables import FleetDevice  # noqa: E402
from edgefleet_server.gateway.broker.model import BrokerKind  # noqa: E402
from edgefleet_server.gateway.mqtt import LinkHandlers, MqttLink  # noqa: E402
from edgefleet_server.gateway.outbound import Outbound  # noqa: E402
from edgefleet_server.process.memory import collect_seldom  # noqa: E402
from edgefleet_server.rollout.controller.controller import RolloutController  # noqa: E402
from edgefleet_server.rollout.service import RolloutService  # noqa: E402

GOALS = {"create_ms": 100.0, "offered_per_s": 5_000.0, "offered_apart_per_s": 5_000.0, "back_s": 60.0, "lag_p99_s": 2.0}
MOST_S = 3_600.0


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--rollouts", type=int, default=500)
    parser.add_argument("--replicas", type=int, default=3)
    args = parser.parse_args()
    collect_seldom()  # as every engine's process does
    result: dict[str, Any] = {"bench": "rollout_scale", "devices": args.devices, "rollouts": args.rollouts}
    with own_server() as server:
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            result |= _one_large(server.new_database(), Path(folder), args.devices)
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            result |= _apart(server.new_database(), Path(folder), args.devices)
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            result |= _many(server.new_database(), Path(folder), args.rollouts, args.replicas)
    result["goals"] = GOALS
    result["within"] = {
        name: result[name] >= goal if name.startswith("offered") else result[name] <= goal
        for name, goal in GOALS.items()
    }
    result["ok"] = all(result["within"].values())
    result["machine"] = {
        "cpus": os.cpu_count(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "arch": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=2))
    return 0


STAGES = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]


def _engine(house: House) -> tuple[RolloutService, RolloutController]:
    rollouts = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
    for version in ("1", "2"):
        house.release(f"m@{version}", bundles={PROFILE: version.encode() * 100})
    return rollouts, RolloutController(house.db, house.fleet, rollouts, house.clock, "bench")


def _one_large(url: str, folder: Path, devices: int) -> dict[str, Any]:
    house = House(url, folder / "house", _RunningClock())
    stack = ExitStack()
    try:
        rollouts, engine = _engine(house)
        ids = enrol(house, devices)
        sent: dict[DeviceId, int] = {}
        signed_at: list[float] = []
        house.fleet.desired.subscribe(lambda signed: _note(sent, signed))
        house.fleet.desired.subscribe(lambda _signed: signed_at.append(time.perf_counter()))
        broker = stack.enter_context(_broker(house, folder))
        began, cpu = time.perf_counter(), time.process_time()
        rollout = rollouts.create({"release": "m@2", "selector": "", "stages": STAGES}, "bench")
        create_s, create_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        while len(sent) < devices and time.perf_counter() - began < MOST_S:
            engine.tick(is_woken=True)
        signed_s = time.perf_counter() - began - create_s
        while broker.published < devices and time.perf_counter() - began < MOST_S:
            time.sleep(0.01)
        offer_s, offer_cpu_s = time.perf_counter() - began - create_s, time.process_time() - cpu - create_cpu_s
        _report(house, sent, ids, "2")
        engine.tick(is_woken=True)
        back_s, back_cpu_s, back_sent = _take_back(house, rollouts, engine, rollout)
        state = rollouts.reader.rollout(rollout).state
    finally:
        stack.close()
        house.db.dispose()
    return {
        "create_ms": round(create_s * 1000, 1),
        "create_cpu_ms": round(create_cpu_s * 1000, 1),
        "first_offer_s": round(signed_at[0] - began, 2),
        "signed_per_s": round(devices / signed_s, 1),
        "offered_per_s": round(devices / offer_s, 1),
        "offered_per_cpu_s": round(devices / offer_cpu_s, 1),
        "back_s": round(back_s, 1),
        "back_cpu_s": round(back_cpu_s, 1),
        "taken_back_per_s": round(back_sent / back_s, 1),
        "ended": state,
    }


def _apart(url: str, folder: Path, devices: int) -> dict[str, Any]:
    """Offer a release once more, while another process sends what this one signs."""
    clock = _RunningClock()
    house = House(url, folder / "house", clock)
    context = multiprocessing.get_context("spawn")
    published, ready, stop = context.Value("q", 0, lock=False), context.Event(), context.Event()
    try:
        rollouts, engine = _engine(house)
        enrol(house, devices)
        arguments = (url, folder, clock.began_s, published, ready, stop)
        gateway = context.Process(target=_gateway, args=arguments, daemon=True)
        gateway.start()
        ready.wait(timeout=60)
        signed: dict[DeviceId, int] = {}
        house.fleet.desired.subscribe(lambda documents: _note(signed, documents))
        began = time.perf_counter()
        rollouts.create({"release": "m@2", "selector": "", "stages": STAGES}, "bench")
        while len(signed) < devices and time.perf_counter() - began < MOST_S:
            engine.tick(is_woken=True)
        signed_s = time.perf_counter() - began
        while published.value < devices and time.perf_counter() - began < MOST_S:
            time.sleep(0.01)
        offer_s = time.perf_counter() - began
        stop.set()
        gateway.join(timeout=60)
    finally:
        house.db.dispose()
    return {"signed_apart_per_s": round(devices / signed_s, 1), "offered_apart_per_s": round(devices / offer_s, 1)}


def _gateway(url: str, folder: Path, began_s: float, published: Any, ready: Any, stop: Any) -> None:
    """Be the gateway of another process's engine: find what that signs, and say how much the broker has acknowledged."""
    collect_seldom()
    house = House(url, folder / "house", _RunningClock(began_s))
    (folder / "gateway").mkdir()
    with _broker(house, folder / "gateway") as sent:
        ready.set()
        while not stop.is_set():
            published.value = sent.published
            time.sleep(0.01)
    house.db.dispose()


class _RunningClock:
    """A clock that runs as time does and can be turned on besides. began_s: when it began, of a clock in another process."""

    def __init__(self, began_s: float | None = None) -> None:
        self.began_s = time.perf_counter() if began_s is None else began_s
        self._more = timedelta()

    def now(self) -> datetime:
        """Return the time."""
        return START + self._more + timedelta(seconds=time.perf_counter() - self.began_s)

    def monotonic_s(self) -> float:
        """Return seconds that only grow."""
        return time.perf_counter()

    def turn(self, **delta: float) -> None:
        """Move the time on."""
        self._more += timedelta(**delta)


class _Sent:
    """How many documents the broker has acknowledged."""

    def __init__(self, outbound: Outbound, link: MqttLink) -> None:
        self._outbound = outbound
        self._link = link

    @property
    def published(self) -> int:
        """Return how many there are by now; messages under way are not counted."""
        return self._outbound.published - self._link.unacked


@contextmanager
def _broker(house: House, folder: Path) -> Iterator[_Sent]:
    """Send each document that is signed to a broker, as the gateway does."""
    site = Site(Authority(folder / "pki"), folder, BrokerKind.MOSQUITTO)
    site.supervisor.start()
    handlers = LinkHandlers(lambda _topic, _payload, _receipt: None, lambda: outbound.send_everything(), lambda: None)  # noqa: PLW0108
    link = site.link("srv-main", handlers)
    outbound = Outbound(
        site.topics,
        house.fleet.documents,
        house.signing.repo_head,
        house.fleet.hold.envelope,
        lambda topic, payload, qos, retain: link.publish(topic, payload, qos=qos, retain=retain),
        house.clock,
    )
    stop = house.fleet.desired.subscribe(outbound.send_desired)
    outbound.start()
    link.start()
    try:
        while not link.is_up:
            time.sleep(0.05)
        yield _Sent(outbound, link)
    finally:
        stop()
        link.stop()
        outbound.stop()
        site.supervisor.stop()


def _note(sent: dict[DeviceId, int], signed: Sequence[SignedDesired]) -> None:
    sent.update((one.device, one.gen) for one in signed)


def _take_back(
    house: House, rollouts: RolloutService, engine: RolloutController, rollout: str
) -> tuple[float, float, int]:
    """Abort with a rollback; each device answers as soon as its document is there. Return seconds, those of the processor, documents."""
    sent: dict[DeviceId, int] = {}
    answered: set[DeviceId] = set()
    stop = house.fleet.desired.subscribe(lambda signed: _note(sent, signed))
    began, cpu = time.perf_counter(), time.process_time()
    rollouts.abort(rollout, "bench", "it is bad", rollback=True)
    answering_s = answering_cpu_s = 0.0
    while time.perf_counter() - began < MOST_S:
        engine.tick(is_woken=True)
        fresh = [device for device in sent if device not in answered]
        at, cpu_at = time.perf_counter(), time.process_time()
        _report(house, sent, fresh, "")
        answering_s += time.perf_counter() - at  # the devices' own words are not the server's time
        answering_cpu_s += time.process_time() - cpu_at
        answered.update(fresh)
        house.clock.turn(seconds=2)
        if rollouts.reader.rollout(rollout).state in ("rolled_back", "rollback_incomplete"):
            break
    stop()
    return time.perf_counter() - began - answering_s, time.process_time() - cpu - answering_cpu_s, len(sent)


def _report(house: House, gens: dict[DeviceId, int], ids: Sequence[DeviceId], version: str) -> None:
    """Write what devices report, in one statement: taking reports one by one is measured in `bench/rollout.py`."""
    wants = house.fleet.offers.wants(ids, ModelName("m"))
    rows = []
    for device in ids:
        want = wants.get(device)
        active = None if want is None else want.active
        is_on = bool(version) and active is not None
        said = ModelState(
            model="m",
            phase=Phase.COMMITTED if is_on else Phase.IDLE,
            active_target=active.target if is_on and active else "",
            active_sha256=active.sha256 if is_on and active else "",
            wanted_sha256=active.sha256 if is_on and active else "",
            attempt=1,
            gen=gens[device],
        )
        state = State(device=device, gen=gens[device], boot_id="b", seq=gens[device], ts=0, models=[said])
        plain = msgspec.to_builtins(state)
        rows.append({"one": device, "gen": gens[device], "reported": plain, "at": house.clock.now()})
    if not rows:
        return
    statement = (
        update(FleetDevice)
        .where(FleetDevice.id == bindparam("one"))  # type: ignore[arg-type]
        .values(
            reported_gen=bindparam("gen"),
            state_seq=bindparam("gen"),
            reported=bindparam("reported"),
            last_seen=bindparam("at"),
        )
    )
    with house.db.session() as session:
        session.connection().execute(statement, rows)


def _many(url: str, folder: Path, count: int, replicas: int) -> dict[str, Any]:
    """Make many small rollouts, let engine threads look at all of them for some rounds; return how late they did."""
    house = House(url, folder / "house", SystemClock())
    try:
        rollouts = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
        ids = enrol(house, count)
        with house.db.session() as session:
            rows = [{"one": one, "labels": {"n": str(place)}} for place, one in enumerate(ids)]
            session.connection().execute(
                update(FleetDevice).where(FleetDevice.id == bindparam("one")).values(labels=bindparam("labels")),  # type: ignore[arg-type]
                rows,
            )
        house.release("m@1", bundles={PROFILE: b"1" * 100})
        stages = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]
        for one in ids:
            rollouts.create({"release": "m@1", "selector": f"id={one}", "stages": stages}, "bench")
        looks, took_s, cpu_s = _looked_at(url, folder, replicas, count)
    finally:
        house.db.dispose()
    all_begun_s = max(one.at_s for one in looks if one.is_first)
    later = [one for one in looks if not one.is_first]  # the first look of each comes after all of them were made
    storm = sum(one.at_s <= all_begun_s for one in later) + count
    late, waiting = (sorted(one.late_s for one in part) for part in (later[:storm], later[storm:]))
    return {
        "looks": len(later),
        "looks_per_s": round(len(looks) / took_s, 1),
        "look_cpu_ms": round(1000 * cpu_s / len(looks), 2),
        "all_begun_s": round(all_begun_s, 2),
        "lag_p50_s": round(late[len(late) // 2], 3),
        "lag_p99_s": round(late[int(len(late) * 0.99)], 3),
        "waiting_lag_p99_s": round(waiting[int(len(waiting) * 0.99)], 3),
    }


@dataclass(frozen=True)
class _Look:
    """One look at a rollout. at_s: since the processes began."""

    late_s: float
    is_first: bool
    at_s: float


def _looked_at(url: str, folder: Path, replicas: int, count: int) -> tuple[list[_Look], float, float]:
    """Let processes look at so many rollouts; return the looks, the seconds, and those of the processor.

    They end after as many looks more as three at each, once each had its first one. Raises RuntimeError when that takes `MOST_S`.
    """
    context = multiprocessing.get_context("spawn")
    reports, stop, ready = context.Queue(), context.Event(), context.Barrier(replicas + 1)
    arguments = [(url, folder, f"bench-{number}", ready, stop, reports) for number in range(replicas)]
    engines = [context.Process(target=_replica, args=one, daemon=True) for one in arguments]
    for engine in engines:
        engine.start()
    ready.wait(timeout=60)
    looks: list[_Look] = []
    began, cpu_s, begun, more = time.perf_counter(), 0.0, 0, 0
    while begun < count or more < 3 * count:
        late_s, is_first = reports.get(timeout=60)
        looks.append(_Look(late_s, is_first, time.perf_counter() - began))
        begun, more = begun + is_first, more + (begun == count)
        if looks[-1].at_s > MOST_S:
            raise RuntimeError(f"of {count} rollouts {begun} have begun after {MOST_S:g} s")
    took_s = time.perf_counter() - began
    stop.set()
    ended = 0
    while ended < replicas:
        last = reports.get(timeout=60)
        if isinstance(last, float):
            cpu_s, ended = cpu_s + last, ended + 1
    for engine in engines:
        engine.join(timeout=60)
    return looks, took_s, cpu_s


def _replica(url: str, folder: Path, owner: str, ready: Any, stop: Any, reports: Any) -> None:
    """Be one replica's engine: tell of each look how late it was, and at last the seconds of the processor."""
    collect_seldom()
    house = House(url, folder / "house", SystemClock())
    rollouts = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
    engine = RolloutController(house.db, house.fleet, rollouts, house.clock, owner)
    engine.on_lag(lambda late_s, is_first: reports.put((late_s, is_first)))
    ready.wait(timeout=60)
    cpu = time.process_time()
    while not stop.is_set():
        if not engine.tick():
            time.sleep(0.05)
    reports.put(time.process_time() - cpu)
    house.db.dispose()


if __name__ == "__main__":
    raise SystemExit(main())
