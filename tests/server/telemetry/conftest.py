"""The same houses as the fleet's tests."""

from tests.server.fleet.conftest import any_house, postgres_socket

__all__ = ["any_house", "postgres_socket"]
