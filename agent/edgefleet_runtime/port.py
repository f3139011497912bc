"""One way to load and run a model, whatever executes it.

1. The registry is explicit: `ort` (onnxruntime), `litert` (ai-edge-litert), `tflite` (tflite-runtime 2.14), `tflm` (TFLite Micro on a
   host, where models for microcontrollers are proved). No fallback from one to another here: a bundle runs in the runtime it was
   proved in (docs/explanation/converting.md), so the caller chooses.
2. Runtimes are imported when a model is loaded, never before; `available` reads package metadata only.
3. `run` is strict: names, dtypes and shapes are checked before native code sees them, nothing is cast or reshaped silently.
4. A `ModelRuntime` is used from one thread at a time.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec

Array = npt.NDArray[Any]


class RuntimeMissingError(EdgefleetError):
    """The runtime is not installed here, or edgefleet does not know it."""

    code = "runtime.missing"


class ModelLoadError(EdgefleetError):
    """The runtime refused the model."""

    code = "runtime.load"


class RunError(EdgefleetError):
    """The runtime failed while computing."""

    code = "runtime.run"


class InputError(EdgefleetError):
    """An input does not fit the model: wrong name, dtype or shape."""

    code = "runtime.input"


@dataclass(frozen=True)
class RuntimeInfo:
    """An installed runtime. name: key of the registry. version: of its distribution, "unknown" when it has no metadata."""

    name: str
    version: str


@dataclass(frozen=True)
class ModelIO:
    """Declared tensors of a bundle, in the source's order; adapters use them for names that the file itself lacks."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ModelRuntime(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Registry name of the runtime."""

    @property
    def version(self) -> str:
        """Version of the runtime."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the model's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the model's order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs in the model's order. inputs: one array per declared input, of its dtype and shape.

        Blocks. Raises InputError before anything runs, RunError when the runtime fails.
        """


@dataclass(frozen=True)
class _Adapter:
    """Where a runtime comes from. distributions: the first installed one gives the version."""

    package: str
    distributions: tuple[str, ...]
    install: str


_ADAPTERS: dict[str, _Adapter] = {
    "ort": _Adapter(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn"),
        "edgefleet-agent[onnx]",
    ),
    "litert": _Adapter("ai_edge_litert", ("ai-edge-litert",), "edgefleet-agent[litert]"),
    "tflite": _Adapter("tflite_runtime", ("tflite-runtime",), "edgefleet-agent[tflite], Python 3.11 at most"),
    "tflm": _Adapter("tflite_micro", ("tflite-micro",), "edgefleet[micro] beside the converter"),
}


def available() -> list[RuntimeInfo]:
    """Return the runtimes installed here, without importing them."""
    found = []
    for name, adapter in _ADAPTERS.items():
        version = _installed_version(adapter)
        if version is not None:
            found.append(RuntimeInfo(name, version))
    return found


def load(
    runtime_name: str,
    model: bytes | memoryview,
    *,
    threads: int = 1,
    spec: ModelIO | None = None,
    optimise: bool = True,
) -> ModelRuntime:
    """Return the model loaded in that runtime.

    model: the whole file. threads: of one inference. spec: declared tensors, for names. optimise: graph optimisation in
    onnxruntime (off = run the graph as written, for comparisons). Blocks. Raises RuntimeMissingError, ModelLoadError.
    """
    adapter = _ADAPTERS.get(runtime_name)
    if adapter is None:
        raise RuntimeMissingError(
            f"there is no runtime called {runtime_name!r}; edgefleet knows {', '.join(_ADAPTERS)}",
            next_step="correct the runtime in the hardware profile",
        )
    version = _installed_version(adapter)
    if version is None:
        raise RuntimeMissingError(
            f"the runtime {runtime_name} ({adapter.package}) is not installed in this Python",
            next_step=f"install {adapter.install}",
        )
    if runtime_name == "ort":
        from edgefleet_runtime.ort import OrtModel

        return OrtModel(model, version=version, threads=threads, optimise=optimise)
    if runtime_name == "tflm":
        from edgefleet_runtime.tflm import MicroModel

        return MicroModel(model, version=version, spec=spec)
    from edgefleet_runtime.litert import LiteModel

    return LiteModel(model, runtime_name=runtime_name, version=version, threads=threads, spec=spec)


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless `inputs` holds exactly the declared tensors, each of its dtype and a fitting shape."""
    if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
        missing = [s.name for s in specs if s.name not in inputs]
        extra = sorted(set(inputs) - {s.name for s in specs})
        problem = "; ".join(
            [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(extra)}"] * bool(extra)
        )
        raise InputError(
            f"the model takes the inputs {', '.join(s.name for s in specs)}; {problem}",
            next_step="send each input once under its own name",
        )
    for spec in specs:
        check_array(spec, inputs[spec.name])


def check_array(spec: TensorSpec, array: Array) -> None:
    """Raise InputError unless the array has the dtype and a shape of `spec`."""
    if not dtype_fits(spec.dtype, array.dtype):
        raise InputError(
            f"input {spec.name} must be {spec.dtype}, got {array.dtype}",
            next_step=f"convert the values to {spec.dtype}; edgefleet does not cast them silently",
        )
    if not shape_fits(spec.shape, array.shape):
        raise InputError(
            f"input {spec.name} must have the shape {format_shape(spec.shape)}, got {format_shape(array.shape)}",
            next_step="send the values in the declared shape; a name in it stands for any length",
        )


def dtype_fits(declared: str, actual: np.dtype[Any]) -> bool:
    """Say whether an array of dtype `actual` is a `declared` tensor; `string` is any array of str, bytes or objects."""
    if declared == "string":
        return actual.kind in "OUS"
    return dtype_name(actual) == declared


@functools.lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return `dtype.name`, which numpy puts together again at each look: 5 µs on the way of every request."""
    return dtype.name


def shape_fits(declared: Sequence[int | str], actual: Sequence[int]) -> bool:
    """Say whether `actual` fits; a name, or a number below 1, in `declared` stands for any length."""
    if len(declared) != len(actual):
        return False
    for wanted, length in zip(declared, actual, strict=True):  # no generator: this is on the way of every request
        if wanted != length and not isinstance(wanted, str) and wanted >= 1:
            return False
    return True


def is_batched(spec: TensorSpec) -> bool:
    """Return whether a tensor's first dimension is that of the batch: 1 or free."""
    return bool(spec.shape) and (spec.shape[0] == 1 or isinstance(spec.shape[0], str))


def format_shape(shape: Sequence[int | str]) -> str:
    """Return `[1, 3, height]`."""
    return "[" + ", ".join(str(d) for d in shape) + "]"


def first_line(error: Exception) -> str:
    """Return the first line of what a runtime says, its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _installed_version(adapter: _Adapter) -> str | None:
    for distribution in adapter.distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    # a distribution's own package (Debian's python3-onnxruntime) may come without metadata
    return "unknown" if importlib.util.find_spec(adapter.package) is not None else None
