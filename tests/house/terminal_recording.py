"""Records a minute of `edgectl` at a running demo as an animated SVG: `./dev run python -m tests.house.terminal_recording DEMO`.

    ./dev demo --devices 4 --data DEMO        # in another terminal

The commands run for real in a terminal of their own; what they print is played back, with long waits cut short. The picture holds no
script: rows that occur are drawn once, a frame names its rows, and one CSS animation moves a film of frames. It follows light and dark,
and where motion is not wanted it shows the last frame.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pyte

from edgefleet_cli.demo.demo_devices import Device
from edgefleet_cli.demo.example import Example
from edgefleet_cli.demo.feed import Feed
from tests.house.tree import ROOT

FILE = ROOT / "docs" / "pictures" / "terminal.svg"
COLUMNS, ROWS = 104, 24
LONGEST_S = 58.0
"""The recording is played faster where it takes longer."""
WAIT_S, KEY_S, READ_S, LAST_S = 0.6, 0.03, 1.6, 4.0
"""A wait is cut to this; a typed letter; after a command; the last frame."""
CELL_W, CELL_H, PAD = 8, 18, 14
PROBATION_S = 5
"""Until devices of a demo have proved what they run."""
PROMPT = "\x1b[1;36m$\x1b[0m "
GOOD = "publish digits-1.1.0.onnx --name digits --version 2.0.0 --eval data/eval.npz --calibration data/calibration.npz"
BAD = "publish bad/nan-on-background.onnx --name digits --version 2.1.0 --calibration data/calibration.npz"
Style = tuple[str, bool]
"""A colour's name, and whether it is bold."""
Row = tuple[tuple[int, str, Style], ...]
"""Pieces of a line: where they begin, text, style. Blanks between them are left out."""


@dataclass(slots=True)
class Recording:
    """A terminal, and what it showed when."""

    now_s: float = 0.0
    frames: list[tuple[float, tuple[Row, ...]]] = field(default_factory=list)
    said: str = ""
    screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(COLUMNS, ROWS))

    def show(self, text: str, after_s: float) -> None:
        """Let the terminal read a text some time after what it read before."""
        self.now_s += after_s
        pyte.Stream(self.screen).feed(text)
        rows = tuple(row_of(self.screen.buffer[line]) for line in range(ROWS))
        if not self.frames or self.frames[-1][1] != rows:
            self.frames.append((self.now_s, rows))

    def say(self, text: str) -> None:
        """Write a line of explanation."""
        self.show(f"\x1b[2J\x1b[H\x1b[90m# {text}\x1b[0m\r\n", 0.2)
        self.now_s += 0.8

    def run(self, folder: Path, demo: Path, line: str, *, shown: str | None = None) -> str:
        """Type a command, run it, and return what it printed. shown: what is typed, where that is another text."""
        self.show(PROMPT, 0.0)
        typed = shown or f"edgectl {line}"
        for at in range(0, len(typed), 4):
            self.show(typed[at : at + 4], 4 * KEY_S)
        self.show("\r\n", 0.3)
        said = "".join(self._play(folder, demo, ["edgectl", *line.split()]))
        self.now_s += READ_S
        return said

    def _play(self, folder: Path, demo: Path, command: list[str]) -> Iterator[str]:
        environment = {
            **os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS), "COLORTERM": "",
            "EDGECTL_CONFIG": str(demo.resolve() / "edgectl.json"),
        }  # fmt: skip
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        last = time.monotonic()
        whole = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        while True:
            select.select([ours], [], [])
            try:
                read = os.read(ours, 65536)
            except OSError:
                break
            if not read:
                break
            text = whole.decode(read)
            moment = time.monotonic()
            self.show(text, min(moment - last, WAIT_S))
            last = moment
            yield re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        os.close(ours)
        process.wait()


def row_of(line: dict[int, pyte.screens.Char]) -> Row:
    """Return the pieces of a line of the terminal."""
    pieces: list[tuple[int, str, Style]] = []
    for column in range(COLUMNS):
        cell = line[column]
        if cell.data in ("", " "):
            continue
        style = (cell.fg, bool(cell.bold))
        before = pieces[-1] if pieces else None
        # a single blank belongs to the piece before it: fewer, longer pieces
        if before and before[2] == style and 0 <= column - before[0] - len(before[1]) <= 1:
            gap = " " * (column - before[0] - len(before[1]))
            pieces[-1] = (before[0], f"{before[1]}{gap}{cell.data}", style)
        else:
            pieces.append((column, cell.data, style))
    return tuple(pieces)


def record(demo: Path) -> Recording:
    """Publish, roll out, publish a bad release, watch it being stopped, go back."""
    folder = ROOT / "examples" / "digits"
    state = json.loads((demo / "demo.json").read_text())
    made = Recording()
    with Feed(devices_of(state), Example(folder).hazy()).running():
        made.say("a model becomes a tested bundle for each kind of device")
        made.run(folder, demo, GOOD)
        made.say("two devices first, then the others")
        _roll_out(made, folder, demo, "2.0.0")
        made.say("this one passes every test, and answers NaN on hazy images")
        made.run(folder, demo, BAD)
        _roll_out(made, folder, demo, "2.1.0")
        made.say("stopped at two devices; now back to the version before")
        made.run(folder, demo, "undo digits --yes --wait")
        time.sleep(PROBATION_S)
        made.run(folder, demo, "device list")
    made.show(PROMPT, 0.0)
    return made


def devices_of(state: dict[str, Any]) -> list[Device]:
    """Return the devices of a `demo.json`."""
    return [
        Device(str(at), "", one["profile"], Path(one["state_dir"]), one["id"], one["infer_url"], one["infer_socket"])
        for at, one in enumerate(state["devices"])
    ]


def _roll_out(made: Recording, folder: Path, demo: Path, version: str) -> None:
    """Create a rollout in two quick stages, and watch it to its end."""
    spec = demo / f"digits-{version}.json"
    stages = [
        {"name": "canary", "size": {"count": 2, "count_total": True}, "soak": 4},
        {"name": "rest", "size": {"percent": 100}, "soak": 4},
    ]
    spec.write_text(json.dumps({
        "apiVersion": "edgefleet/v1", "kind": "Rollout", "metadata": {"name": f"digits-{version}"},
        "spec": {"release": f"digits@{version}", "selector": "demo=yes", "stages": stages},
    }))  # fmt: skip
    said = made.run(folder, demo, f"rollout create -f {spec}", shown=f"edgectl rollout create -f {spec.name}")
    rollout = re.findall(r"\br-[a-z0-9]{13}\b", said)[-1]
    made.run(folder, demo, f"rollout watch {rollout}")


def svg_of(frames: Sequence[tuple[float, tuple[Row, ...]]]) -> str:
    """Return the animated picture of frames."""
    frames = thinned(frames)
    length_s = frames[-1][0] + LAST_S
    speed = max(1.0, length_s / LONGEST_S)
    width, height = COLUMNS * CELL_W + 2 * PAD, ROWS * CELL_H + 2 * PAD
    names: dict[Row, str] = {}
    film = []
    for number, (_at, rows) in enumerate(frames):
        used = "".join(
            f'<use href="#{names.setdefault(row, f"r{len(names)}")}" y="{line * CELL_H}"/>'
            for line, row in enumerate(rows)
            if row
        )
        film.append(f'<g transform="translate({PAD} {number * height + PAD})">{used}</g>')
    drawn = "".join(f'<g id="{name}">{_drawn(row)}</g>' for row, name in names.items())
    steps = "".join(
        f"{100 * at / length_s if number else 0:.2f}%{{transform:translateY({-number * height}px)}}"
        for number, (at, _rows) in enumerate(frames)
    )
    last = -(len(frames) - 1) * height
    return _SVG.format(
        inner_w=width - 1,
        inner_h=height - 1,
        width=width,
        height=height,
        drawn=drawn,
        film="".join(film),
        steps=steps,
        last=last,
        length=f"{length_s / speed:.1f}",
    )


def thinned(
    frames: Sequence[tuple[float, tuple[Row, ...]]], shortest_s: float = 0.1
) -> list[tuple[float, tuple[Row, ...]]]:
    """Leave frames out that are shown for less than `shortest_s`; the last one stays."""
    pairs = zip(frames, [*frames[1:], (float("inf"), ())], strict=True)
    return [frame for frame, after in pairs if after[0] - frame[0] >= shortest_s]


def _drawn(row: Row) -> str:
    pieces = []
    for column, text, (colour, is_bold) in row:
        name = " ".join([*([colour] if colour in COLOURS else []), *(["b"] if is_bold else [])])
        class_ = f' class="{name}"' if name else ""
        pieces.append(
            f'<text x="{column * CELL_W}" y="13" textLength="{len(text) * CELL_W}"{class_}>{escape(text, quote=False)}</text>'
        )
    return "".join(pieces)


COLOURS = {
    "red": ("#a61e1e", "#ff958d"), "green": ("#0e6638", "#6fd3a0"), "brown": ("#7a5000", "#eebd66"), "blue": ("#3343b5", "#a9b5ff"),
    "cyan": ("#0b5c86", "#7fc4ef"), "magenta": ("#7a2a8a", "#dba6e6"), "brightblack": ("#545d68", "#9fa9b4"),
}  # fmt: skip
"""Of the terminal's colours, with theirs on a light and on a dark ground. All others are those of text."""
_LIGHT = "".join(f".{name}{{fill:{light}}}" for name, (light, _dark) in COLOURS.items())
_DARK = "".join(f".{name}{{fill:{dark}}}" for name, (_light, dark) in COLOURS.items())
_STYLE = (
    "text{{font:13px ui-monospace,'SF Mono','Cascadia Mono',Menlo,Consolas,'Liberation Mono','DejaVu Sans Mono',monospace;fill:#12161b;"
    "white-space:pre}}.b{{font-weight:600}}.ground{{fill:#fbfcfd;stroke:#cfd4da}}"
    + _LIGHT.replace("{", "{{").replace("}", "}}")
    + "@media(prefers-color-scheme:dark){{text{{fill:#e8ecf0}}.ground{{fill:#0f1215;stroke:#343b44}}"
    + _DARK.replace("{", "{{").replace("}", "}}")
    + "}}@keyframes film{{{steps}}}.film{{transform:translateY({last}px);animation:film {length}s step-end infinite}}"
    "@media(prefers-reduced-motion:reduce){{.film{{animation:none}}}}"
)
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    "<title>A minute of edgectl: a release is published and rolled out, a bad one is stopped, and the fleet goes back</title>"
    f'<style>{_STYLE}</style><defs>{{drawn}}<clipPath id="view"><rect width="{{width}}" height="{{height}}"/></clipPath></defs>'
    '<rect class="ground" x=".5" y=".5" width="{inner_w}" height="{inner_h}" rx="8"/>'
    '<g clip-path="url(#view)"><g class="film">{film}</g></g></svg>\n'
)


def main() -> None:
    """Record at the demo that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.terminal_recording", description="Record a terminal.")
    parser.add_argument("demo", type=Path, help="folder of a running demo")
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    chosen = parser.parse_args()
    made = record(chosen.demo)
    chosen.file.write_text(svg_of(made.frames), "utf-8")
    print(f"{chosen.file}: {len(made.frames)} frames, {made.now_s:.0f} s, {chosen.file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
