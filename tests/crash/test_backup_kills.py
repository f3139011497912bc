"""A few faults while a server is backed up, restored and moved; `./dev soak backup-kills` does 100."""

from __future__ import annotations

import random

import pytest

from tests.crash.backup_kills import FAULTS, main
from tests.house.soak import SOAKS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_backup_restore_and_move_are_whole_or_not_there_and_go_on() -> None:
    seed = random.SystemRandom().randrange(2**31)
    faults = random.Random(seed).sample(FAULTS, len(FAULTS))
    result = main(SOAKS["backup-kills"].in_ci, seed, faults, 500)
    assert result["ok"], (seed, result)
