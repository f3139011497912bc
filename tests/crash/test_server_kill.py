"""One kill of the server on each kind of database in CI; `./dev soak server-kill` makes ten."""

import random

import pytest

from tests.crash.server_kill import main
from tests.support.postgres import binaries


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")
def test_a_server_killed_in_a_rollout_goes_on_where_it_was_and_loses_nothing() -> None:
    seed = random.SystemRandom().randrange(2**31)
    result = main(1, seed)
    assert result["ok"], (seed, result)
