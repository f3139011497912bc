"""Turn a model into proved bundles for hardware profiles. Start reading at `pipeline`; `job` is the process entry."""
