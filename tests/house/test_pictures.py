"""The pictures of the documentation can be made, are shown somewhere, and are light."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.house.pages import links, pages
from tests.house.pictures import FOLDER, make
from tests.house.tree import ROOT
from tests.support.browsers import binary

MOST_BYTES = 300_000


@pytest.mark.slow
@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_every_picture_is_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    made = {picture.name for picture in tmp_path.iterdir()}
    assert made == {picture.name for picture in FOLDER.iterdir()}
    for picture in tmp_path.iterdir():
        head = picture.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert struct.unpack(">II", head[16:]) == (1280, 860)


def test_every_picture_is_light_and_shown_on_a_page() -> None:
    shown = {
        ((ROOT / page).parent / link).resolve() for page in pages() for link in links(page) if link.endswith(".png")
    }
    assert shown == set(FOLDER.iterdir())
    assert [picture.name for picture in FOLDER.iterdir() if picture.stat().st_size > MOST_BYTES] == []
