"""`edgectl device watch`: what a device answers, as it answers. Looking keeps the watch alive; the end of this ends it, minutes later."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from edgefleet_cli.core.api.capture import Prediction, Predictions
from edgefleet_cli.core.api.device import Watch
from edgefleet_cli.core.errors import DeviceNotShownError
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, struct_of
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.render.format import milliseconds, text
from edgefleet_cli.render.frame import frames
from edgefleet_cli.render.output import Column, Output, Sheet

WAIT_S = 5.0
"""How long the server may hold a question open."""
_HEAD_LINES = 2
_WHY = {
    "off": "its owner has turned live answers off: `watch_predictions = false` in its agent.toml",
    "metered": "it is on a metered link, so it sends no live answers",
}


def answer_text(line: Prediction) -> str:
    """Return what a model answered, for a table: its best labels with their scores, or its first numbers."""
    if line.hidden:
        return "(kept on the device)"
    named = zip(line.labels, line.scores, strict=False)
    shown = ", ".join(f"{label} {_score(score)}".strip() for label, score in named)
    return f"{shown} (not finite)".strip() if line.nonfinite else shown or "-"


def _score(score: float | None) -> str:
    return "nan" if score is None else f"{score:.4g}"


PREDICTIONS: Sheet[Prediction] = Sheet(
    "predictions",
    [
        Column("time", lambda p: text(p.at)[11:23], keep=True),
        Column("model", lambda p: f"{p.model}@{p.version}"),
        Column("lane", lambda p: text(p.lane), spare=2),
        Column("answer", answer_text, fold=True),
        Column("ms", lambda p: milliseconds(p.latency_ms).removesuffix(" ms"), right=True),
        Column("trace", lambda p: text(p.trace_id), spare=1),
    ],
    lambda p: text(p.trace_id),
)


class LiveAnswers:
    """Asks for what is new and renews the watch where the server has none."""

    def __init__(self, session: Session, device_id: str, model: str) -> None:
        self._api = session.api
        self._clock = session.clock
        self._note = session.out.note
        self._retry = ServerRetry(session.out.note, session.clock)
        self._path = f"/devices/{part(device_id)}"
        self._device = device_id
        self._model = model
        self._after_id = 0
        self._has_heard = False

    def follow(self, *, wait_s: float | None) -> Iterator[list[Reply[Prediction]]]:
        """Yield what came, some lines at a time, for `wait_s` seconds or without end; first what is there of the last minutes.

        Raises DeviceNotShownError when the device says that it shows nothing, and what the first request raises.
        """
        deadline_s = math.inf if wait_s is None else self._clock.monotonic_s() + wait_s
        asked = self._watch()
        if asked.status != "online":
            self._note(f"{self._device} is {asked.status}: it shows answers once it connects")
        yield self._ask(0.0)[1]
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            asked_again = self._retry.ask(partial(self._ask, min(WAIT_S, left_s)), until_s=deadline_s)
            if asked_again is None:
                continue
            answer, lines = asked_again
            if answer.until is None:
                self._retry.ask(self._watch, until_s=deadline_s)
            self._note_state(answer.state)
            yield lines

    def _watch(self) -> Watch:
        return self._api.post(f"{self._path}:watch", NOTHING, Watch).value

    def _ask(self, wait_s: float) -> tuple[Predictions, list[Reply[Prediction]]]:
        """Return what the server says of the watch, and each new line."""
        page = self._api.page(
            f"{self._path}/predictions", Prediction, after_id=self._after_id, model=self._model or None, wait_s=wait_s
        )
        answer = struct_of(page.raw, Predictions)
        self._after_id = answer.last_id
        return answer, list(page.replies)

    def _note_state(self, state: str) -> None:
        if state in _WHY:
            raise DeviceNotShownError(
                f"{self._device} shows no answers", why=_WHY[state], next_step="see its own log: edge-agent predictions"
            )
        if state and not self._has_heard:
            self._has_heard = True
            self._note(f"{self._device} sends its answers")


def watch_device(session: Session, device_id: str, *, model: str, limit: int | None) -> bool:
    """Show what a device answers until `limit` lines were shown (True) or the time is up (False)."""
    live = LiveAnswers(session, device_id, model)
    left = math.inf if limit is None else limit
    with _screen(session.out) as show:
        for lines in live.follow(wait_s=session.options.timeout_s):
            new = lines if left == math.inf else lines[: int(left)]
            left -= len(new)
            show(new)
            if left <= 0:
                return True
    return False


@contextmanager
def _screen(out: Output) -> Iterator[Callable[[list[Reply[Prediction]]], None]]:
    """Yield what shows lines: a table that is redrawn on a terminal, else one record a line."""
    if not out.is_live:
        yield _records(out)
        return
    newest: deque[Prediction] = deque(maxlen=max(1, out.data.height - _HEAD_LINES))
    with frames(out) as screen:

        def show(lines: list[Reply[Prediction]]) -> None:
            newest.extend(line.value for line in lines)
            if not newest:
                return
            shown = list(newest)
            while (
                len(shown) > 1 and len(out.data.render_lines(out.grid(shown, PREDICTIONS.columns))) >= out.data.height
            ):
                shown.pop(0)  # a long answer takes several lines of the terminal
            screen.draw(out.grid(shown, PREDICTIONS.columns))

        yield show


def _records(out: Output) -> Callable[[list[Reply[Prediction]]], None]:
    is_first = True

    def show(lines: list[Reply[Prediction]]) -> None:
        nonlocal is_first
        for line in lines:
            if out.form is not Format.NAME or line.value.trace_id:
                out.record(line, PREDICTIONS, is_first=is_first)
            is_first = False

    return show
