"""A fleet follows its server: a few devices of `./dev soak moves`."""

from tests.hostile.theft.move_drills import main
from tests.house.soak import in_ci


def test_every_device_is_where_its_server_is_after_every_move() -> None:
    found = main(in_ci("moves"), 20_261_202)
    assert found["ok"], found
