"""How fast desired documents are signed: by the signing process, by the same keys in one process, and by a plain loop; and what it costs.

Prints one JSON object. All parts run on one core, the signing process too, so that its time is not hidden. The alternative is what somebody
writes with `cryptography` and a key file: a loop that signs the DSSE form and writes the envelope; it looks at nothing before it signs.
Dispatch is a rollout's transaction over `--devices` devices with SQLite, in both ways in turn. Exit code 1 above GOAL_S.

    python bench/signing.py [--documents 100000] [--devices 1000] [--rounds 40]
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.fleet.house import House  # noqa: E402

from edgefleet_protocol.desired import DESIRED_TYPE, Desired, ModelDesired, Ref, encode_desired  # noqa: E402
from edgefleet_protocol.envelope import pae  # noqa: E402
from edgefleet_protocol.ids import ModelName  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.composition.worker_container import build_signing  # noqa: E402
from edgefleet_server.fleet.desired.model import ModelChange  # noqa: E402
from edgefleet_server.process.signer_child import SignerChild, wait_for_signer  # noqa: E402
from edgefleet_server.signing.service import SigningService  # noqa: E402
from edgefleet_server.signing.signer.messages import AskStatus, Status  # noqa: E402
from edgefleet_server.signing.signer.signer_connection import SignerConnection  # noqa: E402

GOAL_S = 15.0
GOAL_SHARE = 0.05


def documents(count: int) -> list[bytes]:
    """Return documents of the usual length, one for each device."""
    now = SystemClock().now().replace(microsecond=0)
    ref = Ref(target="digits/1.2.0/linux-x86_64-cpu.bundle", sha256="a" * 64, length=1_234_567, rollout="r-" + "b" * 12)
    models = {name: ModelDesired(active=ref) for name in ("digits", "gears")}
    return [
        encode_desired(
            Desired(device=f"d-{n:012d}", gen=n + 1, issued=now, expires=now + timedelta(days=7), models=models)
        )
        for n in range(count)
    ]


def by_loop(key: Ed25519PrivateKey, keyid: str, payloads: Sequence[bytes]) -> list[bytes]:
    """Sign as a script would."""
    signed = []
    for payload in payloads:
        signature = {"keyid": keyid, "sig": base64.b64encode(key.sign(pae(DESIRED_TYPE, payload))).decode()}
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": DESIRED_TYPE,
            "signatures": [signature],
        }
        signed.append(json.dumps(envelope).encode())
    return signed


def cpu_s(pid: int) -> float:
    """Return the processor time of all threads of a process, to the nanosecond: a tick of the kernel is longer than a transaction."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text(encoding="utf-8").split()[0]) for one in tasks) / 1e9


def timed(work: Callable[[], Any], signer: int) -> dict[str, float]:
    """Return wall and processor seconds of this process and of the signing process."""
    began_s, own_s, other_s = time.perf_counter(), time.process_time(), cpu_s(signer)
    work()
    wall_s = time.perf_counter() - began_s
    own_s, other_s = time.process_time() - own_s, cpu_s(signer) - other_s
    return {"wall_s": round(wall_s, 2), "cpu_s": round(own_s, 2), "signer_cpu_s": round(other_s, 2)}


def dispatch(
    house: House, devices: Sequence[Any], ways: dict[str, SigningService], rounds: int, signer: int
) -> dict[str, Any]:
    """Return what a transaction over all devices takes each way, in turn: medians, ms. cost: the median ratio of all turns."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            house.signing.__dict__.update(ways[name].__dict__)
            ref = Ref(target="digits/1.2.0/p.bundle", sha256=f"{number:064x}", length=9)
            began_s, work_s = time.perf_counter(), time.process_time() + cpu_s(signer)
            house.fleet.desired.set_models([ModelChange(one, ModelName("digits"), ref) for one in devices])
            wall[name].append(time.perf_counter() - began_s)
            work[name].append(time.process_time() + cpu_s(signer) - work_s)
    return {
        "devices": len(devices),
        "rounds": rounds,
        "in_one_process_ms": _median_ms(wall["one"]),
        "signing_process_ms": _median_ms(wall["apart"]),
        "in_one_process_cpu_ms": _median_ms(work["one"]),
        "signing_process_cpu_ms": _median_ms(work["apart"]),
        "cost": _median_of_ratios(wall["apart"], wall["one"]),
        "cost_cpu": _median_of_ratios(work["apart"], work["one"]),
        "goal": GOAL_SHARE,
    }


def _median_ms(found_s: Sequence[float]) -> float:
    return round(statistics.median(found_s) * 1000, 1)


def _median_of_ratios(more: Sequence[float], less: Sequence[float]) -> float:
    return round(statistics.median(one / other - 1 for one, other in zip(more, less, strict=True)), 3)


def measure(folder: Path, count: int, devices: int, rounds: int) -> dict[str, Any]:
    """Return the figures."""
    house = House(f"sqlite:///{folder / 'a.db'}", folder / "server", SystemClock())
    house.settings.run_dir.mkdir()
    child = SignerChild(house.settings.model_copy(update={"log_level": "WARNING"}))
    child.start()
    socket = house.settings.own_signer_socket
    try:
        wait_for_signer(socket)
        signer = SignerConnection(socket).ask(AskStatus(), Status).pid
        apart = build_signing(house.settings.model_copy(update={"signer_socket": socket}), house.db, house.clock)
        one = build_signing(house.settings, house.db, house.clock)
        payloads = documents(count)
        private = load_pem_private_key((house.folder / "keys" / "director.pem").read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        keyid = one.director_keyid()
        found = {
            "signing_process": timed(lambda: apart.sign_all_desired(payloads), signer),
            "in_one_process": timed(lambda: one.sign_all_desired(payloads), signer),
            "plain_loop": timed(lambda: by_loop(private, keyid, payloads), signer),
        }
        ids = [house.device().id for _ in range(devices)]
        for each in ids:
            house.fleet.desired.ensure(each)
        return {
            "documents": count,
            "bytes_each": len(payloads[0]),
            **found,
            "ratio_to_loop": round(found["signing_process"]["wall_s"] / max(found["plain_loop"]["wall_s"], 0.01), 2),
            "goal_s": GOAL_S,
            "dispatch": dispatch(house, ids, {"one": one, "apart": apart}, rounds, signer),
        }
    finally:
        child.stop()
        house.db.dispose()


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.documents, given.devices, given.rounds)
    machine = {"cpu": platform.machine(), "python": platform.python_version(), "load": os.getloadavg()[0]}
    print(json.dumps({**found, "machine": machine}, indent=2))
    return 0 if found["signing_process"]["wall_s"] <= GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main())
