"""Running the demo: a folder, a server, the story, then waiting for Ctrl-C, then nothing left behind."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefleet_cli.core.contexts import Context, ContextFile
from edgefleet_cli.core.errors import EXIT_OK, CliError, UsageError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import python_module, require
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Document
from edgefleet_cli.demo.demo_rollouts import profiles_in_use
from edgefleet_cli.demo.example import ANSWERS_NAN, GOOD, MODEL, REFUSED, Example, find_example
from edgefleet_cli.demo.feed import Feed
from edgefleet_cli.demo.narration import show_step
from edgefleet_cli.demo.processes import ChildError, ProcessGroup, read_json
from edgefleet_cli.demo.story import Story, summary

_INIT_S = 60.0
_READY_S = 60.0
_POLL_S = 0.1
_LATER_EVERY_S = 1.0


@dataclass(frozen=True)
class DemoRequest:
    """The flags of `edgectl demo`."""

    devices: int
    data: Path | None
    once: bool
    port: int
    broker: str | None
    examples: Path | None


Play = Callable[[Session, DemoRequest, ProcessGroup, Path, Example], None]


@dataclass(frozen=True)
class ServerAddress:
    """Where the demo's server answers, and the token of its first admin."""

    url: str
    token: str
    ca_file: Path


def run_demo(session: Session, request: DemoRequest, play: Play | None = None) -> int:
    """Run the demo and return its exit code. Leaves no process, and no file outside its data folder. play: another story."""
    for package in ("fastapi", "onnx", "numpy"):
        require(package, "all")
    example = find_example(request.examples)
    folder, is_temporary = _data_folder(request.data)
    with _stoppable(), ProcessGroup(folder / "logs", session.clock) as home:
        if is_temporary:
            home.remove_at_end(folder)
        try:
            (play or _run)(session, request, home, folder, example)
        except CliError as error:
            if is_temporary:
                home.keep(folder)
            session.out.note(f"the logs are kept in {folder / 'logs'}")
            error.next_step = error.next_step or f"read the logs in {folder / 'logs'}"
            raise
        finally:
            _hold_stop_signals()
            (folder / "demo.json").unlink(missing_ok=True)
    return EXIT_OK


def _run(session: Session, request: DemoRequest, home: ProcessGroup, folder: Path, example: Example) -> None:
    began_s = session.clock.monotonic_s()
    address = start_server(session, request, home, folder / "server")
    with ApiClient(address.url, address.token, request_timeout_s=60.0) as api:
        profiles = profiles_in_use(request.devices, demo_profiles())
        story = Story(api, home, session.out, session.clock, example, profiles)
        _step(session, 1, [f"server at {address.url}", _broker_text(folder / "server")])
        images = example.evaluation(), example.unseen()
        first, second = GOOD
        story.queue(first)
        _step(session, 2, story.enrol_devices(request.devices, folder / "devices"))
        built = story.publish(first)
        story.queue(second)
        _step(session, 3, [story.deploy(first), *built, *story.measure(*images)])
        built = story.publish(second)
        for version in (ANSWERS_NAN, *REFUSED):
            story.queue(version)
        with Feed(story.devices, example.hazy()).running() as feed:
            title, *stages = story.roll_out(second)
            _step(session, 4, [title, *built, *stages, *story.measure(*images), story.health()])
            story.publish(ANSWERS_NAN)
            _step(session, 5, [*story.catch_bad(), _feed_line(feed)])
        _step(session, 6, [story.refuse_bad(), *_refusal_lines(story)])
        outcome = summary(story, session.clock.monotonic_s() - began_s)
    if not request.once:
        write_private(folder / "demo.json", json.dumps(_demo_json(address, story), indent=2) + "\n")
        # before the outcome: a script that has read it goes on with this address
        ContextFile(folder / "edgectl.json").put(Context("demo", address.url, address.token), make_current=True)
    _print(session, outcome)
    if not request.once:
        # the cameras go on, slower: pages of a fleet that is asked nothing have nothing to show
        with Feed(story.devices, example.hazy(), every_s=_LATER_EVERY_S).running():
            _stay(session, home, folder, address, story, is_temporary=request.data is None)


def demo_profiles() -> tuple[str, str]:
    """Return the two profiles of the demo for this machine's architecture."""
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if arch not in {"x86_64", "aarch64"}:
        raise UsageError(
            f"the demo has no profiles for {arch}",
            why="it needs onnxruntime on x86_64 or aarch64",
            next_step="run a server elsewhere and enrol this machine as a device",
        )
    return f"generic-{arch}-ort", f"generic-{arch}-ort-small"


def start_server(
    session: Session, request: DemoRequest, home: ProcessGroup, data: Path, environment: Mapping[str, str] | None = None
) -> ServerAddress:
    """Make and start a server, and return where it answers. environment: settings of it. Raises ChildError."""
    edgectl = python_module("edgefleet_cli.main", "server")
    init = home.start("server-init", [*edgectl, "init", str(data)])
    home.wait([init], _INIT_S)
    init.log.unlink()  # it shows the admin token, and logs are what people send to others
    flags = ["--data", str(data), "--port", str(request.port), "--device-port", "0"]
    if request.broker is not None:
        flags += ["--broker", request.broker]
    server = home.start("server", [*edgectl, "start", *flags], environment)
    token = (data / "admin.token").read_text(encoding="ascii").strip()
    deadline_s = session.clock.monotonic_s() + _READY_S
    while True:
        home.check()
        found = read_json(data / "run" / "server.json")
        if found is not None:
            with ApiClient(str(found["api_url"]), token) as api:
                if api.is_ready():
                    break
        if session.clock.monotonic_s() > deadline_s:
            raise ChildError("the server was not ready within a minute", why=server.last_words())
        session.clock.sleep(_POLL_S)
    return ServerAddress(str(found["api_url"]), token, data / "keys" / "device-ca.crt")


def _print(session: Session, outcome: Document) -> None:
    if session.options.output is Format.TABLE:
        session.out.note(f"done in {outcome['elapsed_s']:.0f} s")
    else:
        session.out.document(outcome, lambda: None)


def _stay(
    session: Session, home: ProcessGroup, folder: Path, address: ServerAddress, story: Story, *, is_temporary: bool
) -> None:
    """Tell how to go on and wait for Ctrl-C."""
    note = session.out.note
    note("")
    note(f"Web    {address.url}/ (sign in with the link that `edgectl dashboard` prints)")
    note(f"API    {address.url}/docs")
    note(f"Token  {address.token}")
    note(f"Files  {folder}")
    note("Next, in another terminal:")
    note(f"  export EDGECTL_CONFIG={folder / 'edgectl.json'}")
    for line in _next_commands(_edgectl_command(), story.rollouts[ANSWERS_NAN].id):
        note(line)
    note("Ctrl-C stops everything.")
    try:
        while True:
            home.check()
            session.clock.sleep(0.5)
    except KeyboardInterrupt:
        note("\nstopping the demo; its files " + ("are removed" if is_temporary else f"stay in {folder}"))


def _next_commands(edgectl: str, bad_rollout: str) -> list[str]:
    """Return what to try now, one command a line with what it shows, aligned."""
    commands = {
        "device list": "what runs where",
        "rollout list": "both rollouts",
        f"rollout show {bad_rollout}": "stages of the bad release",
        f"rollout explain {bad_rollout}": "why it was stopped",
        f"release show {MODEL}@{GOOD[-1]}": "what was built and validated",
        f"deploy {MODEL}@{GOOD[0]} --to 'demo=yes' --wait": "roll back by hand",
        "events -f": "events as they happen",
        "dashboard": "one-time sign-in link",
    }
    width = max(len(command) for command in commands)
    return [f"  {edgectl} {command:<{width}}  # {shows}" for command, shows in commands.items()]


def _edgectl_command() -> str:
    """Return what to type for `edgectl` in a terminal that knows nothing of this installation's environment."""
    sibling = Path(sys.executable).with_name("edgectl")
    if not sibling.exists():
        return f"{sys.executable} -m edgefleet_cli.main"
    if sys.prefix == sys.base_prefix:
        return "edgectl"
    here = os.path.relpath(sibling)
    return str(sibling) if here.startswith("..") else here


def _step(session: Session, number: int, lines: list[str]) -> None:
    title, *details = lines
    if session.options.verbose:
        details.append(f"at {session.clock.now():%H:%M:%S}")
    show_step(session.out, number, title, *details)


def _refusal_lines(story: Story) -> list[str]:
    """Return one line a version and reason, with the profiles it holds for."""
    profiles: dict[tuple[str, str], set[str]] = {}
    for entry in story.refusals():
        profiles.setdefault((entry["version"], entry["reason"]), set()).add(entry["profile"])
    lines = []
    for (version, reason), names in profiles.items():
        where = "every profile" if names == set(story.profiles) else ", ".join(sorted(names))
        lines.append(f"{MODEL}@{version} for {where}: {reason}")
    return lines


def _feed_line(feed: Feed) -> str:
    seen = feed.total
    return (
        f"meanwhile cameras showed {seen.answers + seen.unanswered} images, 1 in 5 hazy: {seen.answers} answered, "
        f"{seen.without_number} of them with no number, {seen.unanswered} unanswered"
    )


def _broker_text(data: Path) -> str:
    found = read_json(data / "run" / "server.json") or {}
    broker = found.get("broker") or {}
    return f"MQTT broker {broker.get('kind', 'unknown')} on port {broker.get('port', '?')}"


def _demo_json(address: ServerAddress, story: Story) -> Document:
    return {
        "url": address.url,
        "token": address.token,
        "ca_file": str(address.ca_file),
        "devices": [device.as_json() for device in story.devices],
    }


def _data_folder(given: Path | None) -> tuple[Path, bool]:
    """Return a fresh folder and whether it is a temporary one. Raises UsageError for a folder that is in use."""
    if given is None:
        folder, is_temporary = Path(tempfile.mkdtemp(prefix="edgefleet-demo-")), True
    else:
        folder, is_temporary = given.resolve(), False
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{given} is not empty",
                why="the demo creates a new fleet and would mix it with the existing files",
                next_step="name another folder with --data, or remove this one",
            )
    (folder / "logs").mkdir(parents=True, mode=0o700)
    return folder, is_temporary


@contextmanager
def _stoppable() -> Iterator[None]:
    """Make SIGTERM and SIGHUP stop the demo as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hold_stop_signals() -> None:
    """Ignore further stop signals while cleaning up: that takes seconds at most, and half of it would leave things."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
