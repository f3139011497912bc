"""Drop graph inputs that already have a stored value.

Before IR version 4 every weight had to be listed as an input too; later exporters still do it. A device sends only real
inputs, and tools that see a weight among the inputs ask for it (6 of 6 light models of onnx fail without this).
"""

import onnx


class StripStoredInputs:
    """Case 1: an input with an initialiser of the same name is removed from the inputs. Nothing else changes."""

    name = "strip-stored-inputs"
    required = True

    def requires(self, model: onnx.ModelProto) -> str:
        """Always runs."""
        return "" if model.HasField("graph") else "the model has no graph"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model without weight inputs; IR version is raised to 4, where that is allowed."""
        stored = {tensor.name for tensor in model.graph.initializer}
        stored |= {sparse.values.name for sparse in model.graph.sparse_initializer}
        kept = [value for value in model.graph.input if value.name not in stored]
        if len(kept) == len(model.graph.input):
            return model, False
        after = onnx.ModelProto()
        after.CopyFrom(model)
        del after.graph.input[:]
        after.graph.input.extend(kept)
        after.ir_version = max(after.ir_version, 4)
        return after, True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The model still has every input that has no stored value."""
        stored = {tensor.name for tensor in before.graph.initializer}
        stored |= {sparse.values.name for sparse in before.graph.sparse_initializer}
        wanted = [value.name for value in before.graph.input if value.name not in stored]
        return "" if [value.name for value in after.graph.input] == wanted else "an input was lost"
