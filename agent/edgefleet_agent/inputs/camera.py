"""Frames of a camera, newest wins: a frame that came while the model was busy with another gives way to the next one.

1. `-`, or a `.mjpeg` file or pipe: JPEG images one after the other, as `ffmpeg -f mjpeg` or rpicam-vid write them. Needs no library.
2. `/dev/video*` (V4L2), a video file, an address (rtsp://…) or `lavfi:testsrc` (FFmpeg's virtual camera): PyAV, the extra `camera`. A
   camera is asked for Motion-JPEG; its frames go to `/predict` as they are. Frames of any other coding are decoded and go as pixels.
3. Of a file every frame is taken, since nothing is lost by waiting.
"""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgefleet_protocol.errors import EdgefleetError

MAX_FRAME_BYTES = 16 * 1024 * 1024
Frame = tuple[str, bytes]
"""Content type and body, as `/predict` takes them."""

PIXELS = "application/octet-stream"
_JPEG = "image/jpeg"
_START, _END = b"\xff\xd8", b"\xff\xd9"
_READ_BYTES = 64 * 1024


class CameraError(EdgefleetError):
    """The camera cannot be opened, or gives nothing that can be read."""

    code = "camera.unusable"


def frames(source: str, width: int, height: int) -> Iterator[Frame]:
    """Yield the frames of a source until it ends. width, height: asked of a V4L2 camera. Blocks. Raises CameraError."""
    if source == "-" or source.endswith((".mjpeg", ".mjpg")):
        return ((_JPEG, image) for image in _stream(source))
    return _decoded(source, width, height)


def split(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield each JPEG image of a stream. read: as of a raw file, b"" at the end. Raises CameraError when one is too large.

    The end marker cannot occur inside the image's data (0xff is followed by 0x00 there); it may inside an embedded preview, so a
    camera's stream, which has none, is what this is for.
    """
    buffer = bytearray()
    searched = 0
    while chunk := read(_READ_BYTES):
        buffer += chunk
        while (start := buffer.find(_START)) >= 0 and (end := buffer.find(_END, max(start + 2, searched))) >= 0:
            yield bytes(buffer[start : end + 2])
            del buffer[: end + 2]
            searched = 0
        searched = max(0, len(buffer) - 1)  # the marker may be cut in two
        if len(buffer) > MAX_FRAME_BYTES:
            raise CameraError(
                f"there is no whole JPEG image in {len(buffer)} bytes",
                next_step="give a stream of JPEG images (MJPEG)",
            )


def is_live(source: str) -> bool:
    """Whether frames of a source come whether they are taken or not."""
    return not Path(source).is_file()


class Newest:
    """Reads frames in a thread and keeps only the newest one. dropped: how many gave way."""

    def __init__(self, source: Iterator[Frame]) -> None:
        self.dropped = 0
        self._source = source
        self._frame: Frame | None = None
        self._error: EdgefleetError | None = None
        self._has_ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="camera", daemon=True).start()

    def take(self) -> Frame | None:
        """Return the newest frame that was not taken yet; waits for one; None at the end. Raises CameraError."""
        with self._changed:
            while self._frame is None and not self._has_ended:
                self._changed.wait()
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def _read(self) -> None:
        try:
            for frame in self._source:
                with self._changed:
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except EdgefleetError as error:
            self._error = error
        except OSError as error:
            self._error = CameraError(f"the camera stopped: {error}", next_step="look whether it is still plugged in")
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify()


def _stream(source: str) -> Iterator[bytes]:
    if source == "-":
        yield from split(lambda n: os.read(sys.stdin.fileno(), n))
        return
    try:
        with Path(source).open("rb", buffering=0) as file:
            yield from split(lambda n: file.read(n) or b"")
    except OSError as error:
        raise CameraError(f"{source} cannot be read: {error.strerror}", next_step="check the path") from error


def _decoded(source: str, width: int, height: int) -> Iterator[Frame]:
    try:
        import av
    except ImportError as error:
        raise CameraError(
            f"{source} cannot be read: PyAV is not installed",
            next_step="install edgefleet-agent[camera], or pipe Motion-JPEG into --camera -",
        ) from error
    kind, options = None, {}
    if source.startswith("/dev/video"):
        kind, options = "v4l2", {"video_size": f"{width}x{height}", "input_format": "mjpeg"}
    elif source.startswith("lavfi:"):
        kind, source = "lavfi", source.removeprefix("lavfi:")
    try:
        with av.open(source, format=kind, options=options) as container:
            if not container.streams.video:
                raise CameraError(f"{source} holds no pictures", next_step="give a camera or a video")
            stream = container.streams.video[0]
            is_jpeg = stream.codec_context.name == "mjpeg"
            for packet in container.demux(stream):
                if is_jpeg and packet.size:
                    yield _JPEG, bytes(packet)
                elif not is_jpeg:
                    yield from ((PIXELS, saved(frame.to_ndarray(format="rgb24"))) for frame in packet.decode())
    except (OSError, av.FFmpegError) as error:
        raise CameraError(
            f"{source} cannot be used: {error}", next_step="check that it is a camera or a video, and may be read"
        ) from error


def saved(pixels: Any) -> bytes:
    """Return an array, such as pixels [h, w, 3], as numpy saves it."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()
