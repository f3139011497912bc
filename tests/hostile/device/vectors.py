"""F14: every hostile vector by name, and `./dev soak hostile-vectors`, which tries all of them on install children as agentd starts them.

A vector is refused when the device says so with the code that is expected, has changed nothing, and goes on: a crash, a wait of more
than `SLOWEST_S` or another code are failures too.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from tests.hostile.device.bundle_vectors import BUNDLES
from tests.hostile.device.document_vectors import DOCUMENTS
from tests.hostile.device.metadata_vectors import METADATA
from tests.hostile.device.victim import ACCEPTED, Vector, victim

TABLE: Final[Mapping[str, Vector]] = {one.name: one for one in (*DOCUMENTS, *METADATA, *BUNDLES)}
SLOWEST_S = 20.0
"""A refusal takes a fraction of a second; this is for a machine that is busy."""


def outcome(vector: Vector, *, own_process: bool = False) -> dict[str, Any]:
    """Try one vector on a device of its own. own_process: the child as agentd starts it, else in a thread."""
    began = time.monotonic()
    try:
        with victim(own_process=own_process) as device:
            code = vector.attack(device)
    except Exception as error:  # noqa: BLE001 - a crash is an outcome
        code = f"crash: {type(error).__name__}: {error}"[:200]
    took_s = round(time.monotonic() - began, 2)
    good = code == vector.expected and took_s < SLOWEST_S
    return {"vector": vector.name, "refused_with": code, "accepted": code == ACCEPTED, "took_s": took_s, "good": good}


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Try n vectors, all when there are fewer, in an order that the seed chooses."""
    order = random.Random(seed).sample(sorted(TABLE), min(n, len(TABLE)))
    rows = []
    for done, name in enumerate(order, 1):
        rows.append(outcome(TABLE[name], own_process=True))
        if done % 20 == 0 or not rows[-1]["good"]:
            print(f"{done} of {len(order)}: {rows[-1]}", file=sys.stderr, flush=True)
    accepted = [row["vector"] for row in rows if row["accepted"]]
    return {
        "ok": all(row["good"] for row in rows),
        "tried": len(rows),
        "refused": len(rows) - len(accepted),
        "accepted": accepted,
        "codes": dict(Counter(row["refused_with"] for row in rows)),
        "table": rows,
    }
