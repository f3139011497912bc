"""A running broker of each kind, as the tests of the brokers have it."""

from tests.broker.conftest import authority, clients, kind, own_site, site

__all__ = ["authority", "clients", "kind", "own_site", "site"]
