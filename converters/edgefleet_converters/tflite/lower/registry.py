"""Which lowering serves which ONNX operator. An operator that is not here is served by the standard's function body, if any."""

from typing import Final

from edgefleet_converters.tflite.lower import (
    activations,
    convolution,
    elementwise,
    pooling,
    products,
    reductions,
    shapes,
)
from edgefleet_converters.tflite.node import Lowering

LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", name): lowering
    for family in (activations, convolution, elementwise, pooling, products, reductions, shapes)
    for name, lowering in family.LOWERINGS.items()
}
"""(domain, operator) -> lowering."""
