"""Adapters over the inference runtimes, pre/post-processing, golden check and non-finite scan."""

import os

# Before anything imports onnxruntime: 1.32 writes a device id and a store of usage events into the user's cache folder when it is
# imported, and knows an address to send them to. A device reports to its own server only. The variable set to 0 turns it on again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
