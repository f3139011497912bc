"""Every parser that reads what a device, a broker, a caller or a file says, with honest inputs and what it may raise.

`is_wrong` says of an input that was taken whether it should not have been: a signature does not cover it, its form is not the only one,
or its value cannot be stored, or written again.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h11
import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

import edgefleet_profiles
from edgefleet_agent.captures.prediction_log import Block, Prediction, PredictionLog, Row, pack_block, read_predictions
from edgefleet_agent.core.durable import decode_record, encode_record
from edgefleet_agent.enrolment.enroll import parse_claim_token
from edgefleet_agent.verifier.floor import Floor
from edgefleet_agent.worker.http import wire
from edgefleet_agent.worker.http.float_rows import read_csv
from edgefleet_agent.worker.http.plain_request import Head, read_head
from edgefleet_converters.onnx.load import parse as parse_onnx
from edgefleet_converters.tflite.load import read_facts
from edgefleet_protocol import messages
from edgefleet_protocol.blocks import (
    decode_data,
    decode_request,
    encode_data,
    encode_request,
)
from edgefleet_protocol.bundle import Bundle, open_bundle, pack_members, write_bundle
from edgefleet_protocol.claim import ClaimToken, encode_claim
from edgefleet_protocol.desired import (
    DESIRED_TYPE,
    decode_desired,
    decode_hold,
    encode_desired,
    encode_hold,
)
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.histogram import pack as pack_signals
from edgefleet_protocol.drift.histogram import unpack as unpack_signals
from edgefleet_protocol.drift.reference import Confidence, Reference, Signal, read_reference, write_reference
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec, decode_manifest, encode_manifest
from edgefleet_protocol.topics import parse_uplink
from edgefleet_protocol.verify import PublicKey, verify_envelope
from edgefleet_server.gateway.broker.connect_gate import Connect, parse_connect
from edgefleet_server.gateway.payload_check import storable
from tests.agent.worker.models import classifier_onnx
from tests.converters.tflite_graphs import classifier as tflite_classifier
from tests.hostile.device.forge import Forge
from tests.support import samples

UPLINK: Final = ("state", "event", "presence")
"""What goes through `storable`; what else comes up is judged where it is stored."""
SPECS: Final = [TensorSpec(name="x", dtype="float32", shape=["n", 4])]
BINARY_JSON: Final = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'


@dataclass(frozen=True)
class Parser:
    """One parser. refusals: what it may raise. is_wrong: called with an input that was taken and what was made of it."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...] = (EdgefleetError,)
    is_wrong: Callable[[bytes, Any], bool] | None = None


def _message(name: str) -> Parser:
    sample = samples.MESSAGES[name]
    kind = type(sample)
    if name in UPLINK:
        return Parser(
            f"message {name}",
            (messages.encode(sample),),
            lambda data: storable(messages.decode(kind, data)),
            is_wrong=_unstorable,
        )
    return Parser(
        f"message {name}", (messages.encode(sample),), lambda data: messages.decode(kind, data), is_wrong=_unsteady
    )


def _unsteady(_data: bytes, value: msgspec.Struct) -> bool:
    """Whether a message says another thing when it is written and read again. Compared as bytes: NaN is no equal of itself."""
    written = messages.encode(value)
    return messages.encode(messages.decode(type(value), written)) != written


def _unstorable(data: bytes, value: msgspec.Struct) -> bool:
    """Whether a database would refuse the message for what is in it."""
    try:
        text = msgspec.json.encode(value)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return True
    return b"\\u0000" in text or _unsteady(data, value)


def _signed() -> Parser:
    """The envelope of a document, verified with the director's key. Wrong: any payload but the one that was signed."""
    forge = Forge()
    honest = forge.sign(forge.desired(1, None))
    keys = [
        PublicKey(key.keyid, key.keytype, key.scheme, key.keyval["public"])
        for key in (one.public_key for one in forge.keys["director"])
    ]
    payload = parse_envelope(honest).payload
    return Parser(
        "signed document",
        (honest,),
        lambda data: verify_envelope(data, DESIRED_TYPE, keys),
        is_wrong=lambda _data, taken: bool(taken != payload),
    )


def _metadata() -> Parser:
    """TUF metadata, verified with its key. Wrong: other signed bytes than those of an honest file."""
    forge = Forge()
    roles = ("timestamp", "snapshot", "targets", "releases")
    honest = {role: forge.bytes_of(role) for role in roles}
    keys = {role: forge.keys[role][0].public_key for role in roles}
    signed = {Metadata.from_bytes(data).signed_bytes for data in honest.values()}

    def read(data: bytes) -> bytes:
        metadata = Metadata[Any].from_bytes(data)
        for role in roles:
            try:
                keys[role].verify_signature(metadata.signatures[keys[role].keyid], metadata.signed_bytes)
            except Exception as error:  # noqa: BLE001 - python-tuf's and the libraries' below it
                refused = error
            else:
                return metadata.signed_bytes
        raise RepositoryError("unsigned") from refused

    return Parser(
        "TUF metadata", tuple(honest.values()), read, (RepositoryError,), lambda _data, taken: taken not in signed
    )


def _bundle(data: bytes) -> Bundle:
    bundle = open_bundle(io.BytesIO(data))
    bundle.verify_members()
    return bundle


def _not_the_only_form(data: bytes, bundle: Bundle) -> bool:
    return pack_members([(name, bundle.read(name)) for name in bundle.names()]) != data


def _other_head(data: bytes, head: Head | None) -> bool:
    """Whether h11 would read another request; None leaves it to h11."""
    if head is None:
        return False
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    if not isinstance(event, h11.Request):
        return True
    named = [(name, value) for name, value in event.headers]
    return (event.method.decode(), event.target.decode(), named) != (head.method, head.target, head.headers)


def _log(data: bytes) -> list[Prediction]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        Path(name, "00000001.log").write_bytes(data)
        return list(read_predictions(Path(name)))


def _logged() -> bytes:
    rows = [Row(i, f"t{i}", 100 + i, i % 3, 0.5) for i in range(3)]
    block = pack_block(Block(1, "digits", "1.0.0", "ab" * 32, "active", 1_700_000_000_000, rows))
    with tempfile.TemporaryDirectory() as name:
        log = PredictionLog(Path(name), 1 << 20, 1 << 20, 0.0)
        for _ in range(2):
            log.add(block, len(rows), 0.0)
        log.flush()
        return Path(name, "00000001.log").read_bytes()


def _profile(data: bytes) -> Any:
    return edgefleet_profiles.parse(data.decode("utf-8", "replace"), origin="fuzz")


def _boards() -> tuple[bytes, ...]:
    folder = Path(edgefleet_profiles.__file__).parent / "boards"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.yaml"))[:2])


def _rewritten(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Callable[[bytes, Any], bool]:
    """Return whether a value is another one when it is written and read again."""
    return lambda _data, value: bool(read(write(value)) != value)


def _other_bytes(write: Callable[[Any], bytes]) -> Callable[[bytes, Any], bool]:
    """Return whether other bytes than the ones that are written stand for a value."""
    return lambda data, value: write(value) != data


def _connect() -> bytes:
    fixed = Connect("d-1", True, 60, "ef/1/acme/d/d-1/up/pres", b"gone", 1, True).packet()
    return fixed[2:]


REFERENCE: Final = Reference(
    n=6,
    features=[
        Signal(name="x.0", mean=1.0, std=0.5, high=2.0, edges=[0.5, 1.5], counts=[1, 3, 2], hours={"0": [0, 3, 2]}),
        Signal(name="x.1", kind="categorical", values=[0.0, 1.0], counts=[4, 2, 0]),
    ],
    classes=[4, 2],
    confidence=Confidence([0.5], [1, 5]),
)
CLAIM: Final = ClaimToken("https://10.0.0.1:8443", "c1", "secret", "ab" * 32, "cd" * 32)
HEAD: Final = (
    b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 12\r\nConnection: close\r\n\r\n"
)
HEAD_GET: Final = b"GET /v2/health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n\r\n"
PARSERS: Final[tuple[Parser, ...]] = (
    *(_message(name) for name in sorted(samples.MESSAGES)),
    Parser(
        "signals",
        (pack_signals(samples.SIGNALS), pack_signals([SignalSums((300, 301, 299) * 21, 0, 9, -70, 64_000, -31, 29)])),
        unpack_signals,
        (ValueError,),
        _other_bytes(pack_signals),
    ),
    Parser("drift reference", (write_reference(REFERENCE),), read_reference),
    Parser("topic", (b"ef/1/acme/d/d-1/up/state",), lambda data: parse_uplink(data.decode("utf-8", "replace"))),
    Parser("CONNECT packet", (_connect(),), parse_connect),
    Parser(
        "block request",
        (encode_request(samples.BLOCK_REQUEST),),
        decode_request,
        is_wrong=_rewritten(decode_request, encode_request),
    ),
    Parser(
        "block data",
        (encode_data(samples.BLOCK_DATA), encode_data(samples.BLOCK_ERROR)),
        decode_data,
        is_wrong=_rewritten(decode_data, encode_data),
    ),
    _signed(),
    Parser(
        "desired document",
        (encode_desired(samples.DESIRED), encode_desired(samples.SPREAD)),
        decode_desired,
        is_wrong=_rewritten(decode_desired, encode_desired),
    ),
    Parser("hold", (encode_hold(samples.HOLD),), decode_hold, is_wrong=_rewritten(decode_hold, encode_hold)),
    _metadata(),
    Parser(
        "bundle",
        (write_bundle({"model.onnx": b"model", "labels.txt": b"0\n1\n"}, samples.MANIFEST),),
        _bundle,
        is_wrong=_not_the_only_form,
    ),
    Parser(
        "manifest",
        (encode_manifest(samples.MANIFEST),),
        decode_manifest,
        is_wrong=_rewritten(decode_manifest, encode_manifest),
    ),
    Parser(
        "state file",
        (encode_record(Floor(gen=3, versions={"root": 1})),),
        lambda data: decode_record(Floor, data, name="floor.a"),
        is_wrong=_other_bytes(encode_record),
    ),
    Parser("prediction log", (_logged(),), _log),
    Parser(
        "claim token", (encode_claim(CLAIM).encode(),), lambda data: parse_claim_token(data.decode("utf-8", "replace"))
    ),
    Parser("plain request head", (HEAD, HEAD_GET), read_head, is_wrong=_other_head),
    Parser(
        "inference request",
        (b'{"id":"1","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',),
        lambda data: wire.decode_request(data, None, SPECS, ["y"]),
    ),
    Parser(
        "memory frame",
        (BINARY_JSON + bytes(16),),
        lambda data: wire.decode_request(data, len(BINARY_JSON), SPECS, ["y"]),
    ),
    Parser("CSV rows", (b"a,b,c,d\n1,2,3,4\n5,6,7,8\n", b"1,2,3,4\n"), lambda data: list(read_csv(data).rows)),
    Parser("hardware profile", _boards(), _profile),
    Parser("ONNX file", (classifier_onnx(),), parse_onnx),
    Parser("TFLite file", (tflite_classifier(),), read_facts),
)
