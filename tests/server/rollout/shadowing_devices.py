"""Simulated devices that run a candidate beside what serves: they take it from their signed document, as a real one does."""

from __future__ import annotations

from edgefleet_protocol.desired import DESIRED_TYPE, Ref, decode_desired
from edgefleet_protocol.messages import CandidatePhase, CandidateState, ModelState, Phase, State
from edgefleet_protocol.verify import verify_envelope
from tests.server.rollout.fleet_sim import SimDevice, World

STEPS = (CandidatePhase.WAITING, CandidatePhase.DOWNLOADING, CandidatePhase.STARTING, CandidatePhase.RUNNING)


class ShadowingDevice(SimDevice):
    """One device. fails_beside: code of the failure of any candidate that it starts, "" = it runs."""

    fails_beside = ""

    def begin(self) -> None:
        """Know of no candidate yet."""
        self.candidate: Ref | None = None
        self.mode = ""
        self._at = 0

    def take_desired(self, envelope: bytes) -> None:
        """Take a document, and the candidate that it names."""
        super().take_desired(envelope)
        document = decode_desired(verify_envelope(envelope, DESIRED_TYPE, [self._key]))
        model = document.models.get(self.model)
        wanted = None if model is None else model.candidate
        if wanted is None or self.candidate is None or wanted.sha256 != self.candidate.sha256:
            self._at = 0
        self.candidate, self.mode = wanted, (model.mode or "") if model is not None else ""

    def step(self) -> bool:
        """Do the next thing of the install and of the candidate."""
        moved = super().step()
        if self.candidate is not None and self._at < len(STEPS) - 1 and self._phase is Phase.COMMITTED:
            self._at += 1
            moved = True
        return moved

    def state(self) -> State:
        """Return the next report, with the candidate in it."""
        told = super().state()
        if self.candidate is None or not told.models:
            return told
        phase = STEPS[self._at]
        fails = self.fails_beside if phase is CandidatePhase.RUNNING else ""
        candidate = CandidateState(
            target=self.candidate.target,
            sha256=self.candidate.sha256,
            mode=self.mode,
            state=CandidatePhase.FAILED.value if fails else phase.value,
            code=fails,
            reason=f"{fails} beside" if fails else "",
        )
        fields = {name: getattr(told.models[0], name) for name in ModelState.__struct_fields__}
        models = [ModelState(**{**fields, "candidate": candidate})]
        return State(**{**{name: getattr(told, name) for name in State.__struct_fields__}, "models": models})


def can_shadow(world: World, fails_beside: str = "") -> list[ShadowingDevice]:
    """Let every device of a world run candidates from now on."""
    made = []
    for device in world.devices.values():
        device.__class__ = ShadowingDevice
        assert isinstance(device, ShadowingDevice)
        device.begin()
        device.fails_beside = fails_beside
        made.append(device)
    return made
