"""Write Gemm as MatMul + Add.

onnxruntime's dynamic quantization knows MatMul and not Gemm; without this pass the dense layers of a small network, most of
its bytes, stay in float32.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_converters.onnx.passes.promises import not_valid
from edgefleet_converters.onnx.walk import attributes_of


class GemmToMatMul:
    """Case 1: Gemm with alpha = beta = 1, transA = 0 and a stored B becomes MatMul(A, B or its stored transpose).

    Case 2: with a bias C an Add follows. Case 3: any other Gemm stays.
    """

    name = "gemm-to-matmul"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs a Gemm."""
        return "" if any(node.op_type == "Gemm" for node in model.graph.node) else "the model has no Gemm"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the rewritten model; stored weights that were transposed get a name of their own."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        stored = {tensor.name: tensor for tensor in after.graph.initializer}
        nodes: list[onnx.NodeProto] = []
        changed = False
        for index, node in enumerate(after.graph.node):
            facts = attributes_of(node)
            plain = facts.get("alpha", 1.0) == 1.0 and facts.get("beta", 1.0) == 1.0 and not facts.get("transA", 0)
            if node.op_type != "Gemm" or not plain or node.input[1] not in stored:
                nodes.append(node)
                continue
            weight = node.input[1]
            if facts.get("transB", 0):
                values = np.ascontiguousarray(numpy_helper.to_array(stored[weight]).T)
                weight = f"{weight}_transposed_{index}"
                after.graph.initializer.append(numpy_helper.from_array(values, weight))
            name = node.name or f"Gemm_{index}"
            bias = node.input[2] if len(node.input) > 2 else ""
            product = f"{node.output[0]}_product" if bias else node.output[0]
            nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=f"{name}_matmul"))
            if bias:
                nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{name}_bias"))
            changed = True
        if not changed:
            return model, False
        del after.graph.node[:]
        after.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | {value.name for value in after.graph.output}
        kept = [tensor for tensor in after.graph.initializer if tensor.name in used]
        del after.graph.initializer[:]
        after.graph.initializer.extend(kept)
        return after, True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The result passes the ONNX checker."""
        return not_valid(after, "rewritten")
