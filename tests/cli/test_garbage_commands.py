"""`edgectl server garbage-collect` on a data folder, with the server's own process (docs/operate/object-store.md)."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

from edgefleet_protocol.digest import Sha256
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.settings import load_settings
from tests.cli.conftest import Edgectl
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT
from tests.support.servers import copy_server

COMMAND = ("server", "garbage-collect", "--data")


def put(data: Path, content: bytes) -> Sha256:
    parts = build_parts(load_settings(data), SystemClock())
    try:
        return parts.registry.put_blob_bytes(content)
    finally:
        parts.db.dispose()


def test_it_marks_and_removes(edgectl: Edgectl, tmp_path: Path) -> None:
    data = tmp_path / "server"
    copy_server(data)
    sha256 = put(data, b"nobody's")
    with sqlite3.connect(data / "edgefleet.db") as db:
        db.execute("UPDATE blobs SET created_at = '2020-01-01 00:00:00.000000'")
    (block,) = [one for one in shell_blocks(ROOT / "docs/operate/object-store.md") if "garbage-collect" in one.text]
    looked, marked = (edgectl(*shlex.split(line)[1:], "--data", data) for line in block.text.splitlines())
    assert (looked.code, "marked now" in looked.out) == (0, False)
    assert ["waiting", "1", "8", "B", "2020-01-01"] in [line.split()[:5] for line in marked.out.splitlines()]
    assert marked.code == 0
    assert "marked now      1" in marked.out
    assert "the next are due at" in marked.err
    with sqlite3.connect(data / "edgefleet.db") as db:
        db.execute("UPDATE blobs SET unnamed_since = '2020-02-01 00:00:00.000000'")
    gone = edgectl(*COMMAND, data, "--delete", "-o", "json")
    assert (gone.code, gone.json["deleted"]["count"], gone.json["deleted"]["bytes"]) == (0, 1, 8)
    assert not any(path.name == sha256 for path in (data / "blobs").rglob("*"))


def test_a_grace_below_a_day_is_refused(edgectl: Edgectl, tmp_path: Path) -> None:
    refused = edgectl(*COMMAND, tmp_path, "--grace-days", "0")
    assert (refused.code, "greater than or equal to 1" in refused.err) == (2, True)
