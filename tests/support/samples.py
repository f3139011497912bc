"""One sample of every protocol message, as the golden files hold them. A sample never changes; a new meaning gets a new one."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from edgefleet_protocol import blocks, desired, envelope, manifest, messages
from edgefleet_protocol.drift.histogram import SignalSums, pack

WHEN = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 12, 2, 12, 0, tzinfo=UTC)
DIGEST = "ab" * 32
OTHER = "cd" * 32
TARGET = "digits/1.1.0/generic-x86_64-ort.bundle"

STATE = messages.State(
    device="d-abc",
    gen=17,
    boot_id="b00t",
    seq=3,
    ts=1_764_072_000_000,
    agent_version="0.1.0",
    refused_gen=18,
    refused_code="verify.expired",
    refused_reason="the document expired",
    facts={"arch": "x86_64"},
    models=[
        messages.ModelState(
            model="digits",
            phase=messages.Phase.COMMITTED,
            active_target=TARGET,
            active_sha256=DIGEST,
            previous_target="digits/1.0.0/generic-x86_64-ort.bundle",
            previous_sha256=OTHER,
            wanted_sha256=DIGEST,
            attempt=1,
            gen=17,
            progress_pct=100,
            slot="B",
            serving=True,
        )
    ],
)
EVENT = messages.Event(
    device="d-abc",
    boot_id="b00t",
    seq=9,
    ts=1_764_072_000_000,
    kind=messages.EventKind.ROLLBACK,
    model="digits",
    target=TARGET,
    sha256=DIGEST,
    gen=17,
    attempt=2,
    phase=messages.Phase.ROLLED_BACK,
    error_class=messages.ErrorClass.GOLDEN,
    code="install.golden",
    reason="vector 3 differs",
    detail={"slot": "A"},
)
PRESENCE = messages.Presence(on=True, conn_id="c1", boot_id="b00t", ts=1_764_072_000_000, cert="5eed1a")
TELEMETRY = messages.Telemetry(
    device="d-abc",
    boot_id="b00t",
    seq=4,
    ts=1_764_072_000_000,
    windows=[
        messages.Window(
            t0=1_764_071_940,
            length_s=60,
            model="digits",
            lane="active",
            sha256=DIGEST,
            version="1.1.0",
            n=120,
            errors=1,
            latency=[300, 100, 20],
            classes=[12] * 10,
            worker_rss_bytes=60_000_000,
            worker_cpu_s=0.5,
        )
    ],
    system=messages.SystemFigures(cpu_ratio=0.25, agent_rss_bytes=30_000_000, uptime_s=4_000),
    queue_bytes=512,
    dropped=0,
)
SIGNALS = (SignalSums((10, 20, 30, 59), 1, 2, 64, 7_616, -9, 12), SignalSums((0, 0), 120))
TELEMETRY_SIGNALS = msgspec.structs.replace(
    TELEMETRY,
    seq=5,
    windows=[
        msgspec.structs.replace(TELEMETRY.windows[0], basis=bytes(range(8)), signals=pack(SIGNALS), signals_s=3_600)
    ],
)
REPO_HEAD = messages.RepoHead(root_version=2, timestamp=b'{"signed":{}}')
META_REQUEST = messages.MetaRequest(req_id=5, name="7.root.json", max_bytes=512_000)
META_REPLY = messages.MetaReply(req_id=5, name="7.root.json", part=0, parts=1, data=b"{}")
ACK = messages.Ack(boot_id="b00t", events=[1, 2], telemetry=[4], samples=[3])
DOWNLINK_ACK = messages.Downlink(ack=ACK)
DOWNLINK_REPLY = messages.Downlink(reply=META_REPLY)
FEEDBACK = messages.Feedback(
    device="d-abc",
    boot_id="b00t",
    seq=1,
    ts=1_764_072_000_000,
    model="digits",
    sha256=DIGEST,
    trace_id="t1",
    label="7",
    score=0.9,
)

WATCHED = messages.Watched(
    device="d-abc",
    boot_id="b00t",
    seq=2,
    ts=1_764_072_000_000,
    seen=400,
    lines=[
        messages.PredictionLine(
            model="digits",
            version="1.1.0",
            lane="candidate",
            trace_id="t1",
            at=1_764_071_999_000,
            latency_us=850,
            labels=["seven", "one"],
            scores=[0.9, 0.05],
        )
    ],
)
SAMPLE = messages.Sample(
    device="d-abc",
    boot_id="b00t",
    seq=3,
    ts=1_764_072_000_000,
    task="c-1",
    left=2,
    record="00ff",
    model="digits",
    sha256=DIGEST,
    reason="low_confidence",
    label=7,
    trace_id="t1",
    taken=1_764_071_000_000,
    seen=40,
    key="0123456789abcdef",
    sealed=b"sealed",
)

MESSAGES: dict[str, msgspec.Struct] = {
    "state": STATE,
    "event": EVENT,
    "presence": PRESENCE,
    "telemetry": TELEMETRY,
    "telemetry_signals": TELEMETRY_SIGNALS,
    "repo_head": REPO_HEAD,
    "meta_request": META_REQUEST,
    "meta_reply": META_REPLY,
    "ack": ACK,
    "downlink_ack": DOWNLINK_ACK,
    "downlink_reply": DOWNLINK_REPLY,
    "feedback": FEEDBACK,
    "sample": SAMPLE,
    "watched": WATCHED,
}

REF = desired.Ref(target=TARGET, sha256=DIGEST, length=100_000, rollout="r-1", attempt=2, not_before=WHEN)
DESIRED = desired.Desired(
    device="d-abc",
    gen=17,
    issued=WHEN,
    expires=LATER,
    sec_floor={"digits": 3},
    telemetry=desired.TelemetryRequest(profile="live", until=LATER),
    tasks=[desired.Task(id="t-1", kind="diag", until=LATER)],
    models={"digits": desired.ModelDesired(active=REF, salt="s")},
)
SPREAD = msgspec.structs.replace(
    DESIRED, models={"digits": desired.ModelDesired(active=msgspec.structs.replace(REF, start_within_s=50), salt="s")}
)
HOLD = desired.Hold(seq=4, expires=LATER, rollouts=["r-1"], digests=[DIGEST])
ENVELOPE = envelope.Envelope(
    desired.DESIRED_TYPE, desired.encode_desired(DESIRED), (envelope.Signature("k1", b"\x01" * 64),)
)

BLOCK_REQUEST = blocks.BlockRequest(
    req_id=7, blob_prefix=bytes.fromhex("abababababababab"), wanted=(3, 4, 9, 200), credit=8
)
BLOCK_DATA = blocks.BlockData(7, bytes.fromhex("abababababababab"), 3, 1, b"leaf bytes")
BLOCK_ERROR = blocks.BlockError(7, bytes.fromhex("abababababababab"), blocks.BlockErrorCode.BUSY, 500)

MANIFEST = manifest.Manifest(
    model="digits",
    version="1.1.0",
    profile="generic-x86_64-ort",
    runtime="ort",
    model_member="model.onnx",
    precision="int8",
    format="onnx",
    inputs=[manifest.TensorSpec(name="image", dtype="float32", shape=["n", 1, 8, 8], layout="NCHW")],
    outputs=[manifest.TensorSpec(name="logits", dtype="float32", shape=["n", 10])],
    runtimes=[manifest.RuntimeProof(name="ort", version="1.32.0")],
    tolerances={"logits": manifest.Tolerance(atol=0.001, rtol=0.01)},
    source_sha256=OTHER,
    recipe=manifest.Recipe(sha256=OTHER, steps={"precision": "int8"}),
    operators={"Conv": 2, "Gemm": 2},
    opset=17,
    report={"metric": {"name": "top1", "value": 0.99}},
    licence="Apache-2.0",
    members={"model.onnx": manifest.Member(length=5, sha256=DIGEST)},
)

DOCUMENTS: dict[str, bytes] = {
    "desired.json": desired.encode_desired(DESIRED),
    "desired_spread.json": desired.encode_desired(SPREAD),
    "hold.json": desired.encode_hold(HOLD),
    "envelope.json": envelope.dump_envelope(ENVELOPE),
    "manifest.json": manifest.encode_manifest(MANIFEST),
    "block_request.bin": blocks.encode_request(BLOCK_REQUEST),
    "block_data.bin": blocks.encode_data(BLOCK_DATA),
    "block_error.bin": blocks.encode_data(BLOCK_ERROR),
}
