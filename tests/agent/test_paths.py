"""Sockets stay inside the state folder where their path fits, and never collide."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.paths import MAX_SOCKET_PATH_BYTES, StatePaths, worker_socket


def test_sockets_lie_in_the_state_folder_when_the_path_fits() -> None:
    paths = StatePaths(Path("/var/lib/edgefleet/devices/01"))
    assert paths.sockets() == paths.run


def test_sockets_of_a_deep_state_folder_have_short_paths() -> None:
    paths = StatePaths(Path("/") / ("d" * 60) / ("e" * 60))
    assert paths.sockets() != paths.run
    assert len(str(worker_socket(paths.sockets(), "m" * 63, "candidate", "A"))) <= MAX_SOCKET_PATH_BYTES
    assert paths.sockets() != StatePaths(Path("/") / ("d" * 60) / ("f" * 60)).sockets()


def test_letters_that_take_two_bytes_count_as_two() -> None:
    plain, wide = (StatePaths(Path("/") / (letter * 40) / "state") for letter in "eé")
    assert plain.sockets() == plain.run
    assert wide.sockets() != wide.run


@pytest.mark.parametrize("model", ["a", "m" * 16, "m" * 17, "m" * 63])
def test_a_worker_socket_fits_in_any_chosen_folder(model: str) -> None:
    paths = StatePaths(Path("/") / ("d" * 50))
    assert len(str(worker_socket(paths.sockets(), model, "candidate", "A"))) <= MAX_SOCKET_PATH_BYTES


def test_long_names_never_share_a_socket() -> None:
    folder = Path("/run")
    names = ["m" * 17, "m" * 18, "m" * 16]
    assert len({worker_socket(folder, name, "active", "A") for name in names}) == len(names)
    assert "~" in worker_socket(folder, "m" * 17, "active", "A").name
