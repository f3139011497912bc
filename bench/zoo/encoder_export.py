"""Writes a sentence encoder's safetensors as ONNX; run by the Python of the tool environment `torch`, imported by nothing.

    python encoder_export.py model.safetensors OUT.onnx

BERT's layers by hand, as transformers computes them, then the mean over the tokens that count, of length one.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS, EPSILON = 12, 1e-12


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the float tensors of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + at for at in entry["data_offsets"])
            array = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
            found[name] = torch.from_numpy(array.copy())
    return found


class Encoder(nn.Module):
    """input_ids, attention_mask: int64 [n, steps] -> embedding [n, width]."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(array) for name, array in weights.items()}
        )
        self.depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))

    def dense(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}_weight"], self.weights[f"{name}_bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, EPSILON)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = functional.embedding(input_ids, self.weights["embeddings_word_embeddings_weight"])
        places = self.weights["embeddings_position_embeddings_weight"][: input_ids.shape[1]]
        x = self.norm(
            "embeddings_LayerNorm", words + places + self.weights["embeddings_token_type_embeddings_weight"][0]
        )
        keep = attention_mask.to(x.dtype)
        hidden = (1 - keep[:, None, None, :]) * -1e4
        steps, width = x.shape[1], x.shape[2]
        for at in range(self.depth):
            layer = f"encoder_layer_{at}"
            q, k, v = (
                self.dense(f"{layer}_attention_self_{part}", x)
                .reshape(-1, steps, HEADS, width // HEADS)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(-1, -2) / (width // HEADS) ** 0.5 + hidden
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, steps, width)
            x = self.norm(
                f"{layer}_attention_output_LayerNorm", x + self.dense(f"{layer}_attention_output_dense", mixed)
            )
            inner = functional.gelu(self.dense(f"{layer}_intermediate_dense", x))
            x = self.norm(f"{layer}_output_LayerNorm", x + self.dense(f"{layer}_output_dense", inner))
        mean = (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1e-9)
        return functional.normalize(mean, dim=-1)


def main() -> None:
    torch.set_num_threads(1)
    weights = {name: array for name, array in tensors(Path(sys.argv[1])).items() if "pooler" not in name}
    net = Encoder(weights).eval()
    example = (torch.ones(2, 48, dtype=torch.int64), torch.ones(2, 48, dtype=torch.int64))
    torch.onnx.export(
        net, example, sys.argv[2], input_names=["input_ids", "attention_mask"], output_names=["embedding"],
        dynamic_axes={name: {0: "batch"} for name in ("input_ids", "attention_mask", "embedding")}, opset_version=17, dynamo=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
