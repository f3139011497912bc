"""Folder, lines, camera and MQTT against a real worker, and a real mosquitto."""

import argparse
import io
import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from PIL import Image

from edgefleet_agent.cli.infer import run_infer
from edgefleet_agent.cli.infer_args import add_infer_parser
from edgefleet_agent.client import Model
from edgefleet_agent.inputs.batch import Batch
from edgefleet_agent.inputs.camera import CameraError, Frame, Newest, frames, split
from edgefleet_agent.inputs.mqtt_input import MAX_BYTES, Bucket, MqttInput, MqttInputError, answer_topic
from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.agent.field import eventually
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_api import COLUMNS, IMAGE, LABELS, TOP

WAIT_S = 60.0


def side(preprocess: dict[str, Any]) -> dict[str, bytes]:
    return {
        "preprocess.json": json.dumps(preprocess).encode(),
        "postprocess.json": json.dumps(TOP).encode(),
        "labels.txt": LABELS,
    }


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One model of table rows."""
    rig = Rig(tmp_path_factory.mktemp("inputs"))
    rig.start(bundle_bytes(classifier_onnx(), extra=side(COLUMNS))).serve()
    yield rig
    rig.close()


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    return run_infer(parser.parse_args(["infer", "digits", *arguments]))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


ROW = '{"a": 9, "b": 0, "c": 0, "d": 0}'


# ---- a folder


def fill(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "1.json").write_text(ROW)
    (folder / "2.csv").write_text("a,b\n1,2\n")
    (folder / "3.csv").write_text("a,b,c,d\n0,0,9,0\n")
    (folder / "notes.txt").write_text("no input")


def test_a_folder_is_sorted_into_done_and_failed(
    device: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    fill(folder)
    assert run(str(folder), "--move", "--socket", str(device.socket_path), "-o", "json") == 1
    told = lines(capsys.readouterr().out)
    assert [row["file"] for row in told] == ["1.json", "2.csv", "3.csv"]
    assert "lacks the column c" in told[1]["error"]
    assert {p.name for p in (folder / "done").iterdir()} == {"1.json", "3.csv"}
    assert {p.name for p in (folder / "failed").iterdir()} == {"2.csv"}
    assert (folder / "notes.txt").exists()
    assert lines((folder / "results.jsonl").read_text()) == told
    (folder / "1.json").write_text(ROW)  # another of the same name
    assert run(str(folder), "--move", "--socket", str(device.socket_path)) == 0
    assert {p.name for p in (folder / "done").iterdir()} == {"1.json", "1.1.json", "3.csv"}


def test_a_file_that_cannot_be_read_fails_alone(
    device: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    fill(folder)
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "1.json":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert run("--move", str(folder), "--socket", str(device.socket_path), "-o", "json") == 1
    told = lines(capsys.readouterr().out)
    assert [(row["file"], "error" in row) for row in told] == [("1.json", True), ("2.csv", True), ("3.csv", False)]
    assert "Permission denied" in told[0]["error"]


@pytest.mark.parametrize("cut", ["before the move", "in the line", "before the line"])
def test_a_cut_at_any_point_asks_nothing_twice_and_leaves_nothing_out(tmp_path: Path, cut: str) -> None:
    fill(tmp_path)
    asked: list[str] = []

    def ask(path: Path) -> dict[str, Any]:
        if cut == "before the line" and path.name == "3.csv" and "3.csv" not in asked:
            asked.append(path.name)
            raise ConnectionError
        asked.append(path.name)
        return {"predictions": []}

    def takes(path: Path) -> bool:
        return path.suffix in {".json", ".csv"}

    if cut == "before the line":
        with pytest.raises(ConnectionError):
            list(Batch(tmp_path, takes).run(ask))
    else:
        first = Batch(tmp_path, takes).run(ask)
        next(first)
        (tmp_path / "done" / "1.json").rename(tmp_path / "1.json")  # as if the power had gone just before the move
        if cut == "in the line":
            data = (tmp_path / "results.jsonl").read_bytes()
            (tmp_path / "results.jsonl").write_bytes(data[:-5])
    list(Batch(tmp_path, takes).run(ask))
    again = {"in the line": ["1.json"], "before the line": ["3.csv"]}.get(cut, [])
    assert sorted(asked) == sorted(["1.json", "2.csv", "3.csv", *again])
    assert [row["file"] for row in lines((tmp_path / "results.jsonl").read_text())] == ["1.json", "2.csv", "3.csv"]
    assert {p.name for p in (tmp_path / "done").iterdir()} == {"1.json", "2.csv", "3.csv"}


def test_a_watched_folder_takes_what_comes_when_it_is_settled(tmp_path: Path) -> None:
    late = tmp_path / "late.json"
    ages = iter([-5.0, 0.5, 5.0, 5.0])  # seconds since the file was changed, at each look after it came
    now = 0.0
    done_after: list[bool] = []

    def wait(_s: float) -> bool:
        nonlocal now
        if not done_after:
            late.write_text(ROW)
        changed = late.stat().st_mtime if late.exists() else now
        done_after.append(not late.exists())
        now = changed + next(ages, 0.0)
        return len(done_after) == 4

    batch = Batch(tmp_path, lambda path: path.suffix == ".json")
    seen = [row["file"] for row in batch.watch(lambda _path: {"predictions": []}, wait, lambda: now)]
    assert seen == ["late.json"]
    assert done_after == [False, False, False, True]


def test_what_a_device_that_is_away_leaves_is_gone_on_with(
    device: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in")
    assert run(str(tmp_path / "in"), "--move", "--socket", str(tmp_path / "none.sock")) == 3
    assert (tmp_path / "in" / "1.json").exists()
    assert run("--move", "--socket", str(device.socket_path)) == 2
    assert run("x", "--lines", "--socket", str(device.socket_path)) == 2
    capsys.readouterr()


# ---- standard input


def test_lines_in_lines_out(device: Rig) -> None:
    command = [sys.executable, "-m", "edgefleet_agent", "infer", "digits", "--lines", "-o", "json"]
    asked = f'{ROW}\n\n{{"a": 1}}\n[{ROW}, {ROW}]\nnot json\n'
    done = subprocess.run(
        [*command, "--socket", str(device.socket_path)], input=asked, check=False, capture_output=True, text=True
    )
    told = lines(done.stdout)
    assert done.returncode == 1
    assert [row["line"] for row in told] == [1, 3, 4, 5]
    assert told[0]["predictions"][0]["y"][0]["label"] == "zero"
    assert len(told[2]["predictions"]) == 2
    assert "lacks the column b" in told[1]["error"]
    assert "not JSON" in told[3]["error"]


# ---- a camera


def jpeg(bright: int) -> bytes:
    """Return a picture with one bright quarter."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[32 * (bright // 2) : 32 * (bright // 2) + 32, 32 * (bright % 2) : 32 * (bright % 2) + 32] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def seeing(tmp_path: Path) -> Iterator[Rig]:
    """One model of images."""
    (tmp_path / "seeing").mkdir()
    made = Rig(tmp_path / "seeing")
    made.start(bundle_bytes(classifier_onnx(9.0), extra=side(IMAGE))).serve()
    yield made
    made.close()


def test_frames_of_a_file_are_answered_one_by_one(
    seeing: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mjpeg"
    film.write_bytes(b"".join(jpeg(i) for i in (0, 1, 2, 1)))
    arguments = ["--camera", str(film), "--socket", str(seeing.socket_path), "-o", "json"]
    assert run(*arguments) == 0
    told = lines(capsys.readouterr().out)
    assert [row["predictions"][0]["y"][0]["label"] for row in told] == ["zero", "one", "two", "one"]
    assert [row["frame"] for row in told] == [1, 2, 3, 4]
    assert run(*arguments, "--frames", "2") == 0
    assert len(lines(capsys.readouterr().out)) == 2
    assert run("--camera", str(tmp_path / "none"), "--socket", str(seeing.socket_path)) == 1
    assert run("--camera", str(film), "--size", "big", "--socket", str(seeing.socket_path)) == 1
    assert "640x480" in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_a_stream_is_cut_into_the_same_frames_however_it_arrives(size: int) -> None:
    pictures = [jpeg(i) for i in range(3)]
    stream = io.BytesIO(b"noise" + b"--boundary\r\n".join(pictures) + b"\xff\xd8 half")
    assert list(split(lambda _n: stream.read(size))) == pictures
    with pytest.raises(CameraError, match="no whole JPEG"):
        list(split(lambda n: b"\xff\xd8" + bytes(n)))


def test_the_newest_frame_wins_and_the_end_is_the_end() -> None:
    go, made = threading.Event(), threading.Event()

    def source() -> Iterator[Frame]:
        yield "m", b"1"
        go.wait(WAIT_S)
        yield from (("m", b"2"), ("m", b"3"), ("m", b"4"))
        made.set()

    newest = Newest(source())
    assert newest.take() == ("m", b"1")
    go.set()
    made.wait(WAIT_S)
    assert (newest.take(), newest.take()) == (("m", b"4"), None)
    assert newest.dropped == 2


def test_a_virtual_camera_and_a_film_give_pixels(tmp_path: Path) -> None:
    taken = list(frames("lavfi:testsrc=size=64x48:rate=5:duration=1", 0, 0))
    assert {media for media, _ in taken} == {"application/octet-stream"}
    pixels = [np.load(io.BytesIO(body)) for _, body in taken]
    assert [p.shape for p in pixels] == [(48, 64, 3)] * 5
    assert any((a != b).any() for a, b in pairwise(pixels))
    film = tmp_path / "film.avi"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    again = list(frames(str(film), 0, 0))
    assert [media for media, _ in again] == ["image/jpeg"] * 5
    shown = np.asarray(Image.open(io.BytesIO(again[0][1])).convert("RGB"), np.float32)
    assert np.abs(shown - pixels[0]).mean() < 20


@pytest.mark.parametrize("source", ["/dev/video-none", "none.avi", "lavfi:nothing", "none.mjpeg"])
def test_a_camera_that_cannot_be_used_says_what_to_do(source: str) -> None:
    with pytest.raises(CameraError) as told:
        next(frames(source, 640, 480))
    assert told.value.next_step


# ---- MQTT


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A mosquitto of its own."""
    binary = find_mosquitto()
    if binary is None:
        pytest.skip("mosquitto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [str(getattr(binary, "path", binary)), "-c", str(tmp_path / "m.conf")], stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_S)


class Caller:
    """A client of the broker that asks and waits."""

    def __init__(self, port: int) -> None:
        self.answers: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = lambda _c, _d, message: self.answers.put(message)
        assert eventually(lambda: self._connects(port))
        ready = threading.Event()
        self.client.on_subscribe = lambda *_a: ready.set()
        self.client.loop_start()
        self.client.subscribe([("answers/#", 1), ("infer/+/res", 1)])
        assert ready.wait(WAIT_S)

    def _connects(self, port: int) -> bool:
        try:
            return self.client.connect("127.0.0.1", port) == 0
        except OSError:
            return False

    def ask(
        self, topic: str, payload: bytes, answer_to: str | None = "answers/1", correlation: bytes | None = b"c"
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if answer_to is not None:
            properties.ResponseTopic = answer_to
        if correlation is not None:
            properties.CorrelationData = correlation
        self.client.publish(topic, payload, qos=1, properties=properties)

    def answer(self) -> tuple[str, dict[str, Any], bytes | None]:
        message = self.answers.get(timeout=WAIT_S)
        return message.topic, json.loads(message.payload), getattr(message.properties, "CorrelationData", None)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.broker
def test_requests_over_a_real_broker(device: Rig, broker: int) -> None:
    served = MqttInput(f"mqtt://127.0.0.1:{broker}", lambda name: Model(name, socket=device.socket_path), 1000.0)
    caller = Caller(broker)
    thread = threading.Thread(target=served.run)
    thread.start()
    try:

        def is_answered() -> bool:
            caller.ask("infer/digits/req", ROW.encode(), "answers/hello")
            try:
                return caller.answers.get(timeout=0.3) is not None
            except queue.Empty:
                return False

        assert eventually(is_answered)
        while not caller.answers.empty():
            caller.answers.get()
        connection: Any = served._client.socket()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "an answer waits for no acknowledgement"
        caller.ask("infer/digits/req", ROW.encode(), "answers/a", b"\x00\x01")
        topic, answer, correlation = caller.answer()
        assert (topic, correlation) == ("answers/a", b"\x00\x01")
        assert answer["predictions"][0]["y"][0]["label"] == "zero"
        assert answer["parameters"]["lane"] == "active"
        caller.ask("infer/digits/req", b"a,b,c,d\n", None, None)
        topic, answer, correlation = caller.answer()
        assert (topic, answer["status"], correlation) == ("infer/digits/res", 400, None)
        v2 = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 9, 0, 0]}]}
        caller.ask("infer/digits/req", json.dumps(v2).encode())
        assert np.argmax(caller.answer()[1]["outputs"][0]["data"]) == 1
        caller.ask("infer/ghost/req", ROW.encode())
        assert caller.answer()[1]["status"] == 404
        caller.ask("infer/digits/req", b" " * (MAX_BYTES + 1))
        assert caller.answer()[1]["status"] == 413
        caller.ask("infer/digits/req", ROW.encode(), "infer/digits/req")  # would ask itself for ever
        caller.ask("infer/digits/req", ROW.encode(), "answers/last")
        assert caller.answer()[0] == "answers/last"
    finally:
        served.stop()
        thread.join(WAIT_S)
        caller.close()
    assert not thread.is_alive()


@pytest.mark.broker
def test_more_than_the_rate_is_refused_and_refusals_are_limited(device: Rig, broker: int) -> None:
    served = MqttInput(f"mqtt://127.0.0.1:{broker}", lambda name: Model(name, socket=device.socket_path), 0.001)
    caller = Caller(broker)
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        for _ in range(200):
            caller.ask("infer/digits/req", ROW.encode())
            if not caller.answers.empty():
                break
            threading.Event().wait(0.05)
        for _ in range(20):
            caller.ask("infer/digits/req", ROW.encode())
        caller.ask("infer/digits/req", ROW.encode())
        statuses = [caller.answer()[1].get("status", 200) for _ in range(2)]
        assert sorted(statuses) == [200, 429]
        threading.Event().wait(0.2)
        assert caller.answers.empty()
    finally:
        served.stop()
        thread.join(WAIT_S)
        caller.close()


def test_a_broker_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(MqttInputError, match="cannot be reached"):
        MqttInput(f"mqtt://127.0.0.1:{port}", Model, 1.0).run()
    with pytest.raises(MqttInputError, match="no address"):
        MqttInput("http://x", Model, 1.0)


def test_the_bucket_fills_at_its_rate() -> None:
    bucket = Bucket(2.0)
    assert [bucket.takes(10.0) for _ in range(3)] == [True, True, False]
    assert [bucket.takes(10.5), bucket.takes(10.5), bucket.takes(12.0)] == [True, False, True]


@pytest.mark.parametrize(
    ("asked", "topic"),
    [
        (None, "infer/m/res"),
        ("a/b", "a/b"),
        ("", None),
        ("$SYS/x", None),
        ("a/+", None),
        ("a/#", None),
        ("infer/x/req", None),
    ],
)
def test_where_an_answer_may_go(asked: str | None, topic: str | None) -> None:
    assert answer_topic(asked, "m") == topic
