"""A few devices that take part in rollouts, and rollouts as `edgectl` tells of them.

Whether a new version proves itself is the test's to say: it is on probation until it has answered a few requests (`prove`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from edgefleet_server.clock import SystemClock
from edgefleet_server.rollout.planner.completion import LOOK_FOR_LATE
from edgefleet_server.rollout.store import confirmation_rows, rollouts
from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx, nan_onnx
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

Json = dict[str, Any]

PROVING = 3
"""Requests that a version must answer on probation."""
SLOW_TRIAL = {
    "EDGEFLEET_AGENT_PROBATION_S": "3600",
    "EDGEFLEET_AGENT_PROBATION_INFERENCES": str(PROVING),
    "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "2",
}
ALL = {"name": "all", "size": {"percent": 100}, "soak": 0}


def enrolled(road: Road, name: str, labels: Mapping[str, str] | None = None, **environment: str) -> Traveller:
    """Return a new device whose versions prove themselves by answering requests only."""
    return Traveller(road, name, PROFILE, labels, **SLOW_TRIAL, **environment)


def bundle(model: str, version: str, *, pad: int = 0) -> bytes:
    """Return a good bundle of at least `pad` bytes; every version is another one."""
    extra = {"pad.bin": os.urandom(max(pad, 16))}
    return bundle_bytes(classifier_onnx(), name=model, version=version, extra=extra)


def nan_bundle(model: str, version: str) -> bytes:
    """Return a bundle that passes its golden check and answers NaN to negative numbers."""
    return bundle_bytes(nan_onnx(), name=model, version=version)


class Fleet:
    """Some devices of a road."""

    def __init__(self, road: Road, devices: Sequence[Traveller]) -> None:
        self.road = road
        self.devices = list(devices)

    def first(self, count: int) -> Fleet:
        """Return a smaller fleet of the first devices."""
        return Fleet(self.road, self.devices[:count])

    @property
    def selector(self) -> str:
        """Return what matches exactly these devices."""
        return f"id in ({','.join(device.name for device in self.devices)})"

    def named(self, name: str) -> Traveller:
        """Return a device by its id."""
        return next(device for device in self.devices if device.name == name)

    def base(self, model: str) -> str:
        """Have every device run version 1.0.0 of a model, proven; return the release."""
        ref = f"{model}@1.0.0"
        self.publish(ref, bundle(model, "1.0.0"))
        self.road.edgectl("deploy", ref, "--to", self.selector)
        self.prove(ref)
        return ref

    def publish(self, ref: str, data: bytes) -> str:
        """Sign a release; nobody is to run it yet."""
        self.road.house.release(ref, bundles={PROFILE: data})
        return ref

    def prove(self, ref: str) -> None:
        """Let a version that has arrived prove itself on every device: it answers as often as its trial asks for."""
        model = ref.partition("@")[0]
        for device in self.devices:
            device.told(model, release=ref, serving=True)
            for _ in range(PROVING):
                assert device.ask_four(model).is_success
        for device in self.devices:
            device.told(model, release=ref, phase="committed")

    def roll(self, release: str, *stages: Json, selector: str | None = None, **more: Any) -> Rolling:
        """Start a rollout to these devices (or to those of `selector`)."""
        spec = {"release": release, "selector": self.selector if selector is None else selector, "stages": stages}
        path = self.road.folder / f"{release.replace('@', '-')}.json"
        path.write_text(json.dumps({"apiVersion": "edgefleet/v1", "kind": "Rollout", "spec": spec | more}))
        return Rolling(self.road, str(self.road.edgectl("rollout", "create", "-f", path)["id"]))

    def run(self, ref: str) -> None:
        """Wait until every device runs a release, proven, and answers with it."""
        model, _, version = ref.partition("@")
        for device in self.devices:
            device.told(model, release=ref, phase="committed", serving=True)
            assert device.served(model) == version


class Rolling:
    """One rollout, as `edgectl` tells of it."""

    def __init__(self, road: Road, rollout_id: str) -> None:
        self.road = road
        self.id = rollout_id

    def shown(self) -> Json:
        """Return `edgectl rollout show`."""
        shown: Json = self.road.edgectl("rollout", "show", self.id)
        return shown

    def devices(self) -> dict[str, Json]:
        """Return `edgectl rollout devices`, by device."""
        return {one["device"]: one for one in self.road.edgectl("rollout", "devices", self.id)["items"]}

    def act(self, verb: str, *flags: str, code: int = 0) -> Any:
        """Return what `edgectl rollout VERB` answers."""
        return self.road.edgectl("rollout", verb, self.id, *flags, code=code)

    def until(self, is_so: Callable[[Json], Any]) -> Json:
        """Wait until the rollout is as wanted, and return it."""
        seen: list[Json] = [{}]

        def looks_so() -> bool:
            seen[0] = self.shown()
            return bool(is_so(seen[0]))

        assert eventually(looks_so, PATIENCE_S, ASK_AGAIN_S), json.dumps([seen[0], self.devices()], indent=1)
        return seen[0]

    def ends(self, state: str) -> Json:
        """Wait until the rollout is in a state, and return it."""
        return self.until(lambda shown: shown["state"] == state)

    def stands(self, device: str, **facts: Any) -> Json:
        """Wait until the rollout tells these facts of a device, and return all it tells."""
        seen: Json = {}

        def matches() -> bool:
            seen.update(self.devices().get(device, {}))
            return all(key in seen and seen[key] == value for key, value in facts.items())

        assert eventually(matches, PATIENCE_S, ASK_AGAIN_S), (
            f"wanted {facts}, told {seen}, of {json.dumps(self.shown(), indent=1)}"
        )
        return seen

    def look_for_late(self) -> None:
        """Bring forward the engine's next look at this rollout, which has ended and is looked at once a minute."""
        now = SystemClock().now()
        with self.road.house.db.session() as session:
            row = rollouts.rollout(session, self.id)
            assert row.next_eval_at is not None
            assert row.next_eval_at - now <= LOOK_FOR_LATE
            row.next_eval_at = now
            session.add(row)

    def drawn(self) -> str:
        """Return the device that the server drew to confirm a failure."""
        with self.road.house.db.read() as session:
            (draw,) = confirmation_rows.of_rollout(session, self.id)[-1].draws
        return draw.device

    def page(self) -> str:
        """Return the web page of the rollout as a signed-in browser gets it."""
        with self.road.server.client() as client:
            token = client.headers.pop("authorization").removeprefix("Bearer ")
            client.post("/login", data={"token": token})
            answer = client.get(f"/rollouts/{self.id}")
        assert answer.status_code == 200, answer.text
        return answer.text

    def transitions(self, device: str) -> list[tuple[str, str]]:
        """Return the states that a device went through, oldest first, as the feed tells."""
        items = self.road.edgectl("events", "--rollout", self.id, "--device", device)["items"]
        moves = [event["detail"] for event in items if event["kind"] == "assignment"]
        return [(move["from"], move["to"]) for move in reversed(moves)]


def kill_whole(device: Traveller) -> None:
    """kill -9 of a device: agentd and all its children at the same time, as when power fails."""
    assert device.process is not None
    main = psutil.Process(device.process.pid)
    family = [*main.children(recursive=True), main]
    for process in family:
        process.send_signal(signal.SIGSTOP)  # nobody may notice that another one is gone
    for process in family:
        process.kill()
    device.process.wait()
    psutil.wait_procs(family, timeout=10)


def halt_download(device: Traveller, model: str) -> None:
    """Stop the process that downloads a model, in the middle: on a fast machine the whole takes less than a look at it."""

    def halted() -> bool:
        if device.model(model).get("phase") != "downloading":
            return False
        assert device.process is not None
        children = psutil.Process(device.process.pid).children(recursive=True)
        for child in (found for found in children if "edgefleet_agent.verifier" in found.cmdline()):
            child.send_signal(signal.SIGSTOP)
            return True
        return False

    assert eventually(halted, PATIENCE_S), device.log.read_text()[-3000:]


def rolled_back_by_hand(device: Traveller, model: str, reason: str) -> Json:
    """Return what `edge-agent rollback` on the device prints."""
    command = [sys.executable, "-m", "edgefleet_agent", "rollback", model, "--reason", reason, "-o", "json"]
    done = subprocess.run(
        [*command, "--state", str(device.state)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: Json = json.loads(done.stdout)
    return answer


def show_nan(device: Traveller, model: str, times: int) -> None:
    """Ask a NaN model for numbers that it has no answer to."""
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [-1.0, 0.5, 0.5, 0.5]}]
    for _ in range(times):
        device.ask(model, inputs)
