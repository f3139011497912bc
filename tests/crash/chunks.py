"""F07: one leaf of a bundle arrives damaged: it is never written, never activated, and only it is asked for again.

Real install children over their real socket; the test is agentd and flips a bit of one leaf, once, at random.
"""

import random
import tempfile
from pathlib import Path
from typing import Any

from edgefleet_agent.install.records import Wanted
from edgefleet_agent.install.verifier_protocol import Fetched
from edgefleet_protocol.blocks import leaf_count, leaf_index
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.clock import SystemClock
from tests.agent.child import ChildDriver
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.field import note, run
from tests.server.fleet.house import PROFILE, House

A_CHILD = 50
"""Bundles that one child brings: its start costs more than all of them."""


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Damage one leaf of each of n downloads."""
    return run("F07 corrupt-chunk", n, seed, _chunks)


def _chunks(result: dict[str, Any], n: int, seed: int) -> None:
    rng = random.Random(seed)
    result["refetched_leaves"] = 0
    with tempfile.TemporaryDirectory(prefix="ef-chunks-") as name:
        house = House(f"sqlite:///{name}/server.db", Path(name, "server"), SystemClock(), tenant="acme")
        device = house.device()
        driver = ChildDriver(house, Path(name, "device"), device.id)
        wishes = [_published(house, rng, i) for i in range(min(n, A_CHILD))]
        for begin in range(0, n, A_CHILD):
            chosen = wishes[: min(A_CHILD, n - begin)]
            harm = {w.sha256: (rng.randrange(leaf_count(w.length)), rng.random()) for w, _ in chosen}
            hurt: set[str] = set()

            def leaf(blob: str, index: int, data: bytes, harm: Any = harm, hurt: Any = hurt) -> bytes:
                chosen_leaf, where = harm[blob]
                if index != chosen_leaf or blob in hurt:
                    return data
                hurt.add(blob)
                bad = bytearray(data)
                at = int(where * len(bad) * 8)
                bad[at // 8] ^= 1 << at % 8
                return bytes(bad)

            driver.leaf = leaf
            slot = "AB"[begin // A_CHILD % 2]
            for i, answer in enumerate(driver.install_all([w for w, _ in chosen], slot)):
                wish, data = chosen[i]
                note(result, _problem(driver, answer, wish, data, slot, hurt), round=begin + i)
                if isinstance(answer, Fetched):
                    result["refetched_leaves"] += answer.refetched
            for wish, _ in chosen:  # the next child must bring them anew
                for path in (driver.state / "models" / wish.model).glob("?/*"):
                    path.unlink()
        house.db.dispose()


def _published(house: House, rng: random.Random, i: int) -> tuple[Wanted, bytes]:
    """Store one bundle of several leaves; return the wish for it as a verified document gives it, and its bytes."""
    name = f"m{i}"
    data = bundle_bytes(classifier_onnx(1.0 + i), name=name, extra={"pad.bin": rng.randbytes(rng.randrange(300_000))})
    house.registry.put_blob_bytes(data)
    leaves = house.registry.put_blob_bytes(leaf_index(data))
    target = f"{name}/1.0.0/{PROFILE}.bundle"
    return Wanted(model=name, target=target, sha256=sha256_hex(data), length=len(data), leaves=leaves, gen=1), data


def _problem(driver: ChildDriver, answer: Any, wish: Wanted, data: bytes, slot: str, hurt: set[str]) -> str:
    if wish.sha256 not in hurt:
        return "the damaged leaf was not asked for"
    if not isinstance(answer, Fetched):
        return f"not installed: {answer}"
    if answer.refetched != 1 or answer.received_bytes != wish.length:
        return f"{answer.refetched} leaves asked for again, {answer.received_bytes} of {wish.length} bytes taken"
    bundle = driver.state / "models" / wish.model / slot / "bundle"
    return "" if bundle.read_bytes() == data else "other bytes than the published ones are in the slot"
