"""onnxruntime's QDQ quantizer with its look-ups by name made direct, so that a model of thousands of nodes takes seconds.

onnxruntime 1.32 walks through all nodes for each tensor that it replaces, and through all stored tensors for each name it looks up: 52 s of
processor time for a net of 1,985 nodes, once for each model that a search judges. The calls are the same here, in the same order,
and so are the bytes of the result (`tests/converters/test_qdq.py`). Importing this module imports onnxruntime.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import onnx
from onnxruntime.quantization import base_quantizer, qdq_quantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import find_by_name

_PATIENT: Final = find_by_name


class Stored:
    """The stored tensors of a graph, found by name; of equal names the first."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._named: dict[str, onnx.TensorProto] = {}
        for tensor in graph.initializer:
            self._named.setdefault(tensor.name, tensor)

    def __iter__(self) -> Iterator[onnx.TensorProto]:
        return iter(self._graph.initializer)

    def __len__(self) -> int:
        return len(self._graph.initializer)

    def find(self, name: str) -> onnx.TensorProto | None:
        """Return the tensor of a name, or None."""
        return self._named.get(name)

    def append(self, tensor: onnx.TensorProto) -> None:
        """Add a copy of a tensor."""
        self._graph.initializer.extend([tensor])
        self._named.setdefault(tensor.name, self._graph.initializer[-1])

    def remove(self, tensor: onnx.TensorProto) -> None:
        """Remove a tensor of this graph, and the input of its name."""
        mine = self._named.pop(tensor.name, None)
        if mine is None:
            return
        self._graph.initializer.remove(mine)
        for given in self._graph.input:
            if given.name == tensor.name:
                self._graph.input.remove(given)
                break


class IndexedModel(ONNXModel):  # type: ignore[misc]
    """A model that knows the readers of each tensor. Nodes are added and changed only through it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._stored = Stored(model.graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._note(model.graph.node)

    def _note(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def initializer(self) -> Stored:
        """Return the stored tensors."""
        return self._stored

    def get_initializer(self, name: str) -> onnx.TensorProto | None:
        """Return a stored tensor, or None."""
        return self._stored.find(name)

    def add_initializer(self, tensor: onnx.TensorProto) -> None:
        """Store a tensor unless there is one of its name."""
        if self._stored.find(tensor.name) is None:
            self._stored.append(tensor)

    def initializer_extend(self, inits: Sequence[onnx.TensorProto]) -> None:
        """Store tensors."""
        for tensor in inits:
            self._stored.append(tensor)

    def remove_initializer(self, tensor: onnx.TensorProto) -> None:
        """Remove a stored tensor."""
        self._stored.remove(tensor)

    def add_node(self, node: onnx.NodeProto) -> None:
        """Add a copy of a node behind the others."""
        super().add_node(node)
        self._note([self.model.graph.node[-1]])

    def replace_node_input(self, node: onnx.NodeProto, old_input_name: str, new_input_name: str) -> None:
        """Let one node read another tensor."""
        ONNXModel.replace_node_input(node, old_input_name, new_input_name)
        self._readers.setdefault(new_input_name, []).append(node)

    def replace_input_of_all_nodes(self, old_input_name: str, new_input_name: str) -> None:
        """Let all readers of a tensor read another one."""
        for node in self._readers.pop(old_input_name, []):
            self.replace_node_input(node, old_input_name, new_input_name)

    def replace_input_of_nodes(self, old_input_name: str, new_input_name: str, node_names_set: set[str]) -> None:
        """Let the named readers of a tensor read another one."""
        for node in list(self._readers.get(old_input_name, [])):
            if node.name in node_names_set:
                self.replace_node_input(node, old_input_name, new_input_name)


def _find(name: str, items: Any) -> Any:
    return items.find(name) if isinstance(items, Stored) else _PATIENT(name, items)


def quantizer_of(model: onnx.ModelProto, *args: Any) -> qdq_quantizer.QDQQuantizer:
    """Return onnxruntime's quantizer of a model, with its further arguments in their order. Raises what it raises."""
    # The two modules call their own name of the function; a list that is no `Stored` is searched as ever.
    base_quantizer.find_by_name = qdq_quantizer.find_by_name = _find
    made = qdq_quantizer.QDQQuantizer(model, *args)
    made.model = IndexedModel(made.model.model)
    return made
