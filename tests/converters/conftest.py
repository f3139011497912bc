"""Conversions in the process of the tests share their nurseries, but in tests of the nurseries themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgefleet_converters import sandbox
from tests.converters.kept_nurseries import KeptNurseries
from tests.support.processes import at_end

OF_THEIR_OWN = ("test_sandbox.py",)


@pytest.fixture(scope="session")
def kept_nurseries() -> KeptNurseries:
    """Return the nurseries that all tests of this process share."""
    kept = KeptNurseries()
    at_end(kept.clear)
    return kept


@pytest.fixture(scope="module", autouse=True)
def shared_nurseries(request: pytest.FixtureRequest, kept_nurseries: KeptNurseries) -> Iterator[None]:
    """Let conversions of a file share nurseries with those of others."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in OF_THEIR_OWN:
            patch.setattr(sandbox, "start_nursery", kept_nurseries.start)
            patch.setattr(sandbox, "end_nursery", kept_nurseries.end)
        yield
