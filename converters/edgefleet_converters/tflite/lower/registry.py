"""Which lowering serves which ONNX operator. An operator that is not here is served by the standard's function body, if any."""

from typing import Final

from edgefleet_converters.tflite.lower import (
    activations,
    control,
    convolution,
    elementwise,
    indexing,
    normalization,
    pooling,
    products,
    quantized,
    recurrent,
    reductions,
    resampling,
    shapes,
)
from edgefleet_converters.tflite.node import Lowering

FAMILIES: Final = (
    activations, control, convolution, elementwise, indexing, normalization, pooling, products, quantized, recurrent,
    reductions, resampling, shapes,
)  # fmt: skip

LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", name): lowering
    for family in FAMILIES
    for name, lowering in family.LOWERINGS.items()
}
"""(domain, operator) -> lowering."""
