"""Parts of `demo --loop` without its processes: the layer that is trained, and how a step is told."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from edgefleet_cli.demo.demo_devices import Device
from edgefleet_cli.demo.example import Images
from edgefleet_cli.demo.fog import FoggyCameras
from edgefleet_cli.demo.last_layer import fitted
from edgefleet_cli.demo.narration import lines


def test_a_layer_learns_what_it_is_shown_and_stays_near_what_it_was() -> None:
    chance = np.random.default_rng(3)
    label = np.arange(120) % 3
    features = chance.normal(0, 0.3, (120, 5)) + np.eye(5)[label]
    weight, bias = fitted(features, label, np.zeros((3, 5)), np.zeros(3))
    assert (weight.shape, bias.shape) == ((3, 5), (3,))
    assert ((features @ weight.T + bias).argmax(axis=1) == label).mean() > 0.97
    unseen = np.zeros((3, 5))
    unseen[:, 4] = 7.0  # a feature that never occurs in what is shown
    kept, _ = fitted(np.where(np.arange(5) == 4, 0.0, features), label, unseen, np.zeros(3))
    assert np.allclose(kept[:, 4], 7.0, atol=0.1)


def test_a_step_says_of_how_many_it_is() -> None:
    assert lines(3, "fog comes", ("it is thick",), 80, 8) == ["3/8 fog comes", "    it is thick"]


class _Digits(BaseHTTPRequestHandler):
    """A device that answers class 1 always."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"outputs": [{"name": "logits", "shape": [1, 2], "data": [0.0, 1.0]}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def test_cameras_find_an_agent_that_was_started_again_on_another_port(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    device = Device("device-01", "Camera", "p", tmp_path, id="d-1", infer_url="http://127.0.0.1:9")
    images = Images(np.zeros((2, 1, 8, 8), dtype="float32"), np.array([1, 0]))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Digits) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "run" / "status.json").write_text(
            json.dumps({"infer_url": f"http://127.0.0.1:{server.server_port}"})
        )
        cameras = FoggyCameras([device], images, tmp_path / "labels.csv")
        with cameras.running():
            deadline = time.monotonic() + 30
            while len((tmp_path / "labels.csv").read_text().splitlines()) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
        server.shutdown()
    found = cameras.tally()
    assert found.answers >= 2
    assert 0 < found.right < found.answers
    assert (tmp_path / "labels.csv").read_text().splitlines()[1].startswith("d-1,device-01-0000")
