"""Make the files of `bad/`: two releases that must never reach a device, and one that no check before the devices can see.

    python make_bad.py [--out DIR]

- `int8-loses.onnx`: 1.1.0 with one channel of conv2 switched off, as pruning does it (weights 0, bias below 0, so ReLU gives 0
  always), whose weights in fc1 nobody cleared: they are 2⁴⁰, and multiply nothing but zeros. The float32 answers are those of
  1.1.0 without that channel, the one that matters least. But one int8 scale per row must hold 2⁴⁰, so every other weight of
  fc1 becomes 0; float16 cannot hold it either. fc1 is 87 % of the model, so leaving it alone saves nothing worth having.
- `crashes-at-load.onnx`: a sound file to every checker (the types and shapes are right) whose target shape is computed as
  -2³¹ / -1. onnxruntime folds that constant when it loads the model; the quotient does not fit an int32, and an x86 processor
  answers with SIGFPE, which kills the process. Where the processor does not trap, the impossible shape is refused.
- `nan-on-background.onnx`: 1.1.0 with a brightness normalisation that somebody could have written. The scores are taken
  relative to the logarithm of the mean ink, ink being what is brighter than the darkest pixel. That level is counted in grey
  steps of 1/255 as in a picture file, the pixels in 0..1: while the darkest pixel is 0, as in every image of the data, nothing
  shows; from one grey step up the mean is negative and its logarithm, so every score, NaN. All answers go down or up by the
  same amount, so the right ones and their softmax stay those of 1.1.0. onnxruntime's quantizer leaves all seven operators in
  float32 (it would take Mul, Add and Clip), so int8 answers NaN for the same images.
Needs the packages of `requirements.txt` without torch, and `digits-1.1.0.onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from graph import Weights, digits_model, read_weights
from onnx import TensorProto, helper, numpy_helper
from split import Part, load_parts

LITTER = 2.0**40  # beyond float16 even when the layers are evened out; exact in float32
GREY_STEP = 1 / 255
INK_FLOOR = 1e-3  # keeps a black picture away from log(0)


def littered(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights in which one channel of conv2 is dead and its weights in fc1 are huge."""
    out = {name: value.copy() for name, value in weights.items()}
    pixels = out["fc1.weight"].shape[1] // len(out["conv2.bias"])  # flattening puts a channel's pixels side by side
    reach = np.abs(out["fc1.weight"]).reshape(len(out["fc1.bias"]), -1, pixels).sum(axis=(0, 2))
    dead = int(np.argmin(reach * np.abs(out["conv2.weight"]).sum(axis=(1, 2, 3))))
    out["conv2.weight"][dead], out["conv2.bias"][dead] = 0, -1
    out["fc1.weight"][:, dead * pixels : (dead + 1) * pixels] = LITTER
    return out


def normalised_model(weights: Weights) -> onnx.ModelProto:
    """Return the model of `weights` whose answer is `scores - log(mean(ink))`, with the darkest pixel in the wrong unit."""
    model = digits_model(weights, "1.2.0")
    graph = model.graph
    graph.node[-1].output[0] = "scores"
    nodes = [
        helper.make_node("ReduceMin", ["image"], ["darkest"], axes=[2, 3], keepdims=1),
        helper.make_node("Div", ["darkest", "grey_step"], ["background"]),
        helper.make_node("Max", ["image", "ink_floor"], ["pixels"]),
        helper.make_node("Sub", ["pixels", "background"], ["ink"]),
        helper.make_node("ReduceMean", ["ink"], ["mean_ink"], axes=[2, 3], keepdims=0),
        helper.make_node("Log", ["mean_ink"], ["brightness"]),
        helper.make_node("Sub", ["scores", "brightness"], ["logits"]),
    ]
    for node in nodes:
        node.name = f"{node.op_type.lower()}_{node.output[0]}"
    graph.node.extend(nodes)
    for name, value in (("grey_step", GREY_STEP), ("ink_floor", INK_FLOOR)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def crashing_model(part: Part) -> onnx.ModelProto:
    """Return a linear classifier, fitted to `part` by least squares, whose last node cannot be loaded."""
    design = np.hstack([part.image.reshape(len(part.y), -1), np.ones((len(part.y), 1), np.float32)])
    solution = np.linalg.lstsq(design, np.eye(10, dtype=np.float32)[part.y] * 10, rcond=None)[0].astype(np.float32)
    lowest = np.iinfo(np.int32).min
    tensors = {
        "weight": solution[:-1],
        "bias": solution[-1],
        "extent": np.array([lowest, 10], np.int32),
        "divisor": np.array([-1, 1], np.int32),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"]),
        helper.make_node("Div", ["extent", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["scores", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="digits")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write the three files."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here / "bad")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    weights = read_weights(here / "digits-1.1.0.onnx")
    nan = normalised_model(weights)
    (out / "nan-on-background.onnx").write_bytes(nan.SerializeToString(deterministic=True))
    loses = digits_model(littered(weights), "1.2.0")
    (out / "int8-loses.onnx").write_bytes(loses.SerializeToString(deterministic=True))
    crashes = crashing_model(load_parts()["train"])
    (out / "crashes-at-load.onnx").write_bytes(crashes.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
