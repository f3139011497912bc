"""A quarter of a minute of killed replicas and one database crash in CI; `./dev soak replicas` takes ten minutes."""

import json
import random

import pytest

from tests.crash.replicas import main
from tests.support.postgres import binaries

CI_S = 15


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")
def test_killed_replicas_and_a_database_that_crashes_lose_and_double_nothing_and_keep_to_the_limits() -> None:
    seed = random.SystemRandom().randrange(2**31)
    result = main(CI_S, seed)
    assert result["ok"], json.dumps({"seed": seed, **result}, indent=2)
    assert result["kills"] >= 1
