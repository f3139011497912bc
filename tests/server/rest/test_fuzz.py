"""Schemathesis finds nothing in the API: every operation, every check (`fuzzing.py` says how).

Random requests only, and few; `./dev soak rest-fuzz` sends more, and runs the other phases too.
"""

from pathlib import Path

import pytest

from tests.house.soak import in_ci
from tests.server.rest.fuzzing import run


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, in_ci("rest-fuzz"), seed=1, phases="fuzzing")
    assert found["ok"], found["told"][-20_000:]
    assert found["other_token_revoked"]
