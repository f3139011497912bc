"""`demo --loop` with a SIGKILL at a random moment: of the server, of the runner, or of an agent, each started again a second later.

A round is good when the loop goes on to the end, or its retraining is under way and says what it waits for.
"""

from __future__ import annotations

import random
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError, ServerUnreachableError
from edgefleet_cli.core.options import resolve
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.demo.example import find_example
from edgefleet_cli.demo.fog import FoggyCameras
from edgefleet_cli.demo.guard import signal_group
from edgefleet_cli.demo.loop_run import DEVICE_PACE, SERVER_PACE
from edgefleet_cli.demo.loop_story import ENDED, LoopStory
from edgefleet_cli.demo.processes import Child, ProcessGroup
from edgefleet_cli.demo.run import DemoRequest, demo_profiles, start_server

VICTIMS: Final = ("server", "runner", "device-01")
LATEST_S: Final = 80.0
"""After the fog: with some load the loop takes about as long."""
DEVICES: Final = 4
_AWAY_S: Final = 1.0


@dataclass
class Reviving:
    """The demo's processes, one of which is killed once and started again: as the demo asks for them."""

    group: ProcessGroup
    victim: str
    kill_at_s: float = float("inf")
    killed: bool = False
    _commands: dict[str, tuple[list[str], Mapping[str, str] | None]] = field(default_factory=dict)
    _children: dict[str, Child] = field(default_factory=dict)

    def start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None, *, feed: str | None = None
    ) -> Child:
        """Start a process; the server on ports that it keeps."""
        if name == "server":
            at = command.index("--device-port")
            command = [*command[: at + 1], str(_free_port()), *command[at + 2 :], "--broker-port", str(_free_port())]
        self._commands[name] = command, environment
        self._children[name] = self.group.start(name, command, environment, feed=feed)
        return self._children[name]

    def check(self) -> None:
        """Kill the victim once its moment has come."""
        clock = SystemClock()
        if self.killed or clock.monotonic_s() < self.kill_at_s:
            return
        self.killed = True
        child = self._children[self.victim]
        signal_group(child.process.pid, signal.SIGKILL)
        child.process.wait()
        clock.sleep(_AWAY_S)
        command, environment = self._commands[self.victim]
        self._children[self.victim] = self.group.start(self.victim, command, environment)

    def wait(self, children: list[Child], wait_s: float) -> None:
        """Wait until these have ended well."""
        self.group.wait(children, wait_s)

    def remove_at_end(self, folder: Path) -> None:
        """Have a folder removed once everything has ended."""
        self.group.remove_at_end(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def round_of(victim: str, after_s: float, folder: Path) -> dict[str, Any]:
    """Play the loop once, with a kill so many seconds after the fog; return how it ended."""
    session = Session(resolve({"quiet": True}))
    clock = session.clock
    (folder / "logs").mkdir(parents=True)
    with ProcessGroup(folder / "logs", clock) as group:
        home = Reviving(group, victim)
        processes = cast("ProcessGroup", home)
        request = DemoRequest(DEVICES, folder, True, _free_port(), None, None)
        address = start_server(session, request, processes, folder / "server", SERVER_PACE)
        example = find_example(None)
        with ApiClient(address.url, address.token, request_timeout_s=60.0) as api:
            story = LoopStory(session, api, processes, example, folder, address)
            story.publish(demo_profiles()[0])
            story.start_devices(DEVICES, DEVICE_PACE)
            with FoggyCameras(story.devices, example.unseen(), story.labels).running() as cameras:
                story.clear_day(cameras, 10)
                began_s = clock.monotonic_s()
                home.kill_at_s = began_s + after_s
                said = ""
                try:
                    story.fog(cameras)
                    _approve(story, clock)
                    story.train()
                    story.roll_out(cameras)
                    story.after(cameras)
                except CliError as error:
                    said = f"{error.message}: {error.why}"
                run = api.get(f"/retrainings/{story.run_id}", dict).raw if story.run_id else {}
        ended = {"victim": victim, "after_s": round(after_s, 1), "killed": home.killed, "state": run.get("state", "")}
        after = (run.get("drift_after") or {}).get("state", "")
        return {
            **ended, "drift": after, "attempts": run.get("attempts"), "says": said or run.get("says", ""),
            "seconds": round(clock.monotonic_s() - began_s, 1), "goes_on": not said,
        }  # fmt: skip


def _approve(story: LoopStory, clock: SystemClock) -> None:
    for _ in range(60):
        try:
            story.approve(is_once=True)
            return
        except ServerUnreachableError:
            clock.sleep(1)
    raise ServerUnreachableError("the server did not come back")


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Play `n` rounds; the victims take turns."""
    chance = random.Random(seed)
    rounds: list[dict[str, Any]] = []
    for number in range(n):
        with tempfile.TemporaryDirectory(prefix="edgefleet-loop-") as folder:
            found = round_of(VICTIMS[number % len(VICTIMS)], chance.uniform(0, LATEST_S), Path(folder) / "d")
        sys.stderr.write(f"{found}\n")
        rounds.append(found)
    good = [one for one in rounds if one["goes_on"] or (one["state"] not in {"", *ENDED} and one["says"])]
    return {"ok": len(good) == n, "went_on": sum(one["goes_on"] for one in rounds), "rounds": rounds}
