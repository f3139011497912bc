"""Fold constants and fuse what onnxruntime fuses at its BASIC level, offline.

BASIC keeps to standard operators and was exact or within 2e-6 on 21 real models (docs/explanation/converting.md), where two public
simplifiers broke one model each. Folding can also blow a model up (a few kB of ConstantOfShape became 501 MB), so the result
is dropped when it is much larger than the source.
"""

import tempfile
from pathlib import Path

import onnx

from edgefleet_converters.onnx.limits import STANDARD_DOMAINS
from edgefleet_converters.onnx.passes.promises import other_ends
from edgefleet_converters.onnx.walk import all_nodes

MAX_GROWTH = 4
GROWTH_FLOOR_BYTES = 32 * 1024 * 1024


class FoldConstants:
    """Case 1: whatever ORT BASIC changes. Case 2: a result that is too large or not standard is dropped."""

    name = "fold-constants"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Always runs."""
        return "" if model.graph.node else "the graph has no nodes"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the folded model in a canonical order. Writes a temporary file. Raises what onnxruntime raises."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "folded.onnx"
            options.optimized_model_filepath = str(path)
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            after = onnx.load_model_from_string(path.read_bytes())
        return canonical(after, like=model), True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """Size stays within bounds, no operator outside the standard was brought in, inputs and outputs are the same."""
        size_before, size_after = before.ByteSize(), after.ByteSize()
        if size_after > max(MAX_GROWTH * size_before, size_before + GROWTH_FLOOR_BYTES):
            return f"folding would grow the model from {size_before} to {size_after} bytes"
        foreign = sorted(_foreign(after) - _foreign(before))
        if foreign:
            return f"folding brought in {foreign[0]}"
        return other_ends(before, after)


def _foreign(model: onnx.ModelProto) -> set[str]:
    return {f"{n.domain}::{n.op_type}" for n in all_nodes(model) if n.domain not in STANDARD_DOMAINS}


def canonical(model: onnx.ModelProto, *, like: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with unused operator-set imports, tool names, notes of exporters and hash-ordered lists taken out.

    ORT writes every domain it knows and orders initialisers by its hash map; both would make bundles differ between
    builds of onnxruntime. torch's exporter notes at each node the lines of Python that it comes from: a third of a small model.
    """
    after = onnx.ModelProto()
    after.CopyFrom(model)
    used = {"" if node.domain == "ai.onnx" else node.domain for node in all_nodes(after)} | {""}
    imports = sorted((e.domain, e.version) for e in after.opset_import if e.domain in used)
    del after.opset_import[:]
    after.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in imports)
    tensors = sorted(after.graph.initializer, key=lambda tensor: tensor.name)
    del after.graph.initializer[:]
    after.graph.initializer.extend(tensors)
    infos = sorted(after.graph.value_info, key=lambda value: value.name)
    del after.graph.value_info[:]
    after.graph.value_info.extend(infos)
    graph = after.graph
    for noted in (graph, *all_nodes(after), *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        noted.ClearField("doc_string")
        del noted.metadata_props[:]
    after.producer_name, after.producer_version, after.doc_string = "edgefleet", "", ""
    after.ir_version = max(like.ir_version, 8)
    return after
