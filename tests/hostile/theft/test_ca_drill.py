"""A fleet gets another device CA: a few devices of `./dev soak ca-rotation`."""

from tests.hostile.theft.ca_drill import main
from tests.house.soak import in_ci


def test_every_device_follows_and_the_thief_is_left_with_nothing() -> None:
    found = main(in_ci("ca-rotation"), 20_261_201)
    assert found["ok"], found
