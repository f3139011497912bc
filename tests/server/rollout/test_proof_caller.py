"""The thread that has bundles checked: what it writes down, and what does not end it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.conversion.errors import ProofNotMadeError
from edgefleet_server.rollout.controller.proof_caller import ProofCaller
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import Habit, World, stages

LIE = Habit(fails_at=Phase.COMMITTED, error_class=ErrorClass.GOLDEN)


@dataclass(frozen=True)
class Found:
    """What a check found."""

    ok: bool
    what: str = "the golden vectors"


class Prover:
    """Finds what a test says."""

    def __init__(self, found: Found | Exception) -> None:
        self.found = found
        self.asked: list[tuple[str, str, str, ErrorClass]] = []
        self.envelopes: list[bytes] = []

    def prove(
        self, ref: ReleaseRef, profile: ProfileName, sha256: Sha256, error_class: ErrorClass, envelope: bytes = b""
    ) -> Found:
        """Answer, or fail."""
        self.asked.append((str(ref), profile, sha256, error_class))
        self.envelopes.append(envelope)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def stop(self) -> None:
        """Nothing runs."""


@pytest.mark.parametrize(
    ("found", "is_ok", "what"),
    [
        (Found(ok=True), True, "the golden vectors"),
        (Found(ok=False), False, "the golden vectors"),
        (ProofNotMadeError("no such runtime here"), None, "no such runtime here"),
        (ValueError("a bundle that nobody thought of"), None, "ValueError"),
    ],
)
def test_what_a_check_finds_is_written_once_whatever_it_is(
    world: World, found: Found | Exception, is_ok: bool | None, what: str
) -> None:
    world.proof = None  # nobody but the caller under test checks
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    devices[0].habits["1.1.0"] = LIE
    rollout = world.create(stages=stages("100%"))
    world.go_until(lambda: bool(world.asked(rollout)))
    woken: list[bool] = []
    prover = Prover(found)
    caller = ProofCaller(world.house.db, world.clock, lambda: woken.append(True), prover, world.fleet.documents)
    assert caller.tick()
    assert not caller.tick(), "one check is enough"
    (one,) = world.asked(rollout)
    assert one.proof is not None
    assert (one.proof.is_ok, what in one.proof.what, len(woken)) == (is_ok, True, 1)
    assert prover.asked == [("digits@1.1.0", PROFILE, one.sha256, ErrorClass.GOLDEN)]
    signed = world.fleet.documents.of_device(devices[0].id)
    assert signed is not None
    assert prover.envelopes == [signed.envelope], "the document that the reporting device was sent is verified, too"
