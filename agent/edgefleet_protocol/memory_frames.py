"""Inference over shared memory: what a caller and a worker of one machine say to each other. Pure.

1. A connection of the unix socket becomes one of these by an upgrade of HTTP to `UPGRADE`. The worker's 101 says how large the region is
   (`BYTES_HEADER`) and carries its descriptor: a memfd that the worker made and sealed, so that nobody can change its size.
2. Request: the caller puts the body of an infer request at the region's beginning (JSON, then the tensors) and sends one `REQUEST`.
3. Answer: the worker has put the body of its answer there and sends one `REPLY` with the trace id behind it. A body that does not fit into
   the region follows on the socket (`IN_STREAM`).
4. An answer lies in the region until the next request, or until the connection ends other than by `CLOSES`: then the worker takes the
   memory out, and the region reads as zeros. It may end `IDLE_S` after the last answer.
5. One request at a time. A client that breaks a rule is cut off; there is nothing to negotiate.
"""

import struct

UPGRADE = "edgefleet-memory/1"
BYTES_HEADER = "x-edgefleet-memory-bytes"
LOCATION_HEADER = "x-edgefleet-socket"
"""In a 421: the unix socket of the worker that serves this model."""

REQUEST = struct.Struct("<II")
"""Bytes of the JSON, bytes of the whole body."""
REPLY = struct.Struct("<HBBII")
"""Status of HTTP, flags, bytes of the trace id, bytes of the JSON (all of the body where there is no tensor), bytes of the whole body."""
IN_STREAM = 1
CLOSES = 2
"""The worker closes the connection after this answer."""
IDLE_S = 75.0
MAX_TRACE_BYTES = 64
MAX_REPLY_BYTES = REPLY.size + MAX_TRACE_BYTES
ALIGNMENT = 64
"""JSON is filled up with spaces to a multiple of this, so that the tensors behind it lie as runtimes want them."""

MIN_REGION_BYTES = 64 * 1024
MAX_REGIONS = 16
MAX_REGIONS_BYTES = 64 * 1024 * 1024
"""Of one worker together."""


def region_bytes(body_bytes: int) -> int:
    """Return the size of a region for bodies up to so many bytes: a power of two."""
    return max(MIN_REGION_BYTES, 1 << (body_bytes - 1).bit_length())
