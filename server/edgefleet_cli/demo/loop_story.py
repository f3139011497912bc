"""What `demo --loop` does, step by step: every line is what server and devices say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgefleet_cli.core import api as structs
from edgefleet_cli.core.contexts import Context, ContextFile
from edgefleet_cli.core.errors import CliError, DeclinedError, ServerUnreachableError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Document
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.demo import demo_devices
from edgefleet_cli.demo.demo_devices import Device
from edgefleet_cli.demo.example import GOOD, MODEL, Example
from edgefleet_cli.demo.fog import VEIL, FoggyCameras
from edgefleet_cli.demo.processes import ProcessGroup
from edgefleet_cli.device.captures.capture_files import make_key
from edgefleet_cli.release.deployment.deployer import DONE, Deployer
from edgefleet_cli.release.publisher import Publisher
from edgefleet_cli.release.render import Report
from edgefleet_cli.render.output import Output
from edgefleet_cli.retraining.command_child import last_lines
from edgefleet_terms.parent_verdict import comparison_text, read_comparison

if TYPE_CHECKING:
    from edgefleet_cli.demo.run import ServerAddress

TRIGGER: Final = "fog"
MAKER, APPROVER, RUNNER = "mia", "rita", "digits-runner"
PRIVACY: Final = '{"fields": {"image": [{"do": "keep"}]}, "outputs": true, "low_confidence": 0.6}\n'
ROLLOUT: Final[Document] = {
    "selector": "demo=yes",
    "stages": [
        {"name": "shadow", "size": {"count": 2}, "mode": "shadow", "soak": 4},
        {"name": "canary", "size": {"count": 2}, "soak": 2},
        {"name": "rest", "size": {"percent": 100}, "soak": 2},
    ],
}
ENDED: Final = frozenset({"promoted", "published", "stopped", "failed", "rejected", "cancelled", "expired"})
_POLL_S: Final = 0.3
WAIT_S: Final = 180.0
_ANSWER_S: Final = 1800.0
Run = structs.experiment.Retraining


class LoopError(CliError):
    """The loop did not close."""

    code = "demo.loop"
    default_next_step = "see the logs in the folder of the demo, and run it again"


class LoopStory:
    """One run of the loop."""

    def __init__(
        self,
        session: Session,
        api: ApiClient,
        home: ProcessGroup,
        example: Example,
        folder: Path,
        address: ServerAddress,
    ) -> None:
        self._session = session
        self._api = api
        self._home = home
        self._folder = folder
        self._example = example
        self._address = address
        self.labels = folder / "labels.csv"
        self.config = folder / "edgectl.json"
        self.devices: list[Device] = []
        self.run_id = ""
        self.release = ""
        self._shares: dict[str, float] = {}
        self._profile = ""

    @property
    def page(self) -> str:
        """The page of the retraining, of all of them before it began."""
        return f"{self._address.url}/retraining" + (f"/{self.run_id}" if self.run_id else "")

    # ---- before the fog

    def publish(self, profile: str) -> None:
        """Make the capture key, and ask for the release that sees the fog come."""
        self._profile = profile
        public = make_key(self._folder / "capture.key")
        self._api.put("/capture-key", structs.capture.CaptureKeyIn(public_key=public), structs.capture.CaptureKey)
        write_private(self._folder / "privacy.json", PRIVACY)
        request = self._example.request(GOOD[-1], (profile,))
        request = replace(request, data={**request.data, "privacy": self._folder / "privacy.json"})
        self._first = self._publisher.publish(request)

    def start_devices(self, count: int, pace: Mapping[str, str]) -> list[str]:
        """Start devices, deploy the release to them, and the people and the runner; return its lines."""
        body = structs.enrollment.EnrollmentIn(count=count, ttl_s=3600, labels={"demo": "yes"}, profile=self._profile)
        tokens = self._api.post("/enrollments", body, structs.enrollment.ClaimTokens).value.tokens
        wanted = [
            Device(f"device-{n:02}", f"Camera {n}", self._profile, self._folder / "devices" / f"{n:02}")
            for n in range(1, count + 1)
        ]
        environment = demo_devices.agent_environment(self._home, self._folder, pace)
        demo_devices.enrol(self._home, wanted, [one.token for one in tokens], environment)
        self.devices = demo_devices.start(self._home, self._session.clock, wanted, environment)
        release = self._publisher.follow(self._first, wait_s=WAIT_S).value
        if release.state != "ready":
            raise LoopError(f"{release.ref} was not built", why=release.state)
        deployer = Deployer(self._api, self._quiet, self._session.clock)
        outcomes = deployer.wait(release.ref, deployer.deploy(release.ref, selector="").value, wait_s=WAIT_S)
        if [one for one in outcomes if one.state not in DONE] or len(outcomes) != count:
            raise LoopError(f"{release.ref} is not on all devices")
        self._start_runner()
        self._make_trigger()
        return [
            f"{count} devices serve {release.ref}; a runner waits for work, and a trigger for drift",
            f"{MAKER} made the trigger `{TRIGGER}`: on drift, after an approval by a second person, shadow, canary, rest",
            f"the runner is a process of its own; its token may publish {MODEL} and nothing else",
        ]

    def clear_day(self, cameras: FoggyCameras, wait_s: float) -> list[str]:
        """Show clear images for a while; return its lines."""
        cameras.tally()
        self._pass(wait_s)
        found = cameras.tally()
        self._shares["clear"] = found.share
        return [f"a clear day: {found.answers} images, {found.share:.1%} read right", self._labels_line()]

    def fog(self, cameras: FoggyCameras) -> list[str]:
        """Let fog come, until the trigger has started a retraining; return its lines. Raises LoopError."""
        began_s = self._session.clock.monotonic_s()
        cameras.veil = VEIL
        run = self._until(self._new_run, "the drift started no retraining")
        self.run_id = run.id
        seconds = self._session.clock.monotonic_s() - began_s
        found = cameras.tally()
        self._shares["fog"] = found.share
        return [
            f"fog comes: {found.answers} images, {found.share:.1%} read right; {seconds:.0f} s later the trigger fires",
            run.cause.words,
            *(f"{one.name}: {one.said}" for one in run.cause.signals[:3]),
            f"retraining {run.id}: {run.says}",
        ]

    # ---- the loop

    def approve(self, *, is_once: bool) -> list[str]:
        """Have a second person approve; return its lines. Raises DeclinedError, LoopError."""
        self._session.out.note(f"    the loop as a picture: {self.page}")
        approver = self._token(APPROVER, "person", ("approver",))
        how = f"{APPROVER} approved it"
        if is_once:
            how = f"the demo approved it in the name of {APPROVER}, a second person: with --once nobody types"
        elif self._session.may_ask:
            sys.stderr.write(
                f"    You are {APPROVER}. Approve {self.run_id}, so that it may collect images and train? [y/N] "
            )
            sys.stderr.flush()
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                raise DeclinedError(
                    "not approved", why="the question was not answered with yes", next_step="run it again"
                )
        else:
            self._save_context(approver)
            self._session.out.note(
                f"    waiting for {APPROVER}: EDGECTL_CONFIG={self.config} edgectl --context {APPROVER} retrain approve {self.run_id}"
            )
            self._until(lambda: self._run_unless("awaiting_approval"), "nobody approved it", _ANSWER_S)
        if is_once or self._session.may_ask:
            with ApiClient(self._address.url, approver) as client:
                body = structs.experiment.AnswerRetrainingIn(reason="the cameras stand in fog")
                client.post(f"/retrainings/{part(self.run_id)}:approve", body, Run)
        return [how, f"{MAKER}, who made the trigger, could not have"]

    def train(self) -> list[str]:
        """Wait until the runner has published; return its lines. Raises LoopError."""
        run = self._until(self._trained, "the runner published nothing")
        self.release = run.release
        found = run.data_set
        data = f"{found.records} images, {found.labelled} with a label" if found else "no data set"
        return [
            f"trained by {run.holder} and published as {run.release}, its parent is {run.parent}",
            f"collected {run.collected.records} sealed records of {run.collected.answered} devices; opened by the runner: {data}",
            *[line for line in self._runner_lines() if "right on" in line or "fog is" in line],
        ]

    def roll_out(self, cameras: FoggyCameras) -> list[str]:
        """Follow shadow, canary and the rest; return its lines. Raises LoopError."""
        run = self._until(self._rolled_out, "the rollout did not end")
        if run.state != "promoted":
            raise LoopError(f"{run.release} was not promoted", why=f"{run.state}: {run.says}")
        rollout = self._api.get(f"/rollouts/{part(run.rollout)}", structs.rollout.Rollout).value
        report = self._api.get(f"/releases/{part(run.release)}/report", Report).value
        cameras.tally()
        return [
            f"{run.release} promoted through {len(rollout.stages)} stages",
            f"next to its parent: {comparison_text(read_comparison(report.comparison))}",
            *(f"{stage.name}: {stage.reason or stage.state}" for stage in rollout.stages),
            *self._agreement(run.rollout),
            "four devices are too few for statistics: its stages are judged by failures, crashes and answers that are no numbers",
        ]

    def after(self, cameras: FoggyCameras) -> list[str]:
        """Wait until the drift is gone; return its lines. Raises LoopError."""
        run = self._until(self._drift_gone, "the drift is not gone")
        found = cameras.tally()
        self._shares["after"] = found.share
        assert run.drift_after is not None
        return [
            f"still foggy: {found.answers} images, {found.share:.1%} read right; the drift is {run.drift_after.state}",
            run.drift_after.words,
            f"see {self.page}",
        ]

    def summary(self, elapsed_s: float) -> Document:
        """Return what `demo --loop -o json` prints."""
        raw = self._api.get(f"/retrainings/{part(self.run_id)}", Run).raw
        return {
            "ok": True,
            "elapsed_s": round(elapsed_s, 1),
            "retraining": raw,
            "release": self.release,
            "right": {name: round(share, 4) for name, share in self._shares.items()},
            "page": self.page,
        }

    # ---- parts

    def _start_runner(self) -> None:
        token = self._token(RUNNER, "service", ("publisher",), models=(MODEL,))
        environment = {
            "EDGECTL_SERVER": self._address.url,
            "EDGECTL_TOKEN": token,
            "EDGECTL_CONFIG": str(self._folder / "runner.json"),
        }
        command = python_module(
            *("edgefleet_cli.main", "retrain", "worker", MODEL, "--key", str(self._folder / "capture.key")),
            *("--labels-file", str(self.labels), "--holder", RUNNER, "--every", "1s"),
            *("--keep", str(self._folder / "retrainings"), "--"),
            *python_module("edgefleet_cli.demo.last_layer"),
        )
        self._home.start("runner", command, environment)

    def _make_trigger(self) -> None:
        maker = self._token(MAKER, "person", ("publisher", "operator"))
        body = structs.experiment.TriggerIn(
            name=TRIGGER,
            model=MODEL,
            on="drift",
            data=structs.experiment.CollectIn(most=1000, devices=len(self.devices), wait_s=20),
            rollout=dict(ROLLOUT),
        )
        with ApiClient(self._address.url, maker) as client:
            client.post("/triggers", body, structs.experiment.Trigger)
        self._save_context(self._address.token)

    def _token(self, name: str, kind: str, roles: tuple[str, ...], models: tuple[str, ...] = ()) -> str:
        person = self._api.post("/people", structs.access.PersonIn(name=name, kind=kind), structs.access.Person).value
        body = structs.access.TokenIn(name=name, roles=roles, models=models, person=person.id)
        return self._api.post("/tokens", body, structs.access.NewToken).value.token

    def _save_context(self, token: str) -> None:
        name = "demo" if token == self._address.token else APPROVER
        ContextFile(self.config).put(Context(name, self._address.url, token), make_current=name == "demo")

    def _new_run(self) -> Run | None:
        page = self._api.page("/retrainings", Run, model=MODEL)
        return page.replies[0].value if page.replies else None

    def _run(self) -> Run:
        return self._api.get(f"/retrainings/{part(self.run_id)}", Run).value

    def _run_unless(self, state: str) -> Run | None:
        run = self._run()
        return None if run.state == state else run

    def _trained(self) -> Run | None:
        return self._sound(self._run(), lambda run: bool(run.release))

    def _rolled_out(self) -> Run | None:
        run = self._run()
        return run if run.state in ENDED else None

    def _drift_gone(self) -> Run | None:
        run = self._run()
        return run if run.drift_after is not None and run.drift_after.state != "waiting" else None

    def _sound(self, run: Run, is_there: Callable[[Run], bool]) -> Run | None:
        if run.state in {"failed", "rejected", "cancelled", "expired"}:
            why = run.error.why if run.error else run.says
            raise LoopError(f"the retraining {run.state}", why=why)
        return run if is_there(run) else None

    def _agreement(self, rollout: str) -> list[str]:
        """Return how often the shadow answered as what serves, in a line; none where no figures came."""
        found = self._api.get(f"/experiments/{part(rollout)}", structs.experiment.ExperimentResult).value
        parts = [
            one.shadow
            for trial in found.trials
            if trial.mode == "shadow"
            for one in trial.results
            if one.shadow is not None
        ]
        judged, agreed = sum(one.judged for one in parts), sum(one.agreed for one in parts)
        if not judged:
            return []
        return [
            f"as a shadow it answered like the release that serves on {agreed} of {judged} images ({agreed / judged:.0%})"
        ]

    def _runner_lines(self) -> list[str]:
        logs = sorted((self._folder / "retrainings").glob("*/log/training.log"))
        return last_lines(logs[-1]) if logs else []

    def _labels_line(self) -> str:
        return "what each image was is sent as ground truth, a second later"

    def _pass(self, wait_s: float) -> None:
        until_s = self._session.clock.monotonic_s() + wait_s
        while self._session.clock.monotonic_s() < until_s:
            self._home.check()
            self._session.clock.sleep(_POLL_S)

    def _until(self, found: Callable[[], Run | None], otherwise: str, wait_s: float = WAIT_S) -> Run:
        """Ask until there is an answer; a server that is away meanwhile is asked again. Raises LoopError, ChildError."""
        until_s = self._session.clock.monotonic_s() + wait_s
        last = "the server does not answer"
        while True:
            try:
                answer = found()
                last = self._says() if answer is None else ""
            except ServerUnreachableError:
                answer = None
            if answer is not None:
                return answer
            self._home.check()
            if self._session.clock.monotonic_s() > until_s:
                raise LoopError(otherwise, why=last)
            self._session.clock.sleep(_POLL_S)

    def _says(self) -> str:
        if not self.run_id:
            return "no retraining has begun"
        run = self._run()
        return f"{run.state}: {run.says}"

    @property
    def _publisher(self) -> Publisher:
        return Publisher(self._api, self._quiet, self._session.clock)

    @property
    def _quiet(self) -> Output:
        out = self._session.out
        return Output(out.form, color=out.color, quiet=out.quiet or not out.remarks.is_terminal)
