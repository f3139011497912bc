"""What the demo does, step by step, and the figures it gathers on the way. Each step returns its lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgefleet_cli.core.api.bundle import Bundle
from edgefleet_cli.core.api.device import Device as KnownDevice
from edgefleet_cli.core.api.device import ReportedModel, Window
from edgefleet_cli.core.api.enrollment import ClaimTokens, EnrollmentIn
from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.api.rollout import Rollout, RolloutDevice
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.demo import demo_devices, demo_rollouts
from edgefleet_cli.demo.demo_devices import Device
from edgefleet_cli.demo.example import ANSWERS_NAN, GOOD, MODEL, REFUSED, Example, Images
from edgefleet_cli.demo.narration import passing
from edgefleet_cli.demo.processes import ProcessGroup
from edgefleet_cli.release.deployment.deployer import DONE, Deployer
from edgefleet_cli.release.publisher import Publisher
from edgefleet_cli.release.render import Report, failures
from edgefleet_cli.render.format import named, size
from edgefleet_cli.render.output import Output
from edgefleet_cli.rollout.client import Rollouts

_CONVERT_S = 120.0
_DEPLOY_S = 120.0
_ROLLOUT_S = 120.0
_HEALTH_S = 30.0
MAX_DIFFERENCE = 0.005
"""How far accuracy on devices may be from what the converter measured (share of images)."""


class StoryError(CliError):
    """The demo failed."""

    code = "demo.story"


@dataclass
class Story:
    """One run of the demo. `profiles` are those of its devices; `releases` are the API's answers by version; `accuracy` is by version
    and profile, `devices` by id.
    """

    api: ApiClient
    home: ProcessGroup
    out: Output
    clock: SystemClock
    example: Example
    profiles: tuple[str, ...]
    devices: list[Device] = field(default_factory=list)
    releases: dict[str, Reply[Release]] = field(default_factory=dict)
    running: str = ""
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)

    def enrol_devices(self, count: int, folder: Path) -> list[str]:
        """Start `count` agents on the demo's profiles; return its lines."""
        wanted = [
            Device(f"device-{index:02}", f"Camera {index}", profile, folder / f"{index:02}")
            for index, profile in enumerate(demo_rollouts.profiles_for(count, self.profiles), 1)
        ]
        tokens = {profile: self._claim_tokens(profile, wanted) for profile in self.profiles}
        environment = demo_devices.agent_environment(self.home, folder.parent)
        with passing(self._quiet) as note:
            note(f"enrolling {count} devices")
            demo_devices.enrol(self.home, wanted, [tokens[device.profile].pop() for device in wanted], environment)
            self.devices = demo_devices.start(self.home, self.clock, wanted, environment)
        counts = (f"{self._count(profile)} of profile {profile}" for profile in self.profiles)
        return [f"{self._all_devices()} enrolled by claim token, connected over mTLS", ", ".join(counts)]

    def publish(self, version: str) -> list[str]:
        """Finish publishing a good version; return its lines. Raises StoryError when a profile is refused."""
        release = self._convert(version)
        if release.state != "ready":
            reasons = "; ".join(f"{entry.profile}: {entry.reason}" for entry in failures(release))
            raise StoryError(f"{MODEL}@{version} was not built for every profile", why=reasons or release.state)
        return [
            f"built and signed for {bundle.profile}: {bundle.precision}, {size(bundle.bytes)} "
            f"({(bundle.bytes or 0) / (bundle.fp32_bytes or 1):.0%} of fp32)"
            for bundle in release.bundles
        ]

    def deploy(self, version: str) -> str:
        """Deploy a version everywhere and wait; return its lines."""
        deployer = Deployer(self.api, self._quiet, self.clock)
        ref = f"{MODEL}@{version}"
        answer = deployer.deploy(ref, selector="").value
        outcomes = deployer.wait(ref, answer, wait_s=_DEPLOY_S)
        self.home.check()
        behind = [outcome for outcome in outcomes if outcome.state not in DONE]
        if behind or len(outcomes) != len(self.devices):
            why = "; ".join(f"{named(one.device, one.display_name)} {one.state} {one.error}".strip() for one in behind)
            raise StoryError(f"{ref} is not on all devices", why=why or f"only {len(outcomes)} devices were set")
        self.running = version
        return f"{ref} published, and deployed to {self._all_devices()} at once"

    def roll_out(self, version: str) -> list[str]:
        """Roll a good version out in stages and wait; return its lines."""
        rollout = self._roll(version)
        if rollout.state != "finished" or rollout.is_partial:
            raise StoryError(f"{MODEL}@{version} was not promoted", why=f"{rollout.state}: {rollout.reason}")
        self.running = version
        if len(self.devices) == 1:
            how = "promoted on the only device"
            note = "with one device there is no canary: the rollout has one stage and rests on that device alone"
        else:
            how = f"promoted through {len(rollout.stages)} stages"
            note = "each waits until all its devices are healthy, and states the failure rate it still cannot rule out"
        return [f"{MODEL}@{version} published, and {how}", note, *demo_rollouts.stage_lines(rollout)]

    def catch_bad(self) -> list[str]:
        """Roll the release out that is bad only on what devices see; return its lines. Raises StoryError if it spreads."""
        rollout = self._roll(ANSWERS_NAN)
        ref, back = f"{MODEL}@{ANSWERS_NAN}", f"{MODEL}@{self.running}"
        if rollout.state != "rolled_back":
            raise StoryError(f"{ref} was not rolled back", why=f"{rollout.state}: {rollout.reason}")
        left = [device.id for device in self.devices if self._release_on(device.id) != back]
        if left:
            raise StoryError(f"not all devices are back on {back}", why=", ".join(left))
        tried = len(demo_rollouts.exposed(rollout))
        where = "the only device" if len(self.devices) == 1 else "the canary"
        return [
            f"{ref} passed every check on the server, and was stopped at {where}",
            f"{tried} of {self._all_devices()} tried it; hazy images make it answer NaN",
            *self._failed_devices(rollout),
            *(f"stopped for {reason}" for reason in demo_rollouts.why_there(rollout)),
            f"{self._all_devices()} on {back} again {demo_rollouts.seconds_between(rollout):.0f} s after the rollout began",
        ]

    def _failed_devices(self, rollout: Rollout) -> list[str]:
        devices = self.api.page(f"/rollouts/{part(rollout.id)}/devices", RolloutDevice, limit=100)
        return [
            f"{named(one.device, one.display_name)} rolled back by itself: {one.reason}"
            for one in devices
            if one.error_class
        ]

    def _roll(self, version: str) -> Rollout:
        rollouts = Rollouts(self.api, self._quiet, self.clock)
        started = rollouts.create(demo_rollouts.spec(f"{MODEL}@{version}", len(self.devices))).value
        with passing(self._quiet) as note:
            self.rollouts[version] = demo_rollouts.follow(rollouts, self.clock, self.home, started, _ROLLOUT_S, note)
        return self.rollouts[version]

    def measure(self, judged: Images, unseen: Images) -> list[str]:
        """Measure the running version on the devices; return its lines. Raises StoryError.

        judged: the converter's evaluation images; on those of them that its figures are of, device and converter must agree.
        unseen: images for devices only.
        """
        version = self.running
        report = self.api.get(f"/releases/{part(f'{MODEL}@{version}')}/report", Report).value
        rows = report.data.hold_out_rows
        judged = judged.take(rows) if rows else judged
        with passing(self._quiet) as note:
            note(f"asking every device for {len(judged) + len(unseen)} images")
            shares = demo_devices.measure(self.devices, judged)
            new = _mean(list(demo_devices.measure(self.devices, unseen).values()))
        self.accuracy[version] = {
            profile: _mean([shares[device.id] for device in self.devices if device.profile == profile])
            for profile in self.profiles
        }
        self._compare(version)
        shown = [
            f"accuracy on {profile}: {share:.1%} on the devices, {_accuracy(self._bundle(version, profile)):.1%} in the converter"
            for profile, share in self.accuracy[version].items()
        ]
        return [*shown, f"accuracy on {len(unseen)} unseen images: {new:.1%}"]

    def health(self) -> str:
        """Wait until every device has reported figures of the running version; return their sum in one line."""
        deadline_s = self.clock.monotonic_s() + _HEALTH_S
        while True:
            windows = {device.id: self._windows(device.id) for device in self.devices}
            if all(windows.values()):
                break
            if self.clock.monotonic_s() > deadline_s:
                silent = ", ".join(name for name, found in windows.items() if not found)
                raise StoryError("not all devices report their health", why=f"no figures from {silent}")
            self.clock.sleep(0.3)
        found = [window for group in windows.values() for window in group]
        answers, errors = sum(window.n for window in found), sum(window.errors for window in found)
        slowest = max(window.latency_p95_ms or 0.0 for window in found)
        return (
            f"health of {self._all_devices()}: {answers} answers, {errors} errors, "
            f"95 % of them within {slowest:.1f} ms on the slowest"
        )

    def states(self) -> dict[str, dict[str, str | None]]:
        """Return what each device runs now, by its id: `{release, state}` as `edgectl device list` says."""
        found = {device.id: self._model_of(device.id) for device in self.devices}
        return {
            id_: {"release": model.release if model else None, "state": model.phase if model else None}
            for id_, model in found.items()
        }

    def _model_of(self, device_id: str) -> ReportedModel | None:
        device = self.api.get(f"/devices/{part(device_id)}", KnownDevice).value
        return next((one for one in device.models if one.model == MODEL), None)

    def _release_on(self, device_id: str) -> str | None:
        model = self._model_of(device_id)
        return model.release if model else None

    def _count(self, profile: str) -> int:
        return sum(device.profile == profile for device in self.devices)

    def _all_devices(self) -> str:
        return "1 device" if len(self.devices) == 1 else f"{len(self.devices)} devices"

    def _windows(self, device_id: str) -> list[Window]:
        page = self.api.page(f"/devices/{part(device_id)}/telemetry", Window, limit=50)
        return [window for window in page if window.version == self.running and window.n]

    def refuse_bad(self) -> str:
        """Finish publishing two bad files; return a line on their refusal. Raises StoryError if one gets through."""
        for version in REFUSED:
            release = self._convert(version)
            if release.bundles:
                raise StoryError(f"{MODEL}@{version} is bad, but it was signed", why=release.state)
        return f"{len(REFUSED)} bad releases were refused by the server, before any device saw them"

    def refusals(self) -> list[dict[str, str]]:
        """Return what was refused: `{version, profile, reason}`."""
        return [
            {"version": version, "profile": entry.profile, "reason": entry.reason}
            for version, release in self.releases.items()
            for entry in failures(release.value)
        ]

    def queue(self, version: str) -> None:
        """Upload and ask for a release now, so that it converts while devices are busy with the one before."""
        self.releases[version] = self._publisher.publish(self.example.request(version, self.profiles))

    def _convert(self, version: str) -> Release:
        self.releases[version] = self._publisher.follow(self.releases[version], wait_s=_CONVERT_S)
        return self.releases[version].value

    @property
    def _publisher(self) -> Publisher:
        return Publisher(self.api, self._quiet, self.clock)

    @property
    def _quiet(self) -> Output:
        """Progress of single devices and jobs is for a terminal; elsewhere the demo is its six steps."""
        return Output(self.out.form, color=self.out.color, quiet=self.out.quiet or not self.out.remarks.is_terminal)

    def _claim_tokens(self, profile: str, wanted: list[Device]) -> list[str]:
        count = sum(device.profile == profile for device in wanted)
        body = EnrollmentIn(count=count, ttl_s=3600, labels={"demo": "yes"}, profile=profile)
        return [entry.token for entry in self.api.post("/enrollments", body, ClaimTokens).value.tokens]

    def _bundle(self, version: str, profile: str) -> Bundle:
        return next(bundle for bundle in self.releases[version].value.bundles if bundle.profile == profile)

    def _compare(self, version: str) -> None:
        for profile, share in self.accuracy[version].items():
            expected = _accuracy(self._bundle(version, profile))
            if abs(share - expected) > MAX_DIFFERENCE:
                raise StoryError(
                    f"{MODEL}@{version} answers differently on devices with {profile}",
                    why=f"{share:.1%} right there, {expected:.1%} in the converter",
                )


def summary(story: Story, elapsed_s: float) -> Document:
    """Return what `demo --once -o json` prints."""
    states, caught = story.states(), story.rollouts[ANSWERS_NAN]
    return {
        "ok": True,
        "elapsed_s": round(elapsed_s, 1),
        "devices": [{"id": device.id, "profile": device.profile, **states[device.id]} for device in story.devices],
        "bundles": [
            {
                "model": bundle.model,
                "version": bundle.version,
                "profile": bundle.profile,
                "runtime": bundle.runtime,
                "precision": bundle.precision,
                "bytes": bundle.bytes,
                "fp32_bytes": bundle.fp32_bytes,
                "parity": bundle.parity,
                "accuracy": _accuracy(bundle),
            }
            for version in (*GOOD, ANSWERS_NAN)
            for bundle in story.releases[version].value.bundles
        ],
        "refused": story.refusals(),
        "rollouts": [demo_rollouts.document_of(rollout) for rollout in story.rollouts.values()],
        "accuracy_on_devices": story.accuracy,
        "bad_release": {
            "version": ANSWERS_NAN,
            "exposed": len(demo_rollouts.exposed(caught)),
            "rolled_back_s": round(demo_rollouts.seconds_between(caught), 1),
            "reason": demo_rollouts.why(caught),
        },
    }


def _accuracy(bundle: Bundle) -> float:
    return float((bundle.metric or {})["value"])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
