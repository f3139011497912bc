"""F12: updates over a broken network: messages lost, doubled and overtaken, a line that flaps, a broker that is restarted.

Each must end on the new version; at 30 % loss the device may take at most 15 % more bytes than the bundle has, and 5 % where the broker is
killed meanwhile. Of doubled messages it takes what comes: of an answer that is doubled, both.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.crash.field import Field, field, note, run
from tests.crash.meddler import Meddler, Meddling

PAD_BYTES = 300_000
PROFILES = {
    "30 % loss": Meddling(lose=0.3),
    "70 % loss": Meddling(lose=0.7),
    "flaps": Meddling(),
    "doubled": Meddling(double=0.5),
    "overtaken": Meddling(overtake=0.5),
    "broker restart": Meddling(),
}
LOSSY_S = 300.0
"""When a round is given up; `over_60_s` counts those that took longer than they may on a machine of their own."""
FLAP_S = 1.0
"""A tenth of the ten seconds of a bad mobile line, over a bundle that needs a tenth of the time."""
MAX_EXTRA_RATIO = {"30 % loss": 0.15, "broker restart": 0.05}
"""Of what is late and not lost: it is asked for again once it is later than anything before."""


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Update n times, over each kind of network in turn."""
    return run("F12 broken-net", n, seed, _nets)


def _nets(result: dict[str, Any], n: int, seed: int) -> None:
    with _meddled_field(seed) as (here, meddler):
        assert here.problem(here.deploy()) == ""
        for i in range(n):
            kind = list(PROFILES)[i % len(PROFILES)]
            note(result, _round(here, meddler, kind, result), round=i, kind=kind)
        result["over_60_s"] = here.over_60_s


def _round(here: Field, meddler: Meddler, kind: str, result: dict[str, Any]) -> str:
    meddler.meddling = PROFILES[kind]
    before, began = meddler.taken_bytes, time.monotonic()
    with _trouble(here, meddler, kind):
        version = here.deploy(PAD_BYTES)
        problem = here.problem(version, told=False, wait_s=LOSSY_S)
    meddler.meddling = Meddling()
    bundle = here.agent.state / "models" / "digits" / here.agent.record().active.slot / "bundle"  # type: ignore[union-attr]
    extra = (meddler.taken_bytes - before) / bundle.stat().st_size - 1
    seen = result.setdefault("kinds", {}).setdefault(kind, {"extra_ratio": 0.0, "seconds": 0.0})
    seen["extra_ratio"] = max(seen["extra_ratio"], round(extra, 3))
    seen["seconds"] = max(seen["seconds"], round(time.monotonic() - began, 1))
    if not problem and extra > MAX_EXTRA_RATIO.get(kind, extra):
        problem = f"{extra:.0%} more bytes than the bundle has"
    return problem or here.problem(version)


@contextmanager
def _trouble(here: Field, meddler: Meddler, kind: str) -> Iterator[None]:
    """Make connections break while an update runs, where the kind of network says so."""
    over = threading.Event()

    def flap() -> None:
        while not over.wait(FLAP_S):
            meddler.cut()

    def restart() -> None:
        over.wait(here.rng.uniform(0.1, 1.0))
        pid = here.agent.site.broker.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    work = {"flaps": flap, "broker restart": restart}.get(kind)
    thread = threading.Thread(target=work) if work is not None else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join()


@contextmanager
def _meddled_field(seed: int) -> Iterator[tuple[Field, Meddler]]:
    with field(seed, shim=False) as here:
        endpoint, signing = here.agent.site.endpoint, here.agent.site.house.signing
        server = (signing.server_cert_file, signing.server_key_file)
        meddler = Meddler((endpoint.host, endpoint.port), server, here.agent.state / "identity", seed)
        here.line.lead_to("127.0.0.1", meddler.port)
        try:
            yield here, meddler
        finally:
            meddler.close()
