"""12 broken or hostile uploads in CI, others each time; `./dev soak converter-fuzz` makes 500."""

import json
import random

import pytest

from tests.converters.fuzz import main


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hostile_upload_is_refused_by_name_and_changes_nothing() -> None:
    seed = random.SystemRandom().randrange(2**31)
    result = main(12, seed)
    assert result["ok"], json.dumps({"seed": seed, **result}, indent=2)
