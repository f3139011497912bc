"""What the runner of `demo --loop` runs: `python -m edgefleet_cli.demo.last_layer`. It trains the last layer of digits again.

Reads the folders of `edgectl retrain worker`. Inputs are the captured images with their labels; the layers before the last one stay and
make 128 features of an image. Three of four records train, every fourth is added to the evaluation data. The fog is measured in the
records and laid over the parent's reference images, so that the new release's drift reference is of the world as it is now.
Needs numpy, onnx and onnxruntime, which every server that converts has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

FEATURES: Final = "r3"
WEIGHT, BIAS = "fc2.weight", "fc2.bias"
STEPS: Final = 400
RATE: Final = 0.02
STAY: Final = 1e-3
"""How strongly the layer is held at what it was."""


def main() -> None:
    """Read the data set and the parent, write the result."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    parent, data, out = (Path(os.environ[f"EDGEFLEET_{name}"]) for name in ("PARENT", "DATA_SET", "OUT"))
    if not (data / "data.npz").exists():
        sys.exit("no record was collected, so there is nothing to train on")
    with np.load(data / "data.npz", allow_pickle=False) as arrays:
        image, label = arrays["image"].reshape(-1, 1, 8, 8).astype("float32"), arrays["label"]
        age = np.argsort([int(str(one).rpartition("-")[2] or 0) for one in arrays["trace_id"]], kind="stable")
    image, label = image[age], label[age]
    image, label = image[label >= 0], label[label >= 0]
    _say(f"{len(label)} labelled records")
    is_kept_out = np.arange(len(label)) % 4 == 3
    model = onnx.load(parent / "model.onnx")
    tensors = {one.name: one for one in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(tensors[name]).astype("float64") for name in (WEIGHT, BIAS))
    features = features_of(model, image)
    before = _share_right(features[is_kept_out], label[is_kept_out], weight, bias)
    trained = fitted(features[~is_kept_out], label[~is_kept_out], weight, bias)
    after = _share_right(features[is_kept_out], label[is_kept_out], *trained)
    _say(f"right on {is_kept_out.sum()} records that were held out: {before:.1%} before, {after:.1%} now")
    for name, value in zip((WEIGHT, BIAS), trained, strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, dtype="float32"), name))
    onnx.save(model, out / "model.onnx")
    _write_data(parent, out, image, label, is_kept_out)


def fitted(features: Any, label: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """Return weight `[classes, features]` and bias `[classes]` of a softmax layer on features `[n, features]`, by Adam."""
    import numpy as np

    start = np.concatenate([weight, bias[:, None]], axis=1)
    one = np.concatenate([features.astype("float64"), np.ones((len(features), 1))], axis=1)
    wanted = np.eye(len(bias))[label]
    layer, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, STEPS + 1):
        score = one @ layer.T
        share = np.exp(score - score.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        slope = (share - wanted).T @ one / len(one) + STAY * (layer - start)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        layer -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return layer[:, :-1], layer[:, -1]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def features_of(model: Any, image: Any) -> Any:
    """Return what the last layer sees of images `[n, 1, 8, 8]`: float32 `[n, 128]`."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, ["N", 128]))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([FEATURES], {"image": image})[0]


def _share_right(features: Any, label: Any, weight: Any, bias: Any) -> float:
    return float(((features @ weight.T + bias).argmax(axis=1) == label).mean()) if len(label) else 0.0


def _write_data(parent: Path, out: Path, image: Any, label: Any, is_kept_out: Any) -> None:
    import numpy as np

    newest = image[len(image) // 2 :]
    # of a digit the background is black, so its least light is the fog's
    veil = np.float32(np.median(newest.min(axis=(1, 2, 3))))
    _say(f"fog is {veil:.0%} of the light")
    with np.load(parent / "eval.npz", allow_pickle=False) as old:
        both = {
            "image": np.concatenate([old["image"], image[is_kept_out]]),
            "y": np.concatenate([old["y"], label[is_kept_out]]),
        }
    np.savez(out / "eval.npz", **both)
    for name in ("calibration", "reference"):
        with np.load(parent / f"{name}.npz", allow_pickle=False) as old:
            seen = old["image"]
        foggy = (seen * (1 - veil) + veil).astype("float32")
        np.savez(out / f"{name}.npz", image=foggy if name == "reference" else np.concatenate([seen, foggy]))


if __name__ == "__main__":
    main()
