"""The pictures of the documentation can be made, are shown somewhere in light and dark, and are small files."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.house.pages import links, pages
from tests.house.pictures import FOLDER, make
from tests.house.tree import ROOT
from tests.support.browsers import binary

MOST_BYTES = 200_000
MOST_BYTES_MOVING = 300_000
_SOURCE = re.compile(r'<(?:img|source)[^>]* src(?:set)?="([^"]+)"')


@pytest.mark.slow
@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_every_picture_is_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    assert {picture.name for picture in tmp_path.iterdir()} == {picture.name for picture in FOLDER.glob("*.png")}
    for picture in tmp_path.iterdir():
        head = picture.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert struct.unpack(">II", head[16:]) == (1280, 860)


def test_every_picture_is_small_and_shown_on_a_page_and_has_a_dark_twin() -> None:
    shown = {
        ((ROOT / page).parent / link).resolve()
        for page in pages()
        for link in (*links(page), *_SOURCE.findall((ROOT / page).read_text()))
        if link.endswith((".png", ".svg"))
    }
    twins = {path.with_name(f"{path.stem.removesuffix('-dark')}-dark.png") for path in shown if path.suffix == ".png"}
    assert {path for path in shown | twins if path.parent == FOLDER} == set(FOLDER.iterdir())
    assert [picture.name for picture in FOLDER.glob("*.png") if picture.stat().st_size > MOST_BYTES] == []


def test_the_recording_is_small_and_runs_no_script() -> None:
    (recording,) = FOLDER.glob("*.svg")
    text = recording.read_text("utf-8")
    assert recording.stat().st_size <= MOST_BYTES_MOVING
    assert "<script" not in text
    assert not re.search(r"""\son\w+=|href="(?!#)|url\((?!#)|@import""", text)
    for wanted in ("prefers-color-scheme:dark", "prefers-reduced-motion:reduce", "<title>"):
        assert wanted in text
