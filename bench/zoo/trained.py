"""Entries whose nets are trained here by PyTorch, in its tool environment, and written as ONNX by its two exporters."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from bench.zoo import samples
from bench.zoo.entry import Array, Draw, Entry, Samples
from tests.support.real_models import cache_folder

from edgefleet_converters.tools.environment import look
from edgefleet_converters.tools.manage import install

SCRIPT = Path(__file__).with_name("torch_nets.py")
_ROWS = {"unet-mask": 1200, "super-resolution": 1000}
"""Samples to train with, where it is not 3,000."""


def tool_python() -> Path:
    """Return the Python of the tool environment `torch`, made when it is missing. Blocks; raises ToolFailedError offline."""
    tools = cache_folder() / "tools"
    found = look(tools, "torch")
    return (found if found.is_usable else install(tools, "torch")).python


def run_torch(script: Path, *arguments: str, folder: Path) -> None:
    """Run a script with PyTorch on one thread. Blocks. Raises CalledProcessError."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    subprocess.run(
        [str(tool_python()), "-I", str(script), *arguments],
        check=True, capture_output=True, env=kept | {"OMP_NUM_THREADS": "1"}, timeout=1800, cwd=folder,
    )  # fmt: skip


def train(name: str, draw: Draw, seed: int, folder: Path) -> Path:
    """Train a net and return its ONNX file. Blocks for seconds. Raises CalledProcessError."""
    data, out = folder / "train.npz", folder / f"{name}.onnx"
    part = draw(seed, _ROWS.get(name, 3000), seed + 1)
    np.savez(data, **part.as_data(labelled=True))
    run_torch(SCRIPT, name, str(seed), str(data), str(out), folder=folder)
    data.unlink()
    return out


def _net(
    name: str, kind: str, task: str, draw: Draw, metric: str, limit: float, *, sizes: tuple[int, int, int] = (100, 300, 600),
    feedback: Mapping[str, str] | None = None, labelled: bool = True,
) -> Entry:  # fmt: skip
    data = " ".join((draw.__doc__ or "").split(".")[0].split())
    return Entry(
        name, kind, task, data, metric, limit, "trained by torch_nets.py", "Apache-2.0", functools.partial(train, name, draw), draw,
        sizes, labelled, feedback or {}, needs="torch",
    )  # fmt: skip


def _with_class(task: int, n: int, seed: int) -> Samples:
    """Return pictures with one shape each, its class, x, y and size. y: float32 [n, 4]."""
    pictures, found = samples.scenes(task, n, seed)
    rows: Array = np.array([[shapes[0][0], *shapes[0][1:4]] for shapes in found], np.float32)
    return Samples({"x": pictures}, {"y": rows})


def _with_places(task: int, n: int, seed: int) -> Samples:
    """Return pictures with one shape each, and its x, y and size in pixels. y.places: float32 [n, 3]."""
    part = _with_class(task, n, seed)
    return Samples(part.inputs, {"y.places": part.truth["y"][:, 1:]})


def _two_heads(seed: int, folder: Path) -> Path:
    return train("two-heads", _with_class, seed, folder)


def _again(task: int, n: int, seed: int) -> Samples:
    """Return vibration spectra of a machine."""
    return samples.spectra(task, n, seed)


TRAINED: tuple[Entry, ...] = (
    _net("mlp-table", "tabular MLP", "classes of table rows", samples.tabular_classes, "top1", 0.01),
    _net("mlp-three-targets", "tabular MLP", "three targets of different scales", samples.tabular_targets, "spread", 0.01),
    _net("resnet-digits", "small CNN", "handwritten digits", samples.digits, "top1", 0.01),
    _net("mobilenet-shapes", "MobileNet-like", "drawn shapes", samples.shape_classes, "top1", 0.01),
    _net("efficient-shapes", "MobileNet-like", "drawn shapes, SiLU and squeeze-excitation", samples.shape_classes, "top1", 0.01),
    _net("vit-shapes", "small ViT", "drawn shapes", samples.shape_classes, "top1", 0.01),
    _net("places-regressor", "CNN regressor", "place and size of a shape", samples.shape_places, "spread", 0.01),
    _net("unet-mask", "U-Net", "mask of shapes", samples.shape_masks, "iou", 0.02, sizes=(60, 150, 300)),
    _net("detector-one-tensor", "detector head", "boxes and scores in one tensor", samples.shape_boxes, "objects", 0.03, labelled=False),
    _net("detector-two-tensors", "detector head", "boxes and scores in two tensors", samples.shape_boxes, "objects", 0.03, labelled=False),
    _net("points-coordinates", "keypoints", "four points as coordinates", samples.shape_points, "points", 0.02),
    _net("points-heatmaps", "keypoints", "four points as maps", samples.shape_points, "points", 0.02, sizes=(60, 150, 300), labelled=False),
    Entry(
        "two-heads", "two heads", "class and place of a shape", "pictures with one shape each", "spread", 0.01,
        "trained by torch_nets.py", "Apache-2.0", _two_heads, _with_places, labelled=False, needs="torch",
    ),
    _net("super-resolution", "image to image", "pictures at twice the size", samples.small_and_large, "spread", 0.01, sizes=(60, 150, 200)),
    _net("gru-sorter", "GRU encoder-decoder", "sequences put in order", samples.tokens_to_sort, "edits", 0.02, labelled=False),
    _net("bilstm-tagger", "BiLSTM tagger", "a tag of each word", samples.tagged_sentences, "tags", 0.01, labelled=False),
    _net("bert-topics", "small BERT", "topic of a sentence", samples.sentences, "top1", 0.01),
    _net("bert-tags", "small BERT", "a tag of each word", samples.tagged_sentences, "tags", 0.01, labelled=False),
    _net("gru-activity", "GRU classifier", "activity from an accelerometer", samples.motion, "top1", 0.01),
    _net("tcn-activity", "TCN", "activity from an accelerometer", samples.motion, "top1", 0.01),
    _net("lstm-load", "LSTM forecaster", "the next twelve values of a load", samples.load_curves, "spread", 0.01),
    _net("dense-load", "dense forecaster", "the next twelve values of a load", samples.load_curves, "spread", 0.01),
    _net("autoencoder", "autoencoder", "vibration spectra", _again, "spread", 0.01),
    _net("embedder", "embedding", "likeness of pictures", samples.shape_classes, "neighbours", 0.1, labelled=False),
    _net("spotter", "keyword spotter", "eight words in spectrograms", samples.spoken_features, "top1", 0.01),
    _net(
        "denoiser", "denoiser with state", "clean spectra, frame by frame", samples.noisy_frames, "spread", 0.01,
        sizes=(100, 300, 600), feedback={"state": "next_state"}, labelled=False,
    ),
)  # fmt: skip
