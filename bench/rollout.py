"""The engine of rollouts: how fast it makes a rollout, offers it, reads what devices report and decides.

Prints one JSON object. A fleet of N devices of one profile in one database (SQLite, and PostgreSQL where installed), all
services real, no broker. Figures: seconds to create a rollout over all of them; devices offered a second (each is one signed
document, one row, one event); milliseconds of a tick in which every device has reported, and of one in which nothing is new;
microseconds of one decision with a warm cache and with a cold one. The alternative that a user would write first, one
transaction a device, is measured in the same run: `offer_ratio` is how many times faster the batch is.

    python bench/rollout.py [--devices 2000] [--database sqlite|postgresql|all]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.fleet.house import PROFILE, START, House, TurnedClock  # noqa: E402
from tests.support import databases  # noqa: E402
from tests.support.postgres import binaries  # noqa: E402

from edgefleet_protocol.desired import Ref  # noqa: E402
from edgefleet_protocol.ids import DeviceId, ModelName  # noqa: E402
from edgefleet_protocol.messages import ModelState, Phase, State  # noqa: E402
from edgefleet_server.fleet.desired.model import ModelChange  # noqa: E402
from edgefleet_server.fleet.tables import FleetDevice  # noqa: E402
from edgefleet_server.rollout.analysis import decide  # noqa: E402
from edgefleet_server.rollout.analysis.model import Counts, Facts, Rule  # noqa: E402
from edgefleet_server.rollout.controller.controller import RolloutController  # noqa: E402
from edgefleet_server.rollout.failure_ratio import _log_e  # noqa: E402
from edgefleet_server.rollout.service import RolloutService  # noqa: E402

NAIVE_DEVICES = 200


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "all"], default="all")
    args = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if args.database == "all" else [args.database]
    if binaries() is None and "postgresql" in kinds:
        kinds.remove("postgresql")
    result: dict[str, Any] = {"bench": "rollout", "ok": True, "n": args.devices}
    for kind in kinds:
        with (
            tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder,
            databases.new(kind, Path(folder) / "bench.db") as url,
        ):
            result[kind] = _measure(url, Path(folder), args.devices)
    result["decide"] = _decisions()
    result["machine"] = {"cpus": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()}
    print(json.dumps(result, indent=2))
    return 0


def _measure(url: str, folder: Path, devices: int) -> dict[str, float]:
    house = House(url, folder / "house", TurnedClock())
    try:
        rollouts = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
        engine = RolloutController(house.db, house.fleet, rollouts, house.clock, "bench")
        house.release("m@1", bundles={PROFILE: b"one" * 100})
        ids = _enrol(house, devices)
        spec = {"release": "m@1", "selector": "", "stages": [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]}
        create_s, rollout_id = _timed(lambda: rollouts.create(spec, "bench"))
        offer_s, _ = _timed(lambda: _offer_all(engine, house, devices))
        naive_s = _naive(house, ids[:NAIVE_DEVICES])
        report_s, _ = _timed(lambda: _report_all(house, ids))
        heard_s, _ = _timed(lambda: engine.tick(is_woken=True))
        idle_s, _ = _timed(lambda: engine.tick(is_woken=True))
        counts = rollouts.reader.rollout(rollout_id).counts
        assert counts.exposed == devices, counts
    finally:
        house.db.dispose()
    batch_per_s, naive_per_s = devices / offer_s, min(devices, NAIVE_DEVICES) / naive_s
    return {
        "create_s": round(create_s, 4),
        "offered_per_s": round(batch_per_s, 1),
        "one_by_one_per_s": round(naive_per_s, 1),
        "offer_ratio": round(batch_per_s / naive_per_s, 2),
        "reports_taken_per_s": round(devices / report_s, 1),
        "tick_all_reported_ms": round(heard_s * 1000, 1),
        "tick_nothing_new_ms": round(idle_s * 1000, 1),
    }


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result


def _enrol(house: House, devices: int) -> list[DeviceId]:
    ids = [DeviceId(f"d-{number:06}") for number in range(devices)]
    row = {
        "profile": PROFILE, "arch": "x86_64", "public_key": "", "labels": {}, "facts": {}, "enrolled_at": START,
        "cert_not_after": START + timedelta(days=90), "conn_id": "", "boot_id": "", "state_seq": 0, "reported_gen": 0,
        "is_online": True,
    }  # fmt: skip
    known = {column.name for column in FleetDevice.__table__.columns}  # type: ignore[attr-defined]
    with house.db.session() as session:
        rows = [{key: value for key, value in {**row, "id": one}.items() if key in known} for one in ids]
        session.execute(insert(FleetDevice), rows)
    return ids


def _offer_all(engine: RolloutController, house: House, devices: int) -> None:
    """Tick until everybody was offered it."""
    sent: set[DeviceId] = set()
    stop = house.fleet.desired.subscribe(lambda signed: sent.update(one.device for one in signed))
    while len(sent) < devices:
        engine.tick(is_woken=True)
    stop()


def _naive(house: House, ids: list[DeviceId]) -> float:
    """Sign one document a transaction, as a loop over devices would."""
    began = time.perf_counter()
    for number, device in enumerate(ids):
        ref = Ref(target=f"x/{number}/p.bundle", sha256="0" * 64, length=1)
        house.fleet.desired.set_models([ModelChange(device, ModelName("x"), ref)])
    return time.perf_counter() - began


def _report_all(house: House, ids: list[DeviceId]) -> None:
    for device, want in house.fleet.offers.wants(ids, ModelName("m")).items():
        assert want.active is not None
        said = ModelState(
            model="m",
            phase=Phase.COMMITTED,
            active_target=want.active.target,
            active_sha256=want.active.sha256,
            wanted_sha256=want.active.sha256,
            attempt=want.active.attempt,
            gen=want.gen,
        )
        house.fleet.receiver.take_state(
            device, State(device=device, gen=want.gen, boot_id="b", seq=1, ts=0, models=[said])
        )


def _decisions() -> dict[str, float]:
    facts = Facts(
        stage=0,
        stratum=PROFILE,
        population=2000,
        counts=Counts(members=500, exposed=500, pending=100, healthy=398, failed=2),
        failures={"internal": 2},
        rule=Rule.EVIDENCE,
        pooled_exposed=500,
        pooled_failed=2,
        stage_members=500,
        stage_tried=500,
    )
    decide.decide(facts)
    warm_s, _ = _timed(lambda: [decide.decide(facts) for _ in range(1000)])
    cold_s = 0.0
    for _ in range(50):
        _log_e.cache_clear()
        one_s, _ = _timed(lambda: decide.decide(facts))
        cold_s += one_s
    return {"warm_us": round(warm_s * 1000, 1), "cold_us": round(cold_s / 50 * 1e6, 1)}


if __name__ == "__main__":
    raise SystemExit(main())
