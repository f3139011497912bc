"""The recorder plays a real command, and its picture needs no script and shows the end where motion is not wanted."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.house.terminal_recording import COLUMNS, LAST_S, WAIT_S, Recording, svg_of, thinned


def test_a_command_is_typed_run_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    made = Recording()
    assert re.search(r"edgectl \d+\.\d+", made.run(tmp_path, tmp_path, "--version"))
    rows = made.frames[-1][1]
    assert rows[0] == ((0, "$", ("cyan", True)), (2, "edgectl --version", ("default", False)))
    assert rows[1][0][1].startswith("edgectl ")
    assert made.frames[-1][0] < 2 + WAIT_S


def test_what_a_terminal_draws_again_is_one_row_and_blanks_are_left_out() -> None:
    made = Recording()
    made.show("one   two\r\n\x1b[31mbad\x1b[0m", 1.0)
    made.show("\x1b[2J\x1b[H\x1b[31mbad\x1b[0m <&>", 1.0)
    assert made.frames[0][1][0] == ((0, "one", ("default", False)), (6, "two", ("default", False)))
    text = svg_of(made.frames)
    drawn = ET.fromstring(text)
    texts = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["one", "two", "bad", "bad", "<&>"]
    assert text.count('class="red"') == 2
    assert f'width="{COLUMNS * 8 + 28}"' in text


def test_the_film_ends_with_the_last_frame_and_stands_there_without_motion() -> None:
    frames = [(0.0, (((0, "a", ("default", False)),),)), (1.0, (((0, "b", ("default", False)),),))]
    text = svg_of(frames)
    end = re.search(r"\.film\{transform:translateY\((-\d+)px\);animation:film ([\d.]+)s", text)
    assert end is not None
    assert float(end[2]) == 1.0 + LAST_S
    assert f"20.00%{{transform:translateY({end[1]}px)}}" in text
    assert "@media(prefers-reduced-motion:reduce){.film{animation:none}}" in text


def test_the_film_begins_with_the_first_frame() -> None:
    text = svg_of([(0.5, (((0, "a", ("default", False)),),)), (1.0, (((0, "b", ("default", False)),),))])
    assert "@keyframes film{0.00%{transform:translateY(0px)}" in text


def test_frames_too_short_to_see_are_left_out_but_not_the_last() -> None:
    assert [at for at, _rows in thinned([(0.0, ()), (0.01, ()), (0.5, ()), (0.51, ())])] == [0.01, 0.51]


def test_a_character_that_two_reads_share_stays_whole(tmp_path: Path) -> None:
    line = "import sys; sys.stdout.buffer.write(b'a' + 'é'.encode() * 9000)"
    assert "".join(Recording()._play(tmp_path, tmp_path, [sys.executable, "-c", line])) == "a" + "é" * 9000
