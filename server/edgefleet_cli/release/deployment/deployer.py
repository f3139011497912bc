"""Deploying: set the release on devices, then wait until each reports how it went. Used by `deploy` and by the demo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgefleet_cli.core import structs
from edgefleet_cli.core.api.device import Device
from edgefleet_cli.core.api.release import DeployIn, Deployment
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMEOUT
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import error_text, named
from edgefleet_cli.render.output import Output
from edgefleet_cli.render.progress import board

DEFAULT_WAIT_S = 3600.0  # a device without traffic watches a new version for half an hour before it commits
_POLL_S = 0.3
DONE = frozenset({"committed"})
SERVING = DONE | {"probation"}
FAILED = frozenset({"failed", "rolled_back", "superseded"})
_PCT = {
    "downloading": 15.0,
    "verifying": 40.0,
    "preflight": 50.0,
    "golden": 65.0,
    "warming": 75.0,
    "switching": 85.0,
    "probation": 92.0,
    "committed": 100.0,
}


@dataclass(frozen=True)
class DeviceOutcome:
    """How one device fared: `state` is its phase, or `unheard`, `accepted` or `superseded` (see `judge`)."""

    device: str
    profile: str
    state: str = "unheard"
    error: str = ""
    display_name: str = ""

    @property
    def shown(self) -> str:
        """Return the state in words."""
        return "no report yet" if self.state == "unheard" else self.state

    def as_json(self) -> Document:
        """Return it as `deploy --wait -o json` prints it."""
        return {
            "device": self.device,
            "display_name": self.display_name,
            "profile": self.profile,
            "state": self.state,
            "error": self.error or None,
        }


@dataclass(frozen=True)
class Deployer:
    """Deploys releases at one server; progress goes to `out`'s stderr."""

    api: ApiClient
    out: Output
    clock: SystemClock

    def deploy(
        self,
        ref: str,
        *,
        selector: str | None = None,
        device: str | None = None,
        dry_run: bool = False,
        candidate: DeployIn | None = None,
    ) -> Reply[Deployment]:
        """Set the release on the chosen devices (or only say which, with `dry_run`) and return the answer.

        candidate: mode, share_pct and salt, to run it next to the active version instead.
        """
        body = structs.replace(candidate or DeployIn(), selector=selector, device=device, dry_run=dry_run)
        return self.api.post(f"/releases/{part(ref)}:deploy", body, Deployment)

    def wait(
        self,
        ref: str,
        answer: Deployment,
        *,
        selector: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
        good: frozenset[str] = DONE,
    ) -> list[DeviceOutcome]:
        """Follow the devices of a deploy answer until all are in a `good` state or failed, or `wait_s` is over.

        selector: narrows what is asked from the server; the devices followed are those of the answer.
        """
        gens = {entry.device: entry.gen for entry in answer.set}
        outcomes = {
            entry.device: DeviceOutcome(entry.device, entry.profile, display_name=entry.display_name)
            for entry in answer.set
        }
        deadline_s = self.clock.monotonic_s() + wait_s
        with board(self.out) as rows:
            while outcomes:
                for device in self._devices(outcomes, selector):
                    if device.id in outcomes:
                        outcomes[device.id] = judge(outcomes[device.id], device, ref, gens[device.id])
                for outcome in outcomes.values():
                    name = named(outcome.device, outcome.display_name)
                    rows.update(name, outcome.shown, outcome.error, _PCT.get(outcome.state))
                is_over = all(one.state in good | FAILED for one in outcomes.values())
                if is_over or self.clock.monotonic_s() > deadline_s:
                    break
                self.clock.sleep(_POLL_S)
        return list(outcomes.values())

    def _devices(self, outcomes: dict[str, DeviceOutcome], selector: str | None) -> Iterable[Device]:
        if len(outcomes) == 1:
            return [self.api.get(f"/devices/{part(next(iter(outcomes)))}", Device).value]
        return self.api.pages("/devices", Device, selector=selector or None)


def judge(before: DeviceOutcome, device: Device, ref: str, gen: int) -> DeviceOutcome:
    """Return how a device fares with release `ref`, set in the desired document `gen`.

    A phase counts only once the device has reported that document (or a later one) and the phase is about this release:
    before that, the phase it last reported belongs to what it ran or tried earlier.
    """
    model = ref.partition("@")[0]
    refused = device.refused
    if refused is not None and refused.gen >= gen:
        return replace(before, state="failed", error=f"{refused.code}: {refused.reason}")
    wanted = next((entry for entry in device.desired.models if entry.model == model), None)
    if wanted is None or wanted.release != ref:
        return replace(before, state="superseded", error="another release was deployed to the device meanwhile")
    report = next((entry for entry in device.models if entry.model == model), None)
    if report is None or device.reported_gen < gen:
        return replace(before, state="unheard", error="")
    phase = report.phase
    if report.sha256 == wanted.sha256 and phase in DONE:
        return replace(before, state=phase, error="")
    if report.wanted_sha256 == wanted.sha256 and phase not in DONE:
        return replace(before, state=phase, error=error_text(report.error_class, report.reason))
    return replace(before, state="accepted", error="")


def exit_code(outcomes: list[DeviceOutcome], good: frozenset[str] = DONE) -> int:
    """Return 0 when all devices are in a `good` state, 1 when one failed, 8 when some have not finished."""
    if any(outcome.state in FAILED for outcome in outcomes):
        return EXIT_FAILED
    return EXIT_OK if all(outcome.state in good for outcome in outcomes) else EXIT_TIMEOUT
