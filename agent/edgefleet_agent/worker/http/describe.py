"""What the API says about models: metadata, configuration, statistics, index. Pure: facts in, JSON values out.

Sources: Open Inference Protocol v2 REST; Triton's extensions statistics, model_repository (index only), model_configuration.
"""

from collections.abc import Mapping
from typing import Any

from edgefleet_agent.worker.control.protocol import ModelRoute, RoutesTable
from edgefleet_agent.worker.http import wire
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import Totals
from edgefleet_protocol.manifest import TensorSpec

PLATFORMS = {"ort": "onnx_onnxruntime", "litert": "tensorflowlite_litert", "tflite": "tensorflowlite"}
_STATES = {"ready": "READY", "starting": "LOADING", "failed": "UNAVAILABLE"}


def index(table: RoutesTable) -> list[dict[str, str]]:
    """Return the repository index: one row a model and lane."""
    return [
        {"name": name, "version": entry.version, "state": _STATES[entry.state], "reason": entry.reason, "lane": lane}
        for name, route in sorted(table.models.items())
        for lane, entry in sorted(route.lanes.items())
    ]


def metadata(served: ServedModel, route: ModelRoute | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the model of this worker. route: its lanes, None when this worker knows only itself."""
    versions = sorted({r.version for r in route.lanes.values()}) if route else [served.start.version]
    return {
        "name": served.start.model,
        "versions": versions,
        "platform": PLATFORMS.get(served.runtime.name, served.runtime.name),
        "inputs": [wire.tensor_metadata(s) for s in served.runtime.inputs],
        "outputs": [wire.tensor_metadata(s) for s in served.runtime.outputs],
        "parameters": dict(parameters),
    }


def config(served: ServedModel) -> dict[str, Any]:
    """Return Triton's model configuration. max_batch_size is 0: shapes are given whole, first dimension and all."""
    return {
        "name": served.start.model,
        "platform": PLATFORMS.get(served.runtime.name, served.runtime.name),
        "max_batch_size": 0,
        "input": [_config_tensor(s) for s in served.runtime.inputs],
        "output": [_config_tensor(s) for s in served.runtime.outputs],
    }


def statistics(served: ServedModel, totals: Totals, unix_ms: int) -> dict[str, Any]:
    """Return one row of the statistics extension. unix_ms: of the last inference, 0 when there was none."""
    good = totals.n - totals.errors
    stages = (("queue", totals.queue_s), ("compute_input", totals.input_s), ("compute_output", totals.output_s))
    whole_s = totals.run_s + sum(spent_s for _, spent_s in stages)
    return {
        "name": served.start.model,
        "version": served.start.version,
        "last_inference": unix_ms,
        "inference_count": good,
        "execution_count": good,
        "inference_stats": {
            "success": _spent(good, whole_s),
            "fail": _spent(totals.errors, totals.fail_s),
            "compute_infer": _spent(good, totals.run_s),
            **{name: _spent(good, spent_s) for name, spent_s in stages},
        },
        "batch_stats": [],
    }


def _spent(count: int, spent_s: float) -> dict[str, int]:
    return {"count": count, "ns": int(spent_s * 1e9)}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    metadata = wire.tensor_metadata(spec)
    kind = "STRING" if metadata["datatype"] == "BYTES" else metadata["datatype"]
    return {"name": metadata["name"], "data_type": f"TYPE_{kind}", "dims": metadata["shape"]}
