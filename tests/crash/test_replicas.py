"""Half a minute of killed replicas and one database crash in CI; `./dev soak replicas` takes ten minutes.

Half a minute and not the whole one: five kills and the crash hit each kind of moment, and the file shares its processor.
"""

import random

import pytest

from tests.crash.replicas import main
from tests.support.postgres import binaries

CI_S = 30


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")
def test_killed_replicas_and_a_database_that_crashes_lose_and_double_nothing() -> None:
    seed = random.SystemRandom().randrange(2**31)
    result = main(CI_S, seed)
    assert result["ok"], (seed, result)
    assert result["kills"] >= 1
