"""The same houses as the fleet's tests."""

from tests.server.fleet.conftest import any_house, house

__all__ = ["any_house", "house"]
