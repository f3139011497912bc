"""Which tools there are and what is installed for each: the one place that names their packages and versions.

Each bound was chosen from what was installed and run; a tool that was not run says so in `proved`.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tool:
    """One tool environment.

    serves: what it is for. requirements: as pip takes them. python: lowest version, and the first that is too new.
    probe: the package whose version is shown. proved: how far this was run here.
    """

    name: str
    serves: str
    requirements: tuple[str, ...]
    python: tuple[tuple[int, int], tuple[int, int]]
    probe: str
    proved: str


TOOLS: Final[dict[str, Tool]] = {
    tool.name: tool
    for tool in (
        Tool(
            "sklearn",
            "scikit-learn .skops and, where it is allowed, pickles to ONNX",
            ("scikit-learn==1.9.1", "skl2onnx==1.20.0", "skops==0.16.0", "joblib==1.6.0", "onnx==1.23.2"),
            ((3, 11), (3, 15)),
            "scikit-learn",
            "scikit-learn 1.9.1 with skl2onnx 1.20.0 and skops 0.16.0 on Python 3.11",
        ),
        Tool(
            "torch",
            "PyTorch .pt2 (torch.export) and Hugging Face folders with safetensors to ONNX",
            ("torch>=2.9,<3", "onnxscript>=0.5,<1", "onnx>=1.19,<2", "numpy>=1.26", "transformers>=5,<6"),
            ((3, 10), (3, 15)),
            "torch",
            "torch 2.13.0 with onnxscript 0.7.2 and transformers 5.24.0 on Python 3.11",
        ),
        Tool(
            "tensorflow",
            "Keras .keras to ONNX",
            ("tensorflow-cpu>=2.18,<3", "tf2onnx>=1.17,<2", "onnx>=1.17,<2"),
            ((3, 10), (3, 14)),
            "tensorflow-cpu",
            "tensorflow-cpu 2.21.0 with tf2onnx 1.17.0 on Python 3.11",
        ),
        Tool(
            "onnx2tf",
            "a second ONNX to TFLite converter, for comparison",
            ("onnx2tf==2.6.9",),
            ((3, 12), (3, 14)),
            "onnx2tf",
            "onnx2tf 2.6.9 on Python 3.13",
        ),
        Tool(
            "ai-edge-quantizer",
            "a second quantizer of TFLite files, for comparison",
            ("ai-edge-quantizer==0.10.0", "ai-edge-litert==2.3.0"),
            ((3, 10), (3, 14)),
            "ai-edge-quantizer",
            "ai-edge-quantizer 0.10.0 on Python 3.11",
        ),
        Tool(
            "shap",
            "SHAP values of tables, for `publish --explain shap` and `explain --shap`",
            ("shap==0.51.0",),
            ((3, 11), (3, 15)),
            "shap",
            "shap 0.51.0 on Python 3.11",
        ),
        Tool(
            "rknn",
            "ONNX to .rknn for Rockchip NPUs",
            ("rknn-toolkit2>=2.3,<3", "setuptools<81"),
            ((3, 8), (3, 13)),
            "rknn-toolkit2",
            "not run",
        ),
    )
}
