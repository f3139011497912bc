"""The list of slow files names files that are there."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT, SLOW


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_file_exists(name: str) -> None:
    assert (ROOT / name).exists()
