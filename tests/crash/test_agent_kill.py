"""Random kills in CI, a few of what `./dev soak agent-kill` makes."""

import pytest

from tests.crash.agent_kill import main
from tests.house.soak import in_ci


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_agent_killed_at_random_moments_ends_on_a_verified_version_and_says_so() -> None:
    result = main(in_ci("agent-kill"))
    assert result["ok"], result
