"""The command line for the TUF conformance suite: it does what the suite asks for, over HTTP, and refuses what a device refuses."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.hostile.device import conformance
from tests.hostile.device.forge import TARGET, Forge
from tests.hostile.device.tuf_client import main

PAYLOAD = b"the bytes of a target"


@pytest.fixture(name="forge")
def _forge() -> Forge:
    made = Forge()
    made.store(PAYLOAD)
    return made


@pytest.fixture(name="url")
def _url(forge: Forge) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            data = forge.files.get(name) or forge.blobs.get(name.partition(".")[0])
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with closing(_Server(("127.0.0.1", 0), Handler)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Server(ThreadingHTTPServer):
    def close(self) -> None:
        self.server_close()


def test_it_downloads_what_is_signed_and_refuses_an_older_timestamp(forge: Forge, url: str, tmp_path: Path) -> None:
    old = forge.files["timestamp.json"]
    forge.release("targets")
    metadata, targets, root = tmp_path / "metadata", tmp_path / "targets", tmp_path / "root.json"
    metadata.mkdir()
    targets.mkdir()
    root.write_bytes(forge.pinned)
    given = ["--metadata-dir", str(metadata), "--metadata-url", url]
    payload = ["--target-name", TARGET, "--target-dir", str(targets), "--target-base-url", url]

    assert main(["--metadata-dir", str(metadata), "init", str(root)]) == 0
    assert main([*given, "refresh"]) == 0
    assert json.loads((metadata / "targets.json").read_bytes())["signed"]["version"] == 2
    assert main([*given, *payload, "download"]) == 0
    assert [file.read_bytes() for file in targets.iterdir()] == [PAYLOAD]
    assert main([*given, *payload[:1], "other/1.0.0/x.bundle", *payload[2:], "download"]) == 1

    forge.files["timestamp.json"] = old
    (metadata / "timestamp.json").unlink()  # what python-tuf remembers is gone; the floor is not
    assert main([*given, "refresh"]) == 1


def test_without_the_suite_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(conformance.FOLDER, raising=False)
    report = conformance.main(1, 0)
    assert report["ok"] is False
    assert "git clone" in report["next"]
