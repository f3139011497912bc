"""Progress on stderr: bars on a terminal, one line a change elsewhere, nothing when quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from edgefleet_cli.render.format import size
from edgefleet_cli.render.output import Output, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Board:
    """One row a profile (or device): its stage, a message, a percentage."""

    def __init__(self, out: Output, live: Progress | None) -> None:
        self._out = out
        self._live = live
        self._tasks: dict[str, TaskID] = {}
        self._written: dict[str, str] = {}

    def update(self, name: str, stage: str, message: str = "", pct: float | None = None) -> None:
        """Show where `name` stands; `pct` is 0-100 or None when unknown."""
        if self._live is not None:
            task = self._tasks.get(name)
            if task is None:
                task = self._tasks[name] = self._live.add_task(name, total=100, stage=stage)
            shown = f"{stage}  {one_line(message)}" if message and message != stage else stage
            self._live.update(task, completed=None if pct is None else max(0.0, min(100.0, pct)), stage=shown)
        elif self._written.get(name) != stage:
            self._written[name] = stage
            self._out.note(f"{name}: {stage}")


@contextmanager
def board(out: Output) -> Iterator[Board]:
    """Show a board while the block runs."""
    if out.quiet or not out.remarks.is_terminal:
        yield Board(out, None)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column as Place

    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", table_column=Place(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Place(width=12)),
        # The message gives way first: the rest must stay readable on a narrow terminal.
        TextColumn(
            "{task.fields[stage]}", markup=False, table_column=Place(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        TimeElapsedColumn(table_column=Place(no_wrap=True)),
    )
    with Progress(*columns, console=out.remarks, transient=True, expand=True) as live:
        yield Board(out, live)


@contextmanager
def upload_bar(out: Output, files: int, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show one bar for an upload of `files` files, `total_bytes` together; call what it yields with each count sent."""
    with _bar(out, "uploading", f"{files} file{'s' if files != 1 else ''}", total_bytes) as advance:
        yield advance


@contextmanager
def download_bar(out: Output, name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show one bar for a file that comes, `total_bytes` long; call what it yields with each count received."""
    with _bar(out, "downloading", name, total_bytes) as advance:
        yield advance


@contextmanager
def count_bar(out: Output, verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one bar for `total` things that are done one after the other; call what it yields with each count done."""
    if out.quiet or total == 0 or not out.remarks.is_terminal:
        yield lambda _count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out.remarks, transient=True) as live:
        yield partial(live.advance, live.add_task(verb, total=total))


@contextmanager
def _bar(out: Output, verb: str, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    if out.quiet or total_bytes == 0 or not out.remarks.is_terminal:
        if total_bytes:
            out.note(f"{verb} {what}, {size(total_bytes)}")
        yield lambda _count: None
    else:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn(verb), BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=out.remarks, transient=True) as live:
            yield partial(live.advance, live.add_task(verb, total=total_bytes))
