"""One watcher of an alias at a time: two that look at once would both publish and roll out the same change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_cli.core.errors import UnreadableFileError
from edgefleet_cli.importing.alias_follower import FollowedError, alone
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

WATCH = ("import", "watch", "mlflow:/net@live", "--to", "site=lab", "--once", "--mlflow-url", "http://127.0.0.1:9")
HOLD = """
import pathlib, sys
from edgefleet_cli.importing.alias_follower import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_second_watcher_is_refused_and_asks_nobody(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "state" / "seen"
    with alone(file):
        ran = edgectl(*WATCH, "--state", file)
        assert (ran.code, ran.out) == (6, "")
        assert ran.told()[0] == "this alias is already followed"
        assert str(file) in ran.told()[1]
        assert fleet.asked == []
    assert "cannot reach the MLflow server" in edgectl(*WATCH, "--state", file).told()[0], "its turn has come"


def test_the_lock_lasts_over_writes_of_the_file_and_is_let_go_by_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "seen"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "new").write_text("{}")
        os.replace(tmp_path / "new", file)  # noqa: PTH105 - what `write_whole` does
        with pytest.raises(FollowedError), alone(file):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with alone(file):
        assert file.read_text() == "{}"


def test_where_no_lock_can_lie_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableFileError, match="cannot write"), alone(tmp_path / "file" / "seen"):
        pass


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--strategy", "canary", "--soak", "1s"), "--strategy does not go with --stages or --soak"),
        (("--stages", "many"), "'many' is not a stage"),
    ],
)
def test_a_way_to_roll_out_that_cannot_be_is_refused_before_anything_is_followed(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    ran = edgectl(*WATCH, "--state", tmp_path / "seen", *flags)
    assert (ran.code, ran.told()[0]) == (2, told)
    assert not (tmp_path / "seen.lock").exists()
