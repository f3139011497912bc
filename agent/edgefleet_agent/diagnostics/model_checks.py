"""`edge-agent bench` and `edge-agent self-test`: both ask the serving worker over its socket, as a caller would.

1. `bench` sends the bundle's golden inputs, or zeros where the bundle cannot be read; one connection, one request at a time.
2. `self-test` compares the answers with the golden outputs, within the tolerances of the bundle's own manifest.
3. The figures are the caller's: they hold the transport and the queue, not only the runtime.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefleet_agent.client import InferenceError, Model
from edgefleet_agent.core.text_table import cut, fields, size
from edgefleet_agent.diagnostics.device import Device
from edgefleet_agent.reporting.collector import rss_bytes
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import Manifest, TensorSpec
from edgefleet_runtime.golden import GOLDEN_MEMBER, Golden, GoldenResult, check_golden, load_golden, slice_sample
from edgefleet_runtime.port import Array, RunError

WARM_UP = 10


@dataclass
class Remote:
    """The serving worker in the shape of a runtime, so that the one golden check serves here too."""

    model: Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = "remote"
    version: str = ""
    serving_version: str = ""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the worker's outputs. Raises RunError, InferenceUnreachableError."""
        try:
            return self.model.infer(inputs)
        except InferenceError as error:
            raise RunError(error.message) from error

    def close(self) -> None:
        """Close the connection."""
        self.model.close()


def bench(device: Device, name: str, n: int, now: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Return latency, throughput and memory of one serving model over n requests.

    Raises AgentNotRunningError, UnknownModelError, WhichModelError, InferenceError, InferenceUnreachableError.
    """
    served = device.serving_model(name)
    assert device.status is not None
    with Model(str(served["model"]), socket=str(device.status["infer_socket"])) as model:
        samples, source = _samples(device, served, model)
        for i in range(min(WARM_UP, n)):
            model.infer(samples[i % len(samples)])
        took: list[float] = []
        began = now()
        for i in range(n):
            at = now()
            model.infer(samples[i % len(samples)])
            took.append((now() - at) * 1e3)
        whole_s = now() - began
    pid = device.status["workers"].get(served["model"], 0)
    p50, p95, p99 = (float(q) for q in np.percentile(took, [50, 95, 99]))
    return {
        "model": served["model"],
        "target": served["active_target"],
        "inputs": source,
        "n": n,
        "p50_ms": round(p50, 4),
        "p95_ms": round(p95, 4),
        "p99_ms": round(p99, 4),
        "max_ms": round(max(took), 4),
        "per_s": round(n / whole_s, 1),
        "worker_rss_bytes": rss_bytes(int(pid)) if pid else -1,
        "agent_rss_bytes": rss_bytes(int(device.status["pid"])),
    }


def bench_text(found: dict[str, Any]) -> str:
    """Return the figures as lines."""
    return fields(
        [
            ("model", found["target"]),
            ("requests", f"{found['n']} one after the other, {found['inputs']} as input"),
            ("latency", "p50 {p50_ms:.3f}  p95 {p95_ms:.3f}  p99 {p99_ms:.3f}  max {max_ms:.3f} ms".format(**found)),
            ("throughput", f"{found['per_s']:.0f} a second on one connection"),
            ("memory", f"worker {size(found['worker_rss_bytes'])}, agent {size(found['agent_rss_bytes'])}"),
        ]
    )


def self_test(device: Device, name: str = "") -> dict[str, Any]:
    """Return how the serving models (or one) answer their golden vectors: `{"ok", "models": [...]}`. Raises as `bench`."""
    everything = [] if device.status is None else [m for m in device.status["models"] if m["active_target"]]
    wanted = [device.serving_model(name)] if name or device.status is None else everything
    rows = [_check(device, model) for model in wanted]
    return {"ok": bool(rows) and all(found["ok"] for found in rows), "models": rows}


def self_test_text(found: dict[str, Any]) -> str:
    """Return one line a model."""
    if not found["models"]:
        return "nothing serves on this device: there is nothing to test"
    return "\n".join(
        cut(
            f"{m['model']}  {'ok' if m['ok'] else 'FAILED'}  {m['checked']} golden vectors  "
            f"p50 {m['p50_ms']:.2f} ms  p95 {m['p95_ms']:.2f} ms"
        )
        + (f"\n  {m['reason']}" if m["reason"] else "")
        for m in found["models"]
    )


def golden_answers(device: Device, served: dict[str, Any]) -> tuple[GoldenResult, str]:
    """Return how a serving model answers the golden vectors of the bundle in its slot, and the digest that its worker serves.

    The version is named, so that no candidate answers. Raises GoldenError, BundleError, ManifestError, InferenceError,
    InferenceUnreachableError, OSError.
    """
    assert device.status is not None
    manifest, golden = _golden(device, served)
    socket = str(device.status["infer_socket"])
    with Model(str(served["model"]), socket=socket, version=manifest.version) as model:
        remote = Remote(model, tuple(manifest.inputs), tuple(manifest.outputs))
        result = check_golden(remote, golden, manifest.tolerances)
        return result, str(model.metadata()["parameters"]["digest"])


def _check(device: Device, served: dict[str, Any]) -> dict[str, Any]:
    assert device.status is not None
    row = {"model": served["model"], "target": served["active_target"], "sha256": served["active_sha256"]}
    nothing = {"checked": 0, "p50_ms": 0.0, "p95_ms": 0.0}
    if not served["serving"]:
        return {**row, **nothing, "ok": False, "reason": "it does not serve at the moment"}
    try:
        result, _ = golden_answers(device, served)
    except EdgefleetError as error:
        return {**row, **nothing, "ok": False, "reason": f"{error.code}: {error.message}"}
    except OSError as error:
        return {**row, **nothing, "ok": False, "reason": f"the bundle cannot be read: {error.strerror or error}"}
    return {
        **row,
        "ok": result.ok,
        "checked": result.checked,
        "p50_ms": round(result.latency_p50_ms, 4),
        "p95_ms": round(result.latency_p95_ms, 4),
        "reason": result.reason,
    }


def _golden(device: Device, served: dict[str, Any]) -> tuple[Manifest, Golden]:
    with device.bundle_path(served).open("rb") as file:
        bundle = open_bundle(file)
        return bundle.manifest, load_golden(bundle.read(GOLDEN_MEMBER))


def _samples(device: Device, served: dict[str, Any], model: Model) -> tuple[list[dict[str, Array]], str]:
    try:
        manifest, golden = _golden(device, served)
    except (EdgefleetError, OSError):
        return [{i["name"]: _zeros(i) for i in model.metadata()["inputs"]}], "zeros"
    samples = [
        {spec.name: slice_sample(spec, golden.inputs[spec.name], i) for spec in manifest.inputs}
        for i in range(golden.n)
    ]
    return samples, "golden vectors"


def _zeros(tensor: dict[str, Any]) -> Array:
    from edgefleet_agent.datatypes import DATATYPES

    dtype = {word: name for name, word in DATATYPES.items() if name != "string"}.get(tensor["datatype"], "float32")
    return np.zeros([max(1, int(length)) for length in tensor["shape"]], dtype)
