"""Writing: data to stdout in the format that was asked for, everything else to stderr.

`json` and `yaml` are the API's answer unchanged; `table` and `wide` are for eyes; `name` is one identifier a line;
`csv` has the columns of `wide`. An empty list is `{"items": []}` in JSON and a remark on stderr as a table.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from edgefleet_cli.core.options import Color, Format
from edgefleet_cli.core.transport.reply import Document, Page, Reply
from edgefleet_cli.render.width import GAP, console_width, cut, is_bounded, moves_cursor, shares, table_width
from edgefleet_protocol.errors import EdgefleetError, error_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FORMULA = re.compile(r"\s*([=+@]|-.*[(|!])", re.DOTALL)
"""A number below zero and `-` for nothing are none."""

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True)
class Column(Generic[T_contra]):
    """One column: its header, how to get the cell's text from an item, and where it is shown.

    spare: above 0, the column is left out where the table is too wide, the highest number first.
    fold: prose that is read to its end: it goes on in the next line where others are cut.
    """

    header: str
    cell: Callable[[T_contra], str]
    wide: bool = False
    right: bool = False
    keep: bool = False  # never shortened, whatever the width
    spare: int = 0
    fold: bool = False

    def least(self, needed: int) -> int:
        """Return the smallest width that a table may give it, where it needs `needed`."""
        return needed if self.keep or self.right else min(needed, len(self.header))


@dataclass(frozen=True)
class Sheet(Generic[T_contra]):
    """How items of one kind are shown: what they are called, their columns, their identifier, and one in a line of a stream."""

    plural: str
    columns: Sequence[Column[T_contra]]
    name: Callable[[T_contra], str]
    line: Callable[[T_contra], str] | None = None


class Output:
    """Writes data and remarks for one command."""

    def __init__(self, form: Format = Format.TABLE, *, color: Color = Color.AUTO, quiet: bool = False) -> None:
        self.form = form
        self.quiet = quiet
        self.color = color
        self._stdout: Console | None = None
        self._stderr: Console | None = None

    @property
    def is_for_eyes(self) -> bool:
        """Tell whether data goes out as a table."""
        return self.form in {Format.TABLE, Format.WIDE}

    @property
    def data(self) -> Console:
        """Return the console on stdout."""
        if self._stdout is None:
            self._stdout = _console(self.color, stderr=False)
        return self._stdout

    @property
    def remarks(self) -> Console:
        """Return the console on stderr."""
        if self._stderr is None:
            self._stderr = _console(self.color, stderr=True)
        return self._stderr

    def note(self, text: str) -> None:
        """Write a remark to stderr, unless quiet."""
        if not self.quiet:
            self.notice(text)

    def notice(self, text: str) -> None:
        """Write to stderr, also when quiet: what has to be read before a question is answered."""
        self.remarks.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Write one line of data to stdout."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def prose(self, text: str) -> None:
        """Write words for eyes to stdout, folded at the width of the terminal."""
        self.data.print(visible(text), markup=False, highlight=False, soft_wrap=not is_bounded(sys.stdout))

    def items(self, page: Page[T], sheet: Sheet[T]) -> None:
        """Write a list in the format that was asked for."""
        self.rows(page.raw, page, sheet)

    def one(self, reply: Reply[T], sheet: Sheet[T], show: Callable[[T], None] | None = None) -> None:
        """Write one object; `show` writes it for eyes, without it each column is a line."""
        if self.form in {Format.JSON, Format.YAML}:
            self._document(reply.raw)
        elif self.form is Format.NAME:
            self.line(sheet.name(reply.value))
        elif self.form is Format.CSV:
            self._csv([reply.value], sheet.columns)
        elif show is not None:
            show(reply.value)
        else:
            self.fields((column.header, column.cell(reply.value)) for column in sheet.columns)

    def rows(self, document: Document, entries: Iterable[T], sheet: Sheet[T]) -> None:
        """Write `entries`, the rows of an answer that may be more than a list; JSON and YAML get the whole `document`."""
        if self.form in {Format.JSON, Format.YAML}:
            self._document(document)
            return
        shown = list(entries)
        if self.form is Format.NAME:
            for entry in shown:
                self.line(sheet.name(entry))
        elif self.form is Format.CSV:
            self._csv(shown, sheet.columns)
        elif shown:
            self.table(shown, sheet.columns)
        else:
            self.note(f"no {sheet.plural}")

    def document(self, entry: Document, show: Callable[[], None]) -> None:
        """Write an object that is no row of a list: JSON and YAML as it is, every other format by `show`."""
        if self.form in {Format.JSON, Format.YAML}:
            self._document(entry)
        else:
            show()

    def facts(self, entry: Document, show: Callable[[], None]) -> None:
        """Write one object that has no name: CSV has a row a field, and names are those of its fields."""
        from edgefleet_cli.render.format import flat_fields

        if self.form is Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(("field", "value"))
            writer.writerows((name, _csv_cell(value)) for name, value in flat_fields(entry))
        elif self.form is Format.NAME:
            for name, _ in flat_fields(entry):
                self.line(name)
        else:
            self.document(entry, show)

    @property
    def is_live(self) -> bool:
        """Tell whether stdout is a terminal on which what is shown for eyes can be redrawn."""
        return self.is_for_eyes and moves_cursor(sys.stdout)

    def record(self, reply: Reply[T], sheet: Sheet[T], *, is_first: bool = False) -> None:
        """Write one object of a stream at once: a line of text or of JSON, a YAML document, a row of CSV or a name."""
        if self.form is Format.JSON:
            sys.stdout.write(_json(reply.raw) + "\n")
        elif self.form is Format.YAML:
            import yaml

            sys.stdout.write("---\n" + yaml.safe_dump(reply.raw, sort_keys=False, allow_unicode=True))
        elif self.form is Format.CSV:
            self._csv([reply.value], sheet.columns, has_header=is_first)
        elif self.form is Format.NAME:
            sys.stdout.write(sheet.name(reply.value) + "\n")
        else:
            sys.stdout.write(self.stream_line(reply.value, sheet) + "\n")
        sys.stdout.flush()

    def stream_line(self, entry: T, sheet: Sheet[T]) -> str:
        """Return one object of a stream as one line for eyes: without a table around it, and never cut."""
        shown = (column for column in sheet.columns if not column.wide or self.form is Format.WIDE)
        line = sheet.line(entry) if sheet.line else "  ".join(column.cell(entry) for column in shown)
        return visible(" ".join(line.split("\n")))

    def table(self, entries: Iterable[T], columns: Sequence[Column[T]]) -> None:
        """Write a table that fits."""
        self._print(self.grid(entries, columns))

    def grid(self, entries: Iterable[T], columns: Sequence[Column[T]]) -> Table:
        """Return a table that fits: one line a row, unless a column folds; `-o wide` folds all and cuts none."""
        from rich.table import Table
        from rich.text import Text

        is_wide = self.form is Format.WIDE
        shown = [column for column in columns if not column.wide or is_wide]
        entries = list(entries)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        widths = [table_width(self.data.width, self.form)] * len(shown)
        if not is_wide:
            shown, widths = fitted(entries, shown, widths[0] if widths else 0)
        for column, width in zip(shown, widths, strict=True):
            table.add_column(
                Text(cut(column.header.upper(), width)),
                justify="right" if column.right else "left",
                no_wrap=not (column.fold or is_wide) or column.keep,
                overflow="fold",
                max_width=width,
            )
        for entry in entries:
            cells = [visible(column.cell(entry)) for column in shown]
            table.add_row(
                *(
                    Text(cell if column.fold or is_wide else cut(cell, width))
                    for cell, column, width in zip(cells, shown, widths, strict=True)
                )
            )
        return table

    def fields(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write `name  value` lines, aligned; empty values are left out."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value not in {"", "-"}:
                table.add_row(name, Text(visible(value)))
        self._print(table)

    def _print(self, table: Table) -> None:
        """Write a table; what is read by no terminal has no blanks at the ends of its lines."""
        if sys.stdout.isatty():
            self.data.print(table, soft_wrap=not is_bounded(sys.stdout))
            return
        with self.data.capture() as written:
            self.data.print(table, soft_wrap=not is_bounded(sys.stdout))
        sys.stdout.write("".join(line.rstrip() + "\n" for line in written.get().splitlines()))
        sys.stdout.flush()

    def heading(self, text: str) -> None:
        """Write a heading between two parts of what is shown for eyes."""
        self.data.print("\n" + visible(text), style="bold", markup=False)

    def _document(self, document: Document) -> None:
        if self.form is Format.YAML:
            import yaml

            sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        else:
            sys.stdout.write(_json(document, indent=2) + "\n")
        sys.stdout.flush()

    @staticmethod
    def _csv(entries: Iterable[T], columns: Sequence[Column[T]], *, has_header: bool = True) -> None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if has_header:
            writer.writerow([column.header.replace(" ", "_") for column in columns])
        for entry in entries:
            writer.writerow([_csv_cell(column.cell(entry)) for column in columns])


def fitted(entries: Sequence[T], columns: Sequence[Column[T]], width: int) -> tuple[list[Column[T]], list[int]]:
    """Return the columns that a table of `width` characters has, and how wide each is: spare ones go first, then the widest shrink."""
    from rich.cells import cell_len

    shown = list(columns)
    needed = {
        column.header: max(
            cell_len(line)
            for text in (column.header, *(visible(column.cell(e)) for e in entries))
            for line in text.split("\n")
        )
        for column in columns
    }
    for column in sorted((c for c in columns if c.spare), key=lambda c: c.spare, reverse=True):
        if sum(needed[c.header] for c in shown) + GAP * (len(shown) - 1) <= width:
            break
        shown.remove(column)
    widths = [needed[c.header] for c in shown]
    return shown, shares(widths, [c.least(needed[c.header]) for c in shown], width)


def _json(document: Document, indent: int | None = None) -> str:
    """Return JSON in which half a surrogate pair, which UTF-8 cannot say, stands as its escape."""
    return json.dumps(document, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _console(color: Color, *, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wants_color = {Color.ALWAYS: True, Color.NEVER: False, Color.AUTO: None}[color]
    return Console(
        stderr=stderr,
        width=console_width(stream),
        force_terminal=True if wants_color else None,
        no_color=True if wants_color is False or (wants_color is None and os.environ.get("NO_COLOR")) else None,
        highlight=False,
    )


def write_error(error: Exception, *, debug: bool = False) -> None:
    """Write what, why, next and code to stderr, one line each; on a terminal the code is dim."""
    *lines, code = error_lines(
        visible(str(getattr(error, "message", "") or error or type(error).__name__)),
        why=visible(getattr(error, "why", "") or _reason(error)),
        next_step=visible(getattr(error, "next_step", "") or "run again with --debug to see more"),
        code=visible(getattr(error, "foreign_code", "") or getattr(error, "code", "internal")),
    )
    is_dim = moves_cursor(sys.stderr) and not os.environ.get("NO_COLOR")
    sys.stderr.write("\n".join([*lines, f"\x1b[2m{code}\x1b[0m" if is_dim else code]) + "\n")
    request_id = getattr(error, "request_id", "")
    if debug and request_id:
        sys.stderr.write(f"debug: request {request_id}\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    """Return `text` without line breaks."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """Return `text` with control and direction characters shown as escapes: a device's words must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def _csv_cell(text: str) -> str:
    """Return a cell of CSV. What a spreadsheet would run as a formula gets a quote before it: devices choose their own names."""
    return f"'{visible(text)}" if _FORMULA.match(text) else visible(text)


def _reason(error: Exception) -> str:
    return error.reason() if isinstance(error, EdgefleetError) else "no cause is known"
