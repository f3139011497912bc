"""How the schedule of one model stands, as it lies on disk in `batch/MODEL/.state`. Pure."""

import msgspec


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """All times are planned ones in unix seconds, 0: none; counts are since the schedule came to this device.

    due_s: the next run. run_s: one that was begun and has not ended, `tries` times so far. ok_s: the newest one that ended well.
    seen_s: the newest time of this device's clock. code, reason: why the newest run failed, "" when it did not.
    """

    v: int = 1
    body: bytes = b""
    due_s: int = 0
    run_s: int = 0
    tries: int = 0
    ok_s: int = 0
    seen_s: int = 0
    runs: int = 0
    failed: int = 0
    late: int = 0
    missed: int = 0
    code: str = ""
    reason: str = ""
