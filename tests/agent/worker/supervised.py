"""The agent's own supervision of workers (`Supervisor` in its loop) over slots on a disk, without a server or a broker."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.composition.agent_parts import prepare_folders, remove_run_files
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.install.slots import BUNDLE_FILE, Slots
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.serving.worker_process import WorkerOptions
from edgefleet_agent.worker.control.launch import listen_tcp
from edgefleet_agent.worker.control.protocol import Failed, Golden, Ready, Stats, ToAgentd
from edgefleet_protocol.digest import sha256_hex

T = TypeVar("T")
WAIT_S = 120.0


class House:
    """Workers of some models on one port. What happens is put into `happened` as (what, model, detail)."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._paths = StatePaths(folder)
        prepare_folders(self._paths)
        self.slots = Slots(self._paths.models)
        self.listener = listen_tcp("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        self.loop = Loop(SystemClock())
        fields: dict[str, Any] = {
            "listener_fds": (self.listener.fileno(),),
            "routes": self._paths.routes,
            "sockets": self._paths.sockets(),
            "threads": 1,
            "memory_bytes": 0,
            "body_bytes": 1 << 25,
            "timeout_s": 30.0,
        }
        self.serving = Supervisor(
            self.loop, WorkerOptions(**{**fields, **options}), self.slots, "test", SystemClock().monotonic_s
        )
        self.wait_s = WAIT_S
        self.refs: dict[str, SlotRef] = {}
        self.happened: queue.SimpleQueue[tuple[str, str, str]] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.serving.attach(self)
        self.loop.on_wake(self._work)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    # ---- what the tests do

    def put(self, model: str, slot: str, version: str, bundle: bytes) -> SlotRef:
        """Write a bundle into a slot and return what names it."""
        folder = self.slots.folder(model, slot)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BUNDLE_FILE).unlink(missing_ok=True)
        (folder / BUNDLE_FILE).write_bytes(bundle)
        return SlotRef(slot=slot, target=f"{model}/{version}/p.bundle", sha256=sha256_hex(bundle), version=version)

    def do(self, act: Callable[[], T]) -> T:
        """Run `act` in the loop and return what it returns."""
        box: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def call() -> None:
            try:
                box.put((act(), None))
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                box.put((None, error))

        self._todo.put(call)
        self.loop.wake()
        value, error = box.get(timeout=WAIT_S)
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def wait_for(self, what: str, model: str) -> str:
        """Return the detail of the next event of that kind within `self.wait_s`; others are dropped, and named when it does not come."""
        until = time.monotonic() + self.wait_s
        others: Counter[str] = Counter()
        while True:
            try:
                kind, name, detail = self.happened.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                seen = [f"{n} x {event}" for event, n in others.most_common()] or "nothing"
                raise AssertionError(f"no {what!r} of {model} within {self.wait_s:g} s; instead: {seen}") from None
            if (kind, name) == (what, model):
                return detail
            others[f"{kind} {name} {detail}".strip()] += 1

    def serve(self, model: str, ref: SlotRef) -> None:
        """Make a model serve and wait for it."""
        self.refs[model] = ref
        self.do(lambda: self.serving.serve(model, ref))
        self.wait_for("serving", model)

    def swap(self, model: str, ref: SlotRef) -> float:
        """Put a new version in the place of the one that serves, as the install machine does.

        Returns when it serves; the time is the monotonic one at which it was ready.
        """
        self.do(lambda: self.serving.try_out(model, ref))
        self.wait_for("ready", model)
        ready = time.monotonic()
        self.refs[model] = ref
        self.do(lambda: self.serving.promote(model))
        self.wait_for("serving", model)
        return ready

    def close(self) -> None:
        """End all workers and the loop."""
        self.do(self.serving.close)
        self.loop.stop()
        self.loop.wake()
        self._thread.join(WAIT_S)
        self.loop.close()
        self.listener.close()
        remove_run_files(self._paths)

    def _work(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._todo.get_nowait()()

    # ---- edgefleet_agent.serving.ports.Owner

    def on_trial_message(self, model: str, message: ToAgentd) -> None:
        if isinstance(message, Ready):
            self.happened.put(("ready", model, ""))

    def on_trial_exit(self, model: str, how: str, failed: Failed | None) -> None:
        self.happened.put(("trial-exit", model, f"{how} {failed}"))

    def on_active_golden(self, model: str, golden: Golden) -> None:
        return

    def on_stats(self, model: str, sha256: str, stats: Stats) -> None:
        return

    def on_active_exit(self, model: str, how: str, failed: Failed | None) -> bool:
        self.happened.put(("exit", model, f"{how} {failed.reason}" if failed is not None else how))
        return True

    def active_ref(self, model: str) -> SlotRef | None:
        return self.refs.get(model)

    def before_start(self, model: str) -> None:
        return

    def on_serving(self, model: str) -> None:
        self.happened.put(("serving", model, ""))


@contextlib.contextmanager
def asking(port: int, rate: float, tries: int, file: Path, *models: str) -> Iterator[None]:
    """Ask the models at a fixed rate while the block runs, from the first answers on; `answers` reads what came."""
    arguments = [str(port), str(rate), str(tries), str(file), *models]
    command = [sys.executable, "-m", "tests.agent.worker.load", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # else a kill or a swap would be measured by how long a process takes to start
        yield
    finally:
        process.communicate(timeout=WAIT_S)


@contextlib.contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, so that who has no hours gets the report of what was done."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def answers(file: Path) -> list[tuple[str, str, int, float, float, int]]:
    """Return (model, version, status, sent, received, tries) of every request."""
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()]
