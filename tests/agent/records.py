"""Records of one model as the tests of install decisions begin with, and the limits that a version is held to in them."""

import msgspec

from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.records import ModelRecord, SlotRef, Tally, Wanted
from edgefleet_protocol.messages import Phase

NOW = 1_764_072_000
LIMITS = trial.Limits(
    crash_limit=3,
    crash_window_s=300,
    probation_s=60,
    probation_min_s=2,
    probation_inferences=500,
    replace_s=10,
    nonfinite_ratio=0.001,
    error_ratio=0.01,
    error_min_n=200,
    slow_factor=2.0,
    slow_margin_ms=5.0,
    slow_min_n=200,
)
GOOD = trial.Facts(serving=True, golden_ok=True)
SILENT = trial.Facts(serving=False, golden_ok=False)


def wanted(digest: str = "a", gen: int = 2, attempt: int = 1, not_before_s: int = 0) -> Wanted:
    """Return a wish for the bundle whose digest is this letter, repeated."""
    target = f"digits/{gen}.0.0/p.bundle"
    return Wanted(
        model="digits",
        target=target,
        sha256=digest * 64,
        length=9,
        leaves="c" * 64,
        gen=gen,
        attempt=attempt,
        not_before_s=not_before_s,
    )


def ref(slot: str, digest: str) -> SlotRef:
    """Return a slot with the bundle of this letter."""
    return SlotRef(slot=slot, target=f"digits/{digest}/p.bundle", sha256=digest * 64, version=digest)


def serving(digest: str = "a", slot: str = "A", phase: Phase = Phase.COMMITTED) -> ModelRecord:
    """Return the record of a model that serves."""
    return ModelRecord(
        model="digits",
        phase=phase,
        active=ref(slot, digest),
        wanted=wanted(digest),
        served=wanted(digest),
        seen=Tally(sha256=digest * 64, since_s=NOW),
    )


def on_probation(previous_proven: bool = True, **changes: object) -> ModelRecord:
    """Return version b on probation in slot B, with version a to go back to."""
    previous = msgspec.structs.replace(ref("A", "a"), proven=previous_proven)
    record = ModelRecord(
        model="digits", phase=Phase.PROBATION, active=ref("B", "b"), previous=previous, wanted=wanted("b"), gen=2
    )
    seen = Tally(sha256="b" * 64, since_s=NOW)
    before = Tally(sha256="a" * 64, n=300)
    record = msgspec.structs.replace(record, served=wanted("b"), seen=seen, before=before)
    return msgspec.structs.replace(record, **changes)
