"""Tables for a terminal of 80 columns: what does not fit is cut in the widest column and marked with an ellipsis, never wrapped."""

from collections.abc import Sequence

WIDTH = 80
_GAP = 2
_LEAST = 8


def sheet(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = (), width: int = WIDTH
) -> str:
    """Return the rows under their headers, no line longer than `width`. right: headers of columns that hold numbers."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    while sum(widths) + _GAP * (len(widths) - 1) > width and max(widths) > _LEAST:
        widths[widths.index(max(widths))] -= 1
    lines = [_line(list(headers), widths, headers, right)]
    lines += [_line(row, widths, headers, right) for row in cells]
    return "\n".join(line[:width] for line in lines)


def fields(pairs: Sequence[tuple[str, object]], *, width: int = WIDTH) -> str:
    """Return `name  value` lines; long values are cut."""
    stem = max(len(name) for name, _ in pairs)
    return "\n".join(cut(f"{name:<{stem}}  {_plain(value)}", width) for name, value in pairs)


def cut(text: str, width: int = WIDTH) -> str:
    """Return the text in at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def size(count: int) -> str:
    """Return bytes as a person reads them, at most 8 characters; "-" when not known."""
    if count < 0:
        return "-"
    value, units = float(count), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def age(seconds: float) -> str:
    """Return a duration in its two largest units' precision: 42 s, 12 min, 3 h, 5 d."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _plain(value: object) -> str:
    text = "-" if value in (None, "") else str(value)
    return " ".join(text.split()) if not text.isprintable() else text


def _line(cells: list[str], widths: list[int], headers: Sequence[str], right: Sequence[str]) -> str:
    shown = [cut(cell, width) for cell, width in zip(cells, widths, strict=True)]
    padded = [
        text.rjust(width) if header in right else text.ljust(width)
        for text, width, header in zip(shown, widths, headers, strict=True)
    ]
    return (" " * _GAP).join(padded).rstrip()
