"""From the inherited bundle descriptor to a model that can answer; every step fails closed.

1. The whole file is hashed against the digest that agentd wants served, before anything in it is parsed.
2. The descriptor is opened again through /proc, so its offset is not shared with agentd or another worker.
3. The runtime is the manifest's; another one only if the manifest says that the bundle was proved in it.
4. A sealed model is opened here alone, after the process is made one that leaves no core and that others cannot read.
"""

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from edgefleet_agent.worker.control.protocol import Golden as GoldenMessage
from edgefleet_agent.worker.control.protocol import Start
from edgefleet_agent.worker.runtime.stats import peak_rss_bytes
from edgefleet_protocol.bundle import Bundle, BundleError, open_bundle
from edgefleet_protocol.drift.reference import MEMBER as REFERENCE_MEMBER
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import Manifest
from edgefleet_protocol.messages import ErrorClass
from edgefleet_protocol.run_schedule import SCHEDULE_MEMBER
from edgefleet_runtime.golden import GOLDEN_MEMBER, Golden, GoldenError, check_golden, load_golden
from edgefleet_runtime.port import ModelIO, ModelRuntime, RuntimeMissingError, available, load
from edgefleet_runtime.postprocess import (
    LABELS_MEMBER,
    POSTPROCESS_MEMBER,
    Postprocessor,
    build_postprocessor,
    parse_labels,
    parse_postprocess,
)
from edgefleet_runtime.preprocess import (
    PREPROCESS_MEMBER,
    Preprocess,
    check_against,
    default_preprocess,
    parse_preprocess,
)
from edgefleet_runtime.privacy import NOTHING, PRIVACY_MEMBER, Privacy, parse_privacy
from edgefleet_runtime.privacy import check_against as check_policy

_log = logging.getLogger(__name__)
MAX_GOLDEN_AT_START = 64


class StartError(Exception):
    """The worker cannot serve this bundle. error_class: what agentd reports."""

    def __init__(self, error_class: ErrorClass, reason: str) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.reason = reason


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with all that its bundle declares."""

    start: Start
    manifest: Manifest
    runtime: ModelRuntime
    golden: Golden
    preprocess: Preprocess
    postprocess: Postprocessor
    load_ms: float
    privacy: Privacy = NOTHING
    reference: bytes = b""
    schedule: bytes = b""


def load_served_model(start: Start) -> ServedModel:
    """Return the model of the bundle in `start.bundle_fd`. Blocks. Raises StartError."""
    began = time.perf_counter()
    file = _reopen(start.bundle_fd)
    try:
        with file:
            _check_digest(file, start.digest)
            bundle = open_bundle(file)
            manifest = bundle.manifest
            if (manifest.model, manifest.version) != (start.model, start.version):
                raise StartError(
                    ErrorClass.SIGNATURE,
                    f"the bundle holds {manifest.model}@{manifest.version}, not {start.model}@{start.version}",
                )
            golden = _load_golden(bundle)
            runtime = _load_runtime(bundle, start)
            preprocess, postprocess = _load_processing(bundle, runtime)
            policy = _load_privacy(bundle, preprocess, runtime)
            reference, schedule = (
                bundle.read(name) if name in manifest.members else b"" for name in (REFERENCE_MEMBER, SCHEDULE_MEMBER)
            )
    except BundleError as e:
        raise StartError(ErrorClass.SIGNATURE, e.message) from e
    except MemoryError as e:
        raise StartError(ErrorClass.MEMORY, "not enough memory to load the model") from e
    except RuntimeMissingError as e:
        raise StartError(ErrorClass.INCOMPATIBLE, e.message) from e
    except GoldenError as e:
        raise StartError(ErrorClass.GOLDEN, e.message) from e
    except EdgefleetError as e:
        raise StartError(_load_error_class(e), e.message) from e
    except OSError as e:
        raise StartError(ErrorClass.DISK, f"the bundle cannot be read: {e}") from e
    elapsed_ms = (time.perf_counter() - began) * 1e3
    return ServedModel(
        start, manifest, runtime, golden, preprocess, postprocess, elapsed_ms, policy, reference, schedule
    )


def golden_message(served: ServedModel, vectors: list[int] | None) -> GoldenMessage:
    """Run golden vectors (None = all, MAX_GOLDEN_AT_START at most) and return the outcome as agentd gets it. Blocks."""
    chosen = list(range(min(served.golden.n, MAX_GOLDEN_AT_START))) if vectors is None else vectors
    try:
        result = check_golden(served.runtime, served.golden, served.manifest.tolerances, chosen)
    except GoldenError as e:
        return GoldenMessage(ok=False, reason=e.message, peak_rss_bytes=peak_rss_bytes())
    return GoldenMessage(
        ok=result.ok,
        reason=result.reason,
        checked=result.checked,
        latency_p50_ms=result.latency_p50_ms,
        latency_p95_ms=result.latency_p95_ms,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _reopen(fd: int) -> BufferedReader:
    try:
        return Path(f"/proc/self/fd/{fd}").open("rb")
    except OSError:
        # no /proc: the offset is then shared, and agentd must not read this descriptor while we do
        try:
            return os.fdopen(os.dup(fd), "rb")
        except OSError as e:
            raise StartError(ErrorClass.DISK, f"the bundle's descriptor cannot be read: {e}") from e


def _check_digest(file: BufferedReader, expected: str) -> None:
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise StartError(ErrorClass.SIGNATURE, f"the bundle in the slot has the sha256 {found}, expected {expected}")


def _load_golden(bundle: Bundle) -> Golden:
    if GOLDEN_MEMBER not in bundle.manifest.members:
        raise GoldenError("the bundle has no golden.npz, so nothing proves that this model works here")
    return load_golden(bundle.read(GOLDEN_MEMBER))


def _load_runtime(bundle: Bundle, start: Start) -> ModelRuntime:
    manifest = bundle.manifest
    installed = {info.name: info.version for info in available()}
    proved = [manifest.runtime, *(p.name for p in manifest.runtimes if p.name != manifest.runtime)]
    name = start.runtime or next((p for p in proved if p in installed), manifest.runtime)
    versions = [p.version for p in manifest.runtimes if p.name == name]
    if name in installed and installed[name] not in versions:
        _log.warning(
            "runtime version differs from the proved ones: runtime=%s installed=%s proved=%s",
            name,
            installed[name],
            ", ".join(versions) or "none",
        )
    spec = ModelIO(tuple(manifest.inputs), tuple(manifest.outputs))
    if manifest.sealed:
        from edgefleet_agent.worker.runtime.sealed import unsealed

        return load(name, unsealed(bundle, start), threads=start.threads, spec=spec)
    return load(name, bundle.read(manifest.model_member), threads=start.threads, spec=spec)


def _load_processing(bundle: Bundle, runtime: ModelRuntime) -> tuple[Preprocess, Postprocessor]:
    members = bundle.manifest.members
    if PREPROCESS_MEMBER in members:
        preprocess = parse_preprocess(bundle.read(PREPROCESS_MEMBER))
        check_against(preprocess, runtime.inputs)
    else:
        preprocess = default_preprocess(runtime.inputs)
    labels = parse_labels(bundle.read(LABELS_MEMBER)) if LABELS_MEMBER in members else ()
    declared = parse_postprocess(bundle.read(POSTPROCESS_MEMBER)) if POSTPROCESS_MEMBER in members else None
    return preprocess, build_postprocessor(declared, labels, runtime.outputs)


def _load_privacy(bundle: Bundle, preprocess: Preprocess, runtime: ModelRuntime) -> Privacy:
    if PRIVACY_MEMBER not in bundle.manifest.members:
        return NOTHING
    policy = parse_privacy(bundle.read(PRIVACY_MEMBER))
    check_policy(policy, preprocess, runtime.inputs)
    return policy


def _load_error_class(error: EdgefleetError) -> ErrorClass:
    if error.code == "worker.model_key":
        return ErrorClass.INCOMPATIBLE
    text = error.message.lower()
    if "bad_alloc" in text or "failed to allocate memory" in text or "out of memory" in text:
        return ErrorClass.MEMORY
    return ErrorClass.LOAD
