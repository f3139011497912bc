"""`edgectl release report` and `cancel` at a real server, and what an interrupted `publish` says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl, Server
from tests.converters.crash_models import never_ending
from tests.converters.graphs import classifier
from tests.support.processes import descendants, gone

FLAGS = ("--name", "net", "--profile", "generic-x86_64-ort", "--precision", "fp32")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model."""
    path = tmp_path / "net.onnx"
    path.write_bytes(classifier(features=16).SerializeToString())
    return path


def test_the_report_of_a_release_becomes_a_page_here(
    edgectl: Edgectl, admin: Server, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    refused = edgectl("publish", "bad.onnx", *FLAGS, "--version", "1.0.0")
    assert refused.code == 1
    assert "nothing was signed, so the version is still free" in refused.err
    published = edgectl("publish", model, *FLAGS, "--version", "1.0.0")
    assert published.code == 0, published.err
    shown = edgectl("release", "show", "net@1.0.0").out
    assert "earlier attempts, which signed nothing:" in shown
    assert "1: failed, bad.onnx, " in shown
    second = edgectl("release", "report", "net@1.0.0", "--attempt", "2")
    assert second.out.endswith("net-1.0.0-attempt-2-report.html\n"), second.err
    ran = edgectl("release", "report", "net@1.0.0")
    file = tmp_path / "cache" / "edgefleet" / "reports" / "net-1.0.0-report.html"
    assert (ran.code, ran.out) == (0, f"{file}\n"), ran.err
    assert not list(Path().glob("*.html")), "nothing is left in the folder where it was typed"
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert "net 1.0.0" in page
    figures = edgectl("release", "report", "net@1.0.0", "-o", "json").json
    assert figures["profiles"][0]["bundle"]["precision"] == "fp32"
    assert str(admin.data) not in page + str(figures), "nothing tells where the server keeps its files"
    assert edgectl("release", "report", "net@1.0.0", "--out", tmp_path / "no" / "x.html").code == 2
    assert edgectl("release", "report", "net@9").code == 5
    assert edgectl("release", "cancel", "net@1.0.0").code == 6
    withdraw = ("release", "withdraw", "net@1.0.0", "--reason", "wrong labels")
    asked = edgectl(*withdraw)
    assert asked.code != 0
    assert "devices that run it go on" in asked.err
    assert "and every release published before it for good?" in edgectl(*withdraw, "--floor").err
    withdrawn = edgectl(*withdraw, "--yes")
    assert withdrawn.code == 0, withdrawn.err
    assert edgectl(*withdraw, "--floor", "--yes", "-o", "json").json["also"] == []
    assert "withdrawn: wrong labels" in edgectl("release", "list").out
    assert "wrong labels (" in edgectl("release", "show", "net@1.0.0").out
    refused = edgectl("deploy", "net@1.0.0", "--to", "")
    assert (refused.code, "net@1.0.0 was withdrawn: wrong labels" in refused.err) == (6, True)
    assert edgectl("release", "delete", "net@1.0.0", "--yes").code == 0
    burned = edgectl("publish", model, *FLAGS, "--version", "1.0.0")
    assert (burned.code, "never used again" in burned.err) == (6, True)


def test_an_interrupted_publish_says_how_to_cancel_and_cancelling_ends_all_processes(
    edgectl: Edgectl, admin: Server, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "endless.onnx").write_bytes(never_ending().SerializeToString())
    command = [
        sys.executable,
        "-m",
        "edgefleet_cli.main",
        "publish",
        str(tmp_path / "endless.onnx"),
        "--version",
        "2.0.0",
    ]
    publishing = subprocess.Popen([*command, *FLAGS], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert publishing.stderr is not None
    for line in publishing.stderr:
        if "validate" in line:
            break
    (worker,) = (admin.data / "run" / "jobs").iterdir()
    running = jobs_of(worker)
    while len(running) < 4:  # the job, its nurseries, and the grandchild in which the model runs
        assert publishing.poll() is None
        running = jobs_of(worker)
    os.kill(publishing.pid, signal.SIGINT)
    _, told = publishing.communicate(timeout=20)
    assert publishing.returncode == 130, told
    assert "edgectl release cancel net@2.0.0" in told
    cancelled = edgectl("release", "cancel", "net@2.0.0")
    assert cancelled.code == 0, cancelled.err
    assert "cancelled by" in cancelled.out
    assert edgectl("publish", model, *FLAGS, "--version", "2.0.1").code == 0, "the next job starts"
    assert gone(running)
    assert edgectl("release", "show", "net@2.0.0", "-o", "json").json["state"] == "cancelled"


def jobs_of(folder: Path) -> set[int]:
    """Return the processes of conversions whose job lies in `folder`: those that work there, and what they started."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink().is_relative_to(folder):
                found |= {int(entry.parent.name)} | descendants(int(entry.parent.name))
        except OSError:
            continue
    return found
