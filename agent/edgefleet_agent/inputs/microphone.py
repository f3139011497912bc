"""Windows of sound: of an ALSA device through `arecord` (alsa-utils), of a `.wav` file, or raw samples of standard input (`-`).

Signed 16 bits, little endian, one channel, at the asked rate; anything else is refused.
"""

import contextlib
import os
import select
import subprocess
import sys
import wave
from collections.abc import Iterator
from typing import IO

from edgefleet_agent.inputs.camera import PIXELS, Frame, saved
from edgefleet_protocol.errors import EdgefleetError

_READ_BYTES = 4096
SILENT_S = 30.0
"""A working device gives samples several times a second, of silence too."""


class AudioError(EdgefleetError):
    """The sound cannot be read, or is not what was asked for."""

    code = "audio.unusable"


def windows(source: str, length: int, hop: int, rate: int) -> Iterator[Frame]:
    """Yield windows of `length` samples, one each `hop` samples; a shorter rest is left out. rate: in Hz. Blocks. Raises AudioError."""
    try:
        import numpy as np  # `--lines` works without it
    except ImportError as error:
        raise AudioError("sound needs numpy, which is missing", next_step="install edgefleet-agent[infer]") from error
    kept, start = bytearray(), 0
    for chunk in _samples(source, rate):
        kept += chunk
        while len(kept) >= start + 2 * length:
            yield PIXELS, saved(np.frombuffer(bytes(kept[start : start + 2 * length]), "<i2"))
            start += 2 * hop
        gone = min(start, len(kept))
        del kept[:gone]
        start -= gone


def _samples(source: str, rate: int) -> Iterator[bytes]:
    if source == "-":
        return iter(lambda: os.read(sys.stdin.fileno(), _READ_BYTES), b"")
    return _file(source, rate) if source.lower().endswith(".wav") else _device(source, rate)


def _file(source: str, rate: int) -> Iterator[bytes]:
    try:
        with wave.open(source) as file:
            found = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
            if found != (rate, 1, 16):
                raise AudioError(
                    f"{source} has {found[0]} Hz, {found[1]} channels, {found[2]} bits; {rate} Hz, 1 channel, 16 bits are needed",
                    next_step=f"convert it: sox {source} -r {rate} -c 1 -b 16 NEW.wav",
                )
            while data := file.readframes(_READ_BYTES):
                yield data
    except (OSError, EOFError, wave.Error) as error:
        raise AudioError(f"{source} cannot be read: {error}", next_step="give a .wav file of PCM samples") from error


# b"" at the end, None when nothing comes in time
def _within(stream: IO[bytes], seconds: float) -> bytes | None:
    return stream.read(_READ_BYTES) if select.select([stream], [], [], seconds)[0] else None


def _device(source: str, rate: int) -> Iterator[bytes]:
    command = ["arecord", "-D", source, "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(rate)]
    try:
        child = subprocess.Popen(
            command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        raise AudioError(
            f"arecord cannot be run: {error.strerror}",
            next_step="install alsa-utils, or pipe raw samples into --audio -",
        ) from error
    assert child.stdout is not None
    assert child.stderr is not None
    os.set_blocking(child.stderr.fileno(), False)
    told = b""
    try:
        while data := _within(child.stdout, SILENT_S):
            told = child.stderr.read() or told
            # arecord only warns, and goes on at another rate
            if b"not accurate" in told:
                break
            yield data
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
            told = child.stderr.read() or told
            if data is None:
                told = b"no sample came for %d s" % SILENT_S
    finally:
        child.kill()
        child.wait()
    words = told.decode(errors="replace").strip().splitlines() or ["it ended"]
    raise AudioError(
        f"{source} cannot be heard at {rate} Hz: {next((one for one in words if 'accurate' in one), words[-1])}",
        next_step="`arecord -L` lists devices (plughw:… converts); end what else records, or give --rate",
    )
