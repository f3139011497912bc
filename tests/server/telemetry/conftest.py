"""The same houses as the fleet's tests, and a server that keeps answers."""

from pathlib import Path

import pytest

from tests.server.fleet.conftest import any_house, house
from tests.server.fleet.house import House
from tests.server.telemetry.prediction_site import Site

__all__ = ["any_house", "house"]


@pytest.fixture
def site(house: House, tmp_path: Path) -> Site:
    """A site."""
    return Site(house, tmp_path)


@pytest.fixture
def any_site(any_house: House, tmp_path: Path) -> Site:
    """A site on each database."""
    return Site(any_house, tmp_path)
