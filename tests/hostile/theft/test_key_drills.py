"""The keys of a fleet are replaced while it runs: a few devices of `./dev soak key-drills`."""

from tests.hostile.theft.key_drills import DRILLS, main
from tests.house.soak import in_ci


def test_devices_follow_new_keys_and_refuse_what_the_old_ones_sign() -> None:
    found = main(in_ci("key-drills"), 20_261_201)
    print(found)
    assert found["ok"], found
    assert list(found["roles"]) == list(DRILLS)
