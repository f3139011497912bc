"""Turn what skl2onnx exports for a classifier by default into plain tensors, and keep the names of its classes.

By default, skl2onnx puts a `ZipMap` behind the probabilities, which makes a list of dictionaries out of them. A device serves
tensors, so the node goes and its own input takes its place under the same name. Class names that are text leave the graph too:
a device answers with numbers and puts the names on them from the bundle's `labels.txt`.
"""

from collections.abc import Collection
from typing import Final

import onnx
from onnx import TensorProto, helper

from edgefleet_converters.errors import InvalidModelError
from edgefleet_converters.onnx.walk import all_nodes

ML_DOMAIN: Final = "ai.onnx.ml"
_NAMES: Final = "classlabels_strings"
_NUMBERS: Final = ("classlabels_int64s", "classlabels_ints")
_NUMBERS_OF: Final = {
    "TreeEnsembleClassifier": "classlabels_int64s",
    "LinearClassifier": "classlabels_ints",
    "SVMClassifier": "classlabels_ints",
}
"""The attribute for classes that are numbers, by operator."""


def drop_zipmap(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the model with tensors in place of ZipMap's dictionaries, and its class names in the order of the probabilities.

    Case 1: an output of a ZipMap becomes the tensor [samples, classes] that went into it. Case 2: an output of text is dropped
    where the names of the classes are known. No names: an empty list. Raises InvalidModelError for a classifier of several targets.
    """
    zipmaps = [node for node in model.graph.node if (node.domain, node.op_type) == (ML_DOMAIN, "ZipMap")]
    outputs = {value.name for value in model.graph.output}
    zipmaps = [node for node in zipmaps if set(node.output) <= outputs]
    labels = _labels(zipmaps) if zipmaps else _classes(model)
    has_text = any(_is_text(value) for value in model.graph.output)
    if not zipmaps and not (has_text and labels):
        return model, []
    after = onnx.ModelProto()
    after.CopyFrom(model)
    for zipmap in zipmaps:
        _unzip(after, zipmap, len(_labels([zipmap])))
    if has_text and labels:
        numbers = [value.name for value in after.graph.output if not _is_text(value)]
        if numbers:
            keep_outputs(after, numbers)
    return after, labels


def keep_outputs(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Drop all outputs but `names`, and the nodes and stored tensors that only the others need, in place.

    A classifier whose label nobody takes any more gets numbers in place of text as classes: TFLite has no text.
    """
    kept = [value for value in model.graph.output if value.name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    wanted = set(names)
    nodes = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            # A subgraph takes tensors of the outer graph by name, without listing them as inputs.
            wanted |= {name for inner in _inner_nodes(node) for name in inner.input}
            nodes.append(node)
    nodes.reverse()
    stored = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    for node in model.graph.node:
        if node.domain == ML_DOMAIN and node.output[0] not in wanted:
            _number_classes(node)


def _number_classes(node: onnx.NodeProto) -> None:
    """Name the classes 0, 1, … in place of text, in place."""
    number = _NUMBERS_OF.get(node.op_type)
    for attribute in list(node.attribute):
        if number and attribute.name == _NAMES and attribute.strings:
            classes = len(attribute.strings)
            node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute(number, list(range(classes))))


def _inner_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    holder = onnx.ModelProto()
    holder.graph.node.append(node)
    return list(all_nodes(holder))[1:]


def _unzip(model: onnx.ModelProto, zipmap: onnx.NodeProto, classes: int) -> None:
    """Put the tensor that goes into `zipmap` in the place of its output, in place."""
    given, name = zipmap.input[0], zipmap.output[0]
    if not classes:
        raise InvalidModelError(
            f"{name!r} holds the probabilities of several targets, one list for each target",
            next_step="train one classifier for each target (scikit-learn: MultiOutputClassifier), and publish each of its"
            " `estimators_` as a model of its own",
        )
    graph = model.graph
    position = next(i for i, node in enumerate(graph.node) if node.output[:] == zipmap.output[:])
    del graph.node[position]
    users = sum(list(node.input).count(given) for node in all_nodes(model))
    maker = next((node for node in graph.node if given in node.output), None)
    if maker is None or users or any(value.name == given for value in graph.output):
        graph.node.insert(position, helper.make_node("Identity", [given], [name]))
    else:
        maker.output[list(maker.output).index(given)] = name
    value = next(value for value in graph.output if value.name == name)
    value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [None, classes]))
    first = next((v.type.tensor_type.shape.dim for v in graph.input if v.type.tensor_type.shape.dim), None)
    if first:
        value.type.tensor_type.shape.dim[0].CopyFrom(first[0])


def _labels(zipmaps: list[onnx.NodeProto]) -> list[str]:
    """Return the class names of the first ZipMap: a device has one list of labels."""
    for attribute in zipmaps[0].attribute:
        if attribute.name == _NAMES:
            return _texts(attribute)
        if attribute.name in _NUMBERS:
            return [str(number) for number in attribute.ints]
    return []


def _classes(model: onnx.ModelProto) -> list[str]:
    """Return the class names that are text in the model's classifiers, where they all agree."""
    found = {
        tuple(_texts(attribute))
        for node in model.graph.node
        for attribute in node.attribute
        if node.domain == ML_DOMAIN and attribute.name == _NAMES and attribute.strings
    }
    return list(found.pop()) if len(found) == 1 else []


def _texts(attribute: onnx.AttributeProto) -> list[str]:
    return [text.decode("utf-8", "replace") for text in attribute.strings]


def _is_text(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.STRING)
