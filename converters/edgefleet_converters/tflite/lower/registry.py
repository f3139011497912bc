"""Which lowering serves which ONNX operator. An operator that is not here is served by the standard's function body, if any."""

from typing import Final, NoReturn

from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.lower import (
    activations,
    classical_models,
    control_flow,
    convolution,
    elementwise,
    fourier,
    gather_scatter,
    generators,
    grid_sample,
    matrix_products,
    non_max_suppression,
    normalization,
    optimizers,
    pools,
    quantized_operators,
    recurrent,
    reductions,
    resize,
    sampled_regions,
    shapes,
    support_vectors,
    tensor_lists,
)
from edgefleet_converters.tflite.node import Lowering, Node
from edgefleet_converters.tflite.source_quantization import DOMAIN, MARK

FAMILIES: Final = (
    activations, control_flow, convolution, non_max_suppression, elementwise, generators, gather_scatter, normalization, pools,
    matrix_products, quantized_operators, recurrent, reductions, resize, grid_sample, sampled_regions, shapes, fourier, tensor_lists,
)  # fmt: skip

ABSENT: Final[dict[str, str]] = {
    "ImageDecoder": "a decoder of image files", "RandomNormal": "random numbers as ONNX makes them",
    "RandomNormalLike": "random numbers as ONNX makes them", "RandomUniform": "random numbers as ONNX makes them",
    "RandomUniformLike": "random numbers as ONNX makes them", "Bernoulli": "random numbers as ONNX makes them",
    "Multinomial": "random numbers as ONNX makes them", "StringConcat": "string tensors",
    "StringSplit": "string tensors", "StringNormalizer": "string tensors", "RegexFullMatch": "string tensors",
}  # fmt: skip
"""Operators that need what no TFLite runtime has."""


def _absent(what: str) -> Lowering:
    def lower(b: Builder, _n: Node) -> NoReturn:
        b.lacks(what)

    return lower


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    **{("", name): lowering for family in FAMILIES for name, lowering in family.LOWERINGS.items()},
    **{("", name): _absent(what) for name, what in ABSENT.items()},
    **{("ai.onnx.preview.training", name): lowering for name, lowering in optimizers.LOWERINGS.items()},
    **{("ai.onnx.ml", name): lowering for name, lowering in classical_models.LOWERINGS.items()},
    **{("ai.onnx.ml", name): lowering for name, lowering in support_vectors.LOWERINGS.items()},
    ("ai.onnx.ml", "ArrayFeatureExtractor"): gather_scatter.array_feature_extractor,
    ("ai.onnx.ml", "Binarizer"): gather_scatter.binarizer,
    (DOMAIN, MARK): quantized_operators.stored,
}
"""(domain, operator) -> lowering."""
