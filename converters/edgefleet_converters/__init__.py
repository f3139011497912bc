"""Turn a model into proved bundles for hardware profiles. Start reading at `pipeline`; `job` is the process entry."""

import edgefleet_runtime as edgefleet_runtime  # before any onnxruntime: it turns its telemetry off
