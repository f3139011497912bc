"""Sockets stay inside the state folder where their path fits, and never collide."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from edgefleet_agent.errors import SocketError
from edgefleet_agent.paths import MAX_SOCKET_PATH_BYTES, MAX_SOCKET_STEM, StatePaths, worker_socket
from edgefleet_agent.worker.control.launch import listen_unix


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


@pytest.mark.parametrize("model", ["a", "m" * 63])
def test_a_folder_whose_sockets_just_fit_takes_them_whatever_the_process_id(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="ef-", dir="/tmp") as short:
        longest = len(str(StatePaths(Path(short) / "d").run / f"{'m' * MAX_SOCKET_STEM}.candidate.A.sock"))
        paths = StatePaths(Path(short) / ("d" * (1 + MAX_SOCKET_PATH_BYTES - longest)))
        assert paths.sockets() == paths.run
        paths.run.mkdir(parents=True)
        monkeypatch.setattr(os, "getpid", lambda: 4_194_304)  # the highest of Linux
        path = worker_socket(paths.sockets(), model, "candidate", "A")
        with listen_unix(path), socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
        assert [entry.name for entry in paths.run.iterdir()] == [path.name]


def test_a_socket_that_cannot_be_made_says_why_and_what_to_do() -> None:
    deep = Path("/") / ("d" * 120) / "infer.sock"
    with pytest.raises(SocketError) as refusal:
        listen_unix(deep)
    assert refusal.value.message == (
        f"the unix socket {deep} cannot be made: its path has 132 bytes, and Linux takes 107"
    )
    assert "TMPDIR" in refusal.value.next_step
    with tempfile.TemporaryDirectory(prefix="ef-", dir="/tmp") as short:
        with pytest.raises(SocketError, match="No such file or directory") as refusal:
            listen_unix(Path(short) / "gone" / "infer.sock")
        assert f"{short}/gone is there" in refusal.value.next_step
        (Path(short) / "infer.sock").mkdir()  # what stands in the place cannot be replaced
        with pytest.raises(SocketError, match="Is a directory"):
            listen_unix(Path(short) / "infer.sock")
        assert [entry.name for entry in Path(short).iterdir()] == ["infer.sock"]


def test_long_names_never_share_a_socket() -> None:
    folder = Path("/run")
    names = ["m" * 17, "m" * 18, "m" * 16]
    assert len({worker_socket(folder, name, "active", "A") for name in names}) == len(names)
    assert "~" in worker_socket(folder, "m" * 17, "active", "A").name
