"""Sixteen signals in each window: bundles with a reference, and what devices count by its bins."""

from typing import Any

import msgspec
from bench.ingest import messages as made
from tests.server.fleet.house import PROFILE, House
from tests.server.telemetry.drifting import bundle_bytes, counted, reference

from edgefleet_protocol.drift.histogram import pack
from edgefleet_protocol.drift.reference import basis_of

SIGNALS = 16


def signal_plan(house: House) -> dict[str, Any]:
    """Publish a bundle of each model; return what the devices' windows carry."""
    few = reference(10_000)
    first = few.features[0]
    features = [msgspec.structs.replace(first, name=f"column-{at}") for at in range(SIGNALS - 2)]
    whole = msgspec.structs.replace(few, features=features, outputs=few.outputs, classes=[])
    digests = []
    for name in (f"model-{number}" for number in range(made.MODELS)):
        ref = house.release(f"{name}@1.0.0", bundles={PROFILE: bundle_bytes(name, "1.0.0", PROFILE, whole)})
        digests.append(str(house.registry.release(ref).bundles[0].sha256))
    sums = pack(counted(whole, made.ANSWERS, 1))
    return {"signals": sums.hex(), "basis": basis_of(whole).hex(), "signals_s": made.INTERVAL_S, "digests": digests}
