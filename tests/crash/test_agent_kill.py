"""25 random kills in CI; `./dev soak agent-kill` makes 200."""

import pytest

from tests.crash.agent_kill import main


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_agent_killed_at_random_moments_ends_on_a_verified_version_and_says_so() -> None:
    result = main(25)
    assert result["ok"], result
