"""The soak `broker-reloads`: mosquitto reads its files again while devices with kept sessions are away, and they return.

2.0.21 with `allow_anonymous false` crashed in one of five rounds (ADR 0150). Freed memory is overwritten, so that a use after free shows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefleet_server.gateway.broker.model import BrokerKind
from edgefleet_server.gateway.broker.supervisor import BrokerState
from tests.broker.client import Client, LinkOptions, RefusedError, eventually
from tests.broker.conftest import Site
from tests.broker.pki import Authority, Identity

DEVICES, VISITS = 10, 3


@contextmanager
def overwritten() -> Iterator[None]:
    """Have programs that are started meanwhile fill memory that they free (glibc)."""
    before = os.environ.get("MALLOC_PERTURB_")
    os.environ["MALLOC_PERTURB_"] = "165"
    try:
        yield
    finally:
        del os.environ["MALLOC_PERTURB_"]
        if before is not None:
            os.environ["MALLOC_PERTURB_"] = before


def reload_round(folder: Path) -> dict[str, Any]:
    """Let devices come and go around two reloads; return how often the broker crashed, and whether one revoked by each was refused."""
    site = Site(Authority(folder / "pki"), folder, BrokerKind.MOSQUITTO)
    with overwritten():
        site.supervisor.start()
    devices = [site.identity() for _ in range(DEVICES)]
    revoked = [site.identity() for _ in range(2)]
    refused = 0

    def visit(number: int, *, clean: bool) -> Client:
        return Client(site.endpoint, devices[number], LinkOptions(clean=clean)).connect()

    try:
        for number in range(DEVICES):
            visit(number, clean=False).disconnect()
        for upto in (1, 2):
            site.supervisor.refuse(site.authority.refused(revoked[:upto]))
            refused += is_refused(site, revoked[upto - 1])
        kept = 0
        for turn in range(VISITS):
            for number in range(DEVICES):
                client = visit(number, clean=False)
                kept += client.session_present and turn == 0
                client.disconnect()
            for number in range(DEVICES):
                visit(number, clean=True).disconnect()
            for number in range(DEVICES):
                visit(number, clean=False).cut()
    except (RefusedError, OSError):  # the broker was away
        kept = -1
    finally:
        status = site.supervisor.status()
        crashes = status.restarts + (status.state is BrokerState.RESTARTING)
        site.supervisor.stop()
    return {"crashes": crashes, "refused": refused, "sessions_kept": kept}


def is_refused(site: Site, device: Identity) -> bool:
    """Wait until a broker that reads its files again refuses a device."""

    def refused() -> bool:
        try:
            Client(site.endpoint, device, LinkOptions()).connect().disconnect()
        except RefusedError:
            return True
        return False

    return bool(eventually(refused, f"{device.name} is refused"))


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Do n rounds. seed: nothing is drawn."""
    del seed
    rounds = []
    for _ in range(n):
        with tempfile.TemporaryDirectory(prefix="edgefleet-reloads-") as name:
            rounds.append(reload_round(Path(name)))
    right = {"crashes": 0, "refused": 2, "sessions_kept": DEVICES}
    crashes = sum(one["crashes"] for one in rounds)
    return {
        "rounds": n,
        "crashes": crashes,
        "wrong": [one for one in rounds if one != right],
        "ok": rounds == [right] * n,
    }
