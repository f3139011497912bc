"""Rollouts at one server: start one, and watch one until it is over. Used by `rollout`, `deploy`, `publish` and the demo."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgefleet_cli.core import api as structs
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.core.transport.request import part, written
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.render.frame import Frames, frames
from edgefleet_cli.render.output import Output, one_line, visible
from edgefleet_cli.rollout.render import (
    BAD_DEVICE_STATES,
    BAD_DEVICES,
    WAITS_FOR_A_PERSON,
    is_final,
    next_steps,
    rollout_sheet,
    state_text,
    status_line,
)

if TYPE_CHECKING:
    from edgefleet_cli.core.structs import Body
    from edgefleet_cli.core.transport.api_client import ApiClient

POLL_S = 0.5
AWAY_S = 120.0
"""How long a server may be away (restarting) while a rollout is watched; the rollout itself does not mind."""
_BAD_SHOWN = 20


@dataclass(frozen=True)
class Screen:
    """Where a watched rollout is shown, and where remarks go meanwhile."""

    show: Callable[[Reply[structs.rollout.Rollout]], None]
    note: Callable[[str], None]


@dataclass(frozen=True)
class Rollouts:
    """What one can do with rollouts; what is seen goes to `out`."""

    api: ApiClient
    out: Output
    clock: SystemClock

    def create(self, document: Document) -> Reply[structs.rollout.Rollout]:
        """Start the rollout that a document describes and return it."""
        return self.api.post("/rollouts", written(document), structs.rollout.Rollout)

    def get(self, rollout_id: str) -> Reply[structs.rollout.Rollout]:
        """Return a rollout."""
        return self.api.get(f"/rollouts/{part(rollout_id)}", structs.rollout.Rollout)

    def plan(self, document: Document) -> Reply[structs.rollout.Plan]:
        """Return what a document would do; nothing is started."""
        return self.api.post("/rollouts:plan", written(document), structs.rollout.Plan)

    def plan_of(self, rollout_id: str) -> Reply[structs.rollout.Plan]:
        """Return the plan of a rollout."""
        return self.api.get(f"/rollouts/{part(rollout_id)}/plan", structs.rollout.Plan)

    def act(self, rollout_id: str, verb: str, body: Body) -> Reply[structs.rollout.Rollout]:
        """Pause, resume, abort or promote a rollout; return it as it then is."""
        return self.api.post(f"/rollouts/{part(rollout_id)}:{verb}", body, structs.rollout.Rollout)

    def watch(
        self, rollout: Reply[structs.rollout.Rollout], *, wait_s: float | None = None
    ) -> Reply[structs.rollout.Rollout]:
        """Show a rollout at every change until it is over or `wait_s` have passed; return it as it then is.

        A paused rollout is not over: what can be done is shown, and watching goes on. Raises what `get` raises, and
        ServerUnreachableError when the server is away for more than AWAY_S.
        """
        with self._screen() as screen:
            return self._follow(rollout, screen, wait_s)

    def await_end(
        self, rollout: Reply[structs.rollout.Rollout], *, wait_s: float | None = None
    ) -> Reply[structs.rollout.Rollout]:
        """Wait as `watch` does and write nothing but a remark when the state changes; return the rollout as it then is."""
        return self._follow(rollout, self._remarks(), wait_s)

    def _follow(
        self, rollout: Reply[structs.rollout.Rollout], screen: Screen, wait_s: float | None
    ) -> Reply[structs.rollout.Rollout]:
        deadline_s = math.inf if wait_s is None else self.clock.monotonic_s() + wait_s
        question = partial(self.get, rollout.value.id)
        retry = ServerRetry(screen.note, self.clock, give_up_s=AWAY_S)
        while True:
            screen.show(rollout)
            left_s = deadline_s - self.clock.monotonic_s()
            if is_final(rollout.value) or left_s <= 0:
                return rollout
            self.clock.sleep(min(POLL_S, left_s))
            rollout = retry.ask(question, until_s=deadline_s) or rollout

    def bad_devices(self, rollout: structs.rollout.Rollout) -> list[structs.rollout.RolloutDevice]:
        """Return devices on which the release failed or from which it was taken, at most 20 of each state."""
        if not rollout.counts.failed and not rollout.counts.rolled_back:
            return []
        path = f"/rollouts/{part(rollout.id)}/devices"
        found = [
            self.api.pages(path, structs.rollout.RolloutDevice, limit=_BAD_SHOWN, state=state)
            for state in BAD_DEVICE_STATES
        ]
        return [device for devices in found for device in devices]

    def show_bad_devices(self, rollout: structs.rollout.Rollout) -> None:
        """Write the devices of `bad_devices`, if any, with their reasons."""
        devices = self.bad_devices(rollout)
        if devices:
            self.out.heading("Failed and rolled-back devices")
            self.out.table(devices, BAD_DEVICES)

    @contextmanager
    def _screen(self) -> Iterator[Screen]:
        """Yield what shows a rollout: redrawn on a terminal, else a line at each change for eyes, a record for programs."""
        if self.out.is_live:
            with frames(self.out) as screen:
                yield self._drawing(screen)
        else:
            yield self._lines() if self.out.is_for_eyes else self._record()

    def _remarks(self) -> Screen:
        """Return what shows a rollout by a remark at each change of its state alone."""
        last_state = ""

        def show(rollout: Reply[structs.rollout.Rollout]) -> None:
            nonlocal last_state
            if rollout.value.state != last_state:
                last_state = rollout.value.state
                self._note(rollout.value)

        return Screen(show, self.out.note)

    def _lines(self) -> Screen:
        """Return what shows a rollout as a line of text, when it reads differently than before."""
        last_line = last_hint = ""

        def show(rollout: Reply[structs.rollout.Rollout]) -> None:
            nonlocal last_line, last_hint
            line, hint = status_line(rollout.value), self._hint(rollout.value)
            if line != last_line:
                self.out.line(one_line(line))
            if hint and hint != last_hint:
                self.out.note(f"next: {hint}")
            last_line, last_hint = line, hint

        return Screen(show, self.out.note)

    def _record(self) -> Screen:
        sheet = rollout_sheet(self.clock.now())
        seen: Document = {}
        remarks = self._remarks()

        def show(rollout: Reply[structs.rollout.Rollout]) -> None:
            nonlocal seen
            if seen == rollout.raw:
                return
            if self.out.form is not Format.NAME or not seen:
                self.out.record(rollout, sheet, is_first=not seen)
            remarks.show(rollout)
            seen = rollout.raw

        return Screen(show, remarks.note)

    def _drawing(self, screen: Frames) -> Screen:
        from edgefleet_cli.rollout.stage_pipeline import pipeline_text

        console = self.out.data
        drawn = ""

        def show(rollout: Reply[structs.rollout.Rollout]) -> None:
            nonlocal drawn
            view = pipeline_text(rollout.value, self.clock.now(), console.width)
            if view.plain != drawn:
                screen.draw(view, is_last=is_final(rollout.value))
                drawn = view.plain

        return Screen(show, lambda message: console.print(visible(message), markup=False))

    def _note(self, rollout: structs.rollout.Rollout) -> None:
        """Remark on the state, and on what to do where the rollout waits for a person or is over."""
        reason = f": {rollout.reason}" if rollout.reason else ""
        self.out.note(f"{rollout.id} {state_text(rollout)}{reason}")
        if hint := self._hint(rollout):
            self.out.note(f"next: {hint}")

    @staticmethod
    def _hint(rollout: structs.rollout.Rollout) -> str:
        return next_steps(rollout) if rollout.state in WAITS_FOR_A_PERSON or is_final(rollout) else ""
