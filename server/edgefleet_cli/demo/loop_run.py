"""Running `demo --loop`: from fog to a retrained release on every device, with one approval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.demo.example import Example
from edgefleet_cli.demo.fog import FoggyCameras
from edgefleet_cli.demo.loop_story import LoopStory
from edgefleet_cli.demo.narration import show_step
from edgefleet_cli.demo.processes import ProcessGroup
from edgefleet_cli.demo.run import DemoRequest, demo_profiles, start_server

STEPS: Final = 8
SERVER_PACE: Final = {
    "EDGEFLEET_SERVER_ENGINE_TICK_S": "0.5",
    "EDGEFLEET_SERVER_ALERT_EVERY_S": "1",
    "EDGEFLEET_SERVER_DRIFT_JUDGED_EVERY_S": "2",
}
DEVICE_PACE: Final = {
    "EDGEFLEET_AGENT_CAPTURE_CONSENT": "true",
    "EDGEFLEET_AGENT_CAPTURE_RANDOM_RATIO": "1.0",
    "EDGEFLEET_AGENT_CAPTURE_WINDOW_S": "2",
}
PACE: Final = (
    "faster than by default: drift is judged every 2 s (10 min), alerts every second (15 s), telemetry every 3 s (15 min); "
    "devices keep up to two images a class every 2 s of all answers (every minute, of one answer in a thousand); "
    "stages soak for 2 to 4 s (10 min)"
)
CLEAR_S: Final = 12.0


def play_loop(session: Session, request: DemoRequest, home: ProcessGroup, folder: Path, example: Example) -> None:
    """Tell the story, and stay afterwards unless it is to run once. Raises CliError."""
    began_s = session.clock.monotonic_s()
    if not request.once and not session.may_ask and session.options.no_input:
        raise UsageError(
            "the loop needs one approval",
            why="--no-input forbids the question",
            next_step="run it on a terminal, or add --once: then the demo approves in the name of a second person",
        )
    address = start_server(session, request, home, folder / "server", SERVER_PACE)
    number = 0

    def step(lines: list[str]) -> None:
        nonlocal number
        number += 1
        title, *details = lines
        at = f"at {session.clock.monotonic_s() - began_s:.0f} s"
        show_step(session.out, number, f"{title} ({at})", *details, steps=STEPS)

    with ApiClient(address.url, address.token, request_timeout_s=60.0) as api:
        story = LoopStory(session, api, home, example, folder, address)
        step([f"server at {address.url}", PACE])
        story.publish(demo_profiles()[0])
        step(story.start_devices(request.devices, DEVICE_PACE))
        with FoggyCameras(story.devices, example.unseen(), story.labels).running() as cameras:
            step(story.clear_day(cameras, CLEAR_S))
            step(story.fog(cameras))
            step(story.approve(is_once=request.once))
            step(story.train())
            step(story.roll_out(cameras))
            step(story.after(cameras))
            outcome = story.summary(session.clock.monotonic_s() - began_s)
            if session.options.output is Format.TABLE:
                session.out.note(f"done in {outcome['elapsed_s']:.0f} s")
            else:
                session.out.document(outcome, lambda: None)
            if not request.once:
                write_private(folder / "demo.json", json.dumps({"url": address.url, "token": address.token}) + "\n")
                _stay(session, home, folder, story, is_temporary=request.data is None)


def _stay(session: Session, home: ProcessGroup, folder: Path, story: LoopStory, *, is_temporary: bool) -> None:
    note = session.out.note
    note("")
    note(f"Web    {story.page}")
    note(f"Files  {folder}")
    note(f"Next, in another terminal, with EDGECTL_CONFIG={story.config}:")
    for line in ("dashboard", "trigger show fog", f"retrain show {story.run_id}", f"release show {story.release}"):
        note(f"  edgectl {line}")
    note("Ctrl-C stops everything.")
    try:
        while True:
            home.check()
            session.clock.sleep(0.5)
    except KeyboardInterrupt:
        note("\nstopping the demo; its files " + ("are removed" if is_temporary else f"stay in {folder}"))
