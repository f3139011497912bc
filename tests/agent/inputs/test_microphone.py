"""Windows of a file, of raw samples and of an `arecord`, and what is said where there is none to hear."""

import argparse
import io
import itertools
import os
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.cli.infer_args import add_infer_parser
from edgefleet_agent.inputs import microphone, streams
from edgefleet_agent.inputs.microphone import AudioError, windows

RATE = 8_000


def samples(count: int) -> bytes:
    return np.arange(count, dtype="<i2").tobytes()


def wav(path: Path, count: int, rate: int = RATE, channels: int = 1, width: int = 2) -> str:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(samples(count)[: count * 2])
    return str(path)


def starts(source: str, length: int, hop: int) -> list[int]:
    """Return the first sample of each window; each is whole."""
    found = [np.load(io.BytesIO(body)) for media, body in windows(source, length, hop, RATE)]
    for one in found:
        assert one.dtype == np.int16
        assert np.array_equal(one, np.arange(one[0], one[0] + length))
    return [int(one[0]) for one in found]


@pytest.mark.parametrize(
    ("hop", "wanted"),
    [(3000, [0, 3000, 6000]), (1500, [0, 1500, 3000, 4500, 6000]), (7000, [0, 7000]), (9500, [0]), (12000, [0])],
)
def test_windows_begin_one_hop_after_the_other_and_a_rest_is_left_out(
    tmp_path: Path, hop: int, wanted: list[int]
) -> None:
    assert starts(wav(tmp_path / "a.wav", 10_000), 3000, hop) == wanted


@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20])
def test_raw_samples_are_cut_alike_however_they_arrive(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    stream = io.BytesIO(samples(500) + b"x")
    monkeypatch.setattr(os, "read", lambda _fd, _n: stream.read(piece))
    with Path(os.devnull).open() as numbered:
        monkeypatch.setattr("sys.stdin", numbered)
        assert starts("-", 200, 100) == [0, 100, 200, 300]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"rate": 44_100}, "44100 Hz, 1 channels, 16 bits; 8000 Hz"),
        ({"channels": 2}, "8000 Hz, 2 channels"),
        ({"width": 1}, "8 bits"),
    ],
)
def test_a_file_of_another_rate_or_form_is_refused(tmp_path: Path, made: dict[str, int], said: str) -> None:
    with pytest.raises(AudioError, match=said) as told:
        next(windows(wav(tmp_path / "a.wav", 10_000, **made), 100, 100, RATE))
    assert f"-r {RATE} -c 1 -b 16" in told.value.next_step


def test_what_is_no_wave_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for name in ("a.wav", "none.wav"):
        with pytest.raises(AudioError, match="cannot be read"):
            next(windows(str(tmp_path / name), 100, 100, RATE))


# ---- a device


@pytest.fixture
def arecord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a program of that name first on the path. script: of sh; `sound N` writes N samples."""
    sound = tmp_path / "sound"
    sound.write_bytes(samples(20_000))

    def put(script: str) -> None:
        program = tmp_path / "arecord"
        program.write_text(
            f'#!/bin/sh\nsound() {{ head -c $((2 * $1)) {sound}; }}\necho "$*" > {tmp_path}/asked\n{script}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def heard(source: str = "hw:1") -> tuple[int, AudioError]:
    """Return how many windows came, and what ended them."""
    count = 0
    try:
        for count, _ in enumerate(windows(source, 100, 100, RATE), 1):  # noqa: B007 - the last is the count
            pass
    except AudioError as error:
        return count, error
    raise AssertionError("a device that ends is an error")


def test_a_device_is_asked_for_what_the_model_takes(arecord: Any, tmp_path: Path) -> None:
    arecord(
        "echo \"Recording raw data 'stdin'\" >&2; sound 250; echo 'arecord: pcm_read: read error: No such device' >&2; exit 1"
    )
    count, error = heard("plughw:1,0")
    assert count == 2
    assert "plughw:1,0 cannot be heard at 8000 Hz: arecord: pcm_read: read error: No such device" in error.message
    assert (tmp_path / "asked").read_text() == "-D plughw:1,0 -t raw -f S16_LE -c 1 -r 8000\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'arecord: main:830: audio open error: Device or resource busy' >&2; exit 1", "Device or resource busy"),
        (
            "echo 'Warning: rate is not accurate (requested = 8000Hz, got = 44100Hz)' >&2; echo hint >&2; sound 9999",
            "got = 44100Hz",
        ),
        ("exit 1", "it ended"),
    ],
)
def test_a_device_that_cannot_be_heard_gives_no_window_and_says_why(arecord: Any, script: str, said: str) -> None:
    arecord(script)
    count, error = heard()
    assert count == 0
    assert said in error.message
    assert "arecord -L" in error.next_step


@pytest.mark.parametrize(
    ("script", "silent_s", "said"),
    [("exec sleep 60", 0.2, "no sample came"), ("exec 1>&-; exec sleep 60", 50.0, "it ended")],
)
def test_a_device_that_is_stuck_is_given_up(
    arecord: Any, monkeypatch: pytest.MonkeyPatch, script: str, silent_s: float, said: str
) -> None:
    monkeypatch.setattr(microphone, "SILENT_S", silent_s)
    arecord(script)
    began = time.monotonic()
    count, error = heard()
    assert time.monotonic() - began < 45
    assert count == 0
    assert said in error.message


def test_without_numpy_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    _, error = heard("-")
    assert "numpy" in error.message


def test_without_arecord_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, error = heard()
    assert error.message.startswith("arecord cannot be run: No such file")
    assert "alsa-utils" in error.next_step


class Listener:
    """A model of 100 samples whose answers are the first sample, some time later."""

    def __init__(self, answers_in_s: float, shape: list[int]) -> None:
        self._answers_in_s = answers_in_s
        self._shape = shape

    def metadata(self) -> dict[str, Any]:
        return {"inputs": [{"shape": self._shape}]}

    def post(self, _verb: str, body: bytes, _media: str, _key: str) -> dict[str, Any]:
        time.sleep(self._answers_in_s)
        return {"model_version": "1", "predictions": int(np.load(io.BytesIO(body))[0])}


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    return parser.parse_args(["infer", "fan", "--rate", str(RATE), *words])


def test_a_slow_model_hears_the_newest_window_and_says_how_many_it_left_out(arecord: Any, tmp_path: Path) -> None:
    arecord(f"for i in $(seq 0 29); do tail -c +$((200 * i + 1)) {tmp_path}/sound | head -c 200; sleep 0.01; done")
    listener: Any = Listener(0.1, [-1, 100])
    told: list[dict[str, Any]] = []
    answers = streams._sound(arguments("--audio", "hw:0"), listener)
    with pytest.raises(AudioError):
        told.extend(answers)
    assert told[-1]["predictions"] == 2900, "the last answer is about the last window"
    assert told[-1]["dropped"] == 30 - len(told) > 0
    assert [one["window"] for one in told] == list(range(1, len(told) + 1))
    assert all(a["predictions"] < b["predictions"] for a, b in itertools.pairwise(told))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([-1, 3, 8, 8], ()),
        ([-1, -1], ()),
        ([-1, 100], ("--hop", "-1")),
        ([-1, 100], ("--hop", "nan")),
        ([1, 100], ("--rate", "0")),
    ],
)
def test_a_model_of_something_else_or_a_senseless_hop_is_refused(shape: list[int], words: tuple[str, ...]) -> None:
    listener: Any = Listener(0, shape)
    with pytest.raises(AudioError, match="fan takes"):
        next(streams._sound(arguments("--audio", "hw:0", *words), listener))


def test_inputs_and_a_microphone_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert streams.run_stream(arguments("x.csv", "--audio", "hw:0")) == 2
    assert "--audio" in capsys.readouterr().err
