"""What several passes promise of their result (`Pass.ensures`)."""

import onnx


def not_valid(after: onnx.ModelProto, made: str) -> str:
    """Return how a result fails the ONNX checker; empty when it passes. made: what the pass did, for the message."""
    try:
        onnx.checker.check_model(after)
    except onnx.checker.ValidationError as error:
        return f"the {made} model is invalid: {' '.join(str(error).split())[:200]}"
    return ""


def other_ends(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """Return that the names or the order of inputs or outputs changed; empty when they are the same."""
    same = [v.name for v in before.graph.input] == [v.name for v in after.graph.input]
    same = same and [v.name for v in before.graph.output] == [v.name for v in after.graph.output]
    return "" if same else "inputs or outputs changed"
