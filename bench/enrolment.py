"""How many devices a minute one server enrols: claim token and CSR over TLS on the device listener, until the certificate is there.

Prints one JSON object. The server is a process of its own on loopback, with SQLite and without a broker; each device makes a new TLS
connection, as a real one does, and has a key of its own. One claim token lets all in. Half of `cpu_ms` and more is the TLS handshake.

The alternative is what people write without a fleet manager: `openssl x509 -req`, once for each device, on the same requests. It only
signs: it checks no token, keeps no device, and cannot be asked over a network. It runs in the same run, as many at once.
Exit code 1 when the server enrols fewer than GOAL_A_MINUTE.

    python bench/enrolment.py [--devices 1000] [--at-once 4]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.servers import PROFILE, ServerProcess, init_server, server_process  # noqa: E402

from edgefleet_agent.enrolment.server_api import ask, make_csr, verifying_context  # noqa: E402
from edgefleet_agent.reporting.collector import cpu_s  # noqa: E402
from edgefleet_agent.reporting.device_facts import facts  # noqa: E402
from edgefleet_protocol.claim import decode_claim  # noqa: E402

Given = TypeVar("Given")
Made = TypeVar("Made")

GOAL_A_MINUTE = 1_000
WARM_UP = 20


def enrolled(server: ServerProcess, requests: Sequence[str], at_once: int) -> dict[str, Any]:
    """Enrol a device for each CSR and return the figures. Raises RuntimeError on any other answer than a certificate for its key."""
    with server.client() as api:
        made = api.post("/api/v1/enrollments", json={"uses": len(requests), "profile": PROFILE})
        made.raise_for_status()
        token = made.json()["tokens"][0]["token"]
        url = decode_claim(token).url
        context, stated = verifying_context(_ca(url)), facts()

        def one(csr: str) -> tuple[str, float]:
            began = time.perf_counter()
            body = json.dumps({"token": token, "csr": csr, "facts": stated, "nonce": "0" * 32}).encode()
            status, data = ask(url, context, "POST", "/device/v1/enroll", body)
            took = time.perf_counter() - began
            if status != 200:
                raise RuntimeError(f"an enrolment was answered with {status}: {data[:300]!r}")
            answer = json.loads(data)
            if _key(x509.load_pem_x509_certificate(answer["cert"].encode())) != _key(
                x509.load_pem_x509_csr(csr.encode())
            ):
                raise RuntimeError("a certificate is not for the key of its request")
            return answer["device_id"], took

        for csr in requests[:WARM_UP]:
            one(csr)
        before, (wall_s, found) = cpu_s(server.process.pid), _timed(one, requests[WARM_UP:], at_once)
        used_s = cpu_s(server.process.pid) - before
        listed = api.get("/api/v1/devices", params={"limit": 1}).json()["total"]
    if len({device for device, _ in found}) != len(found) or listed != len(requests):
        raise RuntimeError(f"{len(requests)} devices enrolled, but the server lists {listed}")
    return _figures(len(found), wall_s, used_s) | {
        "p95_ms": round(1000 * statistics.quantiles([took for _, took in found], n=20)[18], 1)
    }


def signed_by_openssl(folder: Path, requests: Sequence[str], at_once: int) -> dict[str, Any]:
    """Sign each CSR with a process of openssl and return the figures. Raises CalledProcessError."""
    key, ca = folder / "ca.key", folder / "ca.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *curve, "-keyout", str(key), "-out", str(ca), "-subj", "/CN=bench", "-days", "30")

    def one(numbered: tuple[int, str]) -> bytes:
        serial, csr = str(numbered[0]), numbered[1].encode()
        terms = ("-days", "90", "-set_serial", serial)
        return _openssl("x509", "-req", "-CA", str(ca), "-CAkey", str(key), *terms, given=csr)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s, found = _timed(one, list(enumerate(requests, start=1)), at_once)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    x509.load_pem_x509_certificate(found[-1])
    return _figures(len(found), wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _timed(one: Callable[[Given], Made], given: Sequence[Given], at_once: int) -> tuple[float, list[Made]]:
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(one, given))
    return time.perf_counter() - began, found


def _figures(count: int, wall_s: float, used_s: float) -> dict[str, float]:
    return {"a_minute": round(60 * count / wall_s), "cpu_ms": round(1000 * used_s / count, 2)}


def _key(holder: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicNumbers:
    key = holder.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_numbers()


def _ca(url: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the server was started by this program, on loopback
    return ask(url, context, "GET", "/device/v1/ca")[1].decode()


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(("openssl", *arguments), input=given, capture_output=True, check=True).stdout


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--at-once", type=int, default=4, help="Devices that ask at the same time")
    args = parser.parse_args()
    requests = [make_csr(ec.generate_private_key(ec.SECP256R1())) for _ in range(args.devices + WARM_UP)]
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        data = Path(folder, "data")
        token = init_server(data)
        with server_process(data, token) as server:
            ours = enrolled(server, requests, args.at_once)
        alternative = signed_by_openssl(Path(folder), requests[WARM_UP:], args.at_once)
    ok = ours["a_minute"] >= GOAL_A_MINUTE
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()], "arch": platform.machine()}
    ratios = {name: round(ours[name] / alternative[name], 2) for name in ("a_minute", "cpu_ms")}
    found = {"edgefleet": ours, "openssl": alternative, "edgefleet_over_openssl": ratios}
    result = {"bench": "enrolment", **vars(args), **found, "goal_a_minute": GOAL_A_MINUTE, "ok": ok, "machine": machine}
    print(json.dumps(result, indent=2))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
