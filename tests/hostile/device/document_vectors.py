"""Hostile documents and holds: envelopes, signatures, numbers, names, and what a document may want."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_protocol.desired import (
    DESIRED_TYPE,
    HOLD_TYPE,
    CaptureRequest,
    ModelDesired,
    Ref,
    encode_desired,
)
from edgefleet_protocol.envelope import MAX_ENVELOPE_BYTES, Envelope, Signature, dump_envelope, parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from tests.hostile.device.forge import DEVICE, MODEL, PROFILE, Forge, signatures, signer
from tests.hostile.device.victim import ACCEPTED, HONEST, Attack, Vector, Victim
from tests.support.servers import HandClock

BAD, SIGNATURE, OLD = "message.bad", "verify.signature", "verify.old_generation"
UNKNOWN, MISMATCH = "install.target_unknown", "install.target_mismatch"
TOO_LARGE = 2**63
HUGE = 2**80
YESTERDAY = dt.timedelta(days=-1)


def newest(v: Victim) -> bytes:
    """Return an honest envelope that the device would accept."""
    return v.forge.sign(v.forge.desired(v.gen + 1, v.ref))


def envelope(v: Victim, change: Callable[[Envelope], Envelope]) -> str:
    """Change an honest envelope, without its signers."""
    return v.refusal(dump_envelope(change(parse_envelope(newest(v)))))


def payload(v: Victim, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the payload, and let the real director sign what came of it."""
    document = json.loads(parse_envelope(newest(v)).payload)
    change(document)
    return v.refusal(v.forge.sign(json.dumps(document).encode()))


def raw(v: Victim, change: Callable[[bytes], bytes]) -> str:
    """Change the payload's bytes, and let the real director sign them."""
    return v.refusal(v.forge.sign(change(parse_envelope(newest(v)).payload)))


def active(v: Victim, **fields: Any) -> str:
    """Want a bundle that differs in some fields from the signed one."""
    return v.newer(msgspec.structs.replace(v.ref, **fields))


def candidate(v: Victim, ref: Ref, **fields: Any) -> str:
    """Want a hostile candidate beside the honest bundle."""
    model = ModelDesired(active=v.ref, candidate=ref, mode="shadow", **fields)
    return v.newer(models={MODEL: model})


def forged(v: Victim) -> str:
    """A stranger's signature under the director's key id."""

    def change(honest: Envelope) -> Envelope:
        made = signatures(DESIRED_TYPE, honest.payload, [v.forge.stranger])[0]
        own = honest.signatures[0]
        return Envelope(honest.payload_type, honest.payload, (Signature(own.keyid, made.sig),))

    return envelope(v, change)


def twice_signed(v: Victim) -> str:
    """Threshold 2, one key that signed twice."""
    v.forge.keys["director"].append(signer())
    v.forge.delegate("targets", "director", "director/*", threshold=2)
    v.forge.release("targets")
    key = v.forge.keys["director"][0]
    return v.refusal(v.forge.sign(v.forge.desired(v.gen + 1, v.ref), keys=[key, key]))


def one_of_two(v: Victim) -> str:
    """Threshold 2, signed by one director and a stranger."""
    v.forge.keys["director"].append(signer())
    v.forge.delegate("targets", "director", "director/*", threshold=2)
    v.forge.release("targets")
    keys = [v.forge.keys["director"][0], v.forge.stranger]
    return v.refusal(v.forge.sign(v.forge.desired(v.gen + 1, v.ref), keys=keys))


def retired_key(v: Victim) -> str:
    """The director's key of yesterday, after `targets` named another one."""
    document = newest(v)
    v.forge.keys["director"] = [signer()]
    v.forge.roles["targets"].delegations.keys.clear()
    for role, paths in (("director", "director/*"), ("releases", "*/*/*")):
        v.forge.delegate("targets", role, paths)
    v.forge.release("targets")
    return v.refusal(document)


def second_payload(v: Victim) -> str:
    """An envelope with two payloads, of which only the first is signed."""
    other = encode_desired(v.forge.desired(v.gen + 1000, v.ref))
    second = json.loads(dump_envelope(Envelope(DESIRED_TYPE, other, parse_envelope(newest(v)).signatures)))["payload"]
    return v.refusal(newest(v)[:-1] + f',"payload":"{second}"}}'.encode())


def relabelled(v: Victim, kind: str) -> str:
    """The honest payload under another type, with the signatures of the first."""
    return envelope(v, lambda honest: Envelope(kind, honest.payload, honest.signatures))


def clock_of_1970(v: Victim) -> str:
    """Expired by what the device has seen of the time, not by its clock."""
    document = v.forge.sign(v.forge.desired(50, v.ref, expires=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=30)))
    task = Task(kind="desired", state_dir=str(v.state), device=DEVICE)
    clock = HandClock(dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    try:
        Documents(task, lambda name, _limit: v.honest_meta(name), clock).desired(document)
    except EdgefleetError as error:
        return error.code
    return ACCEPTED


def floor_gone(v: Victim, *names: str) -> str:
    """The last document again in other bytes, after the device lost copies of its floor."""
    for name in names:
        (v.state / name).write_bytes(b"torn")
    return v.refusal(v.forge.sign(v.forge.desired(v.gen, v.ref, sec_floor={MODEL: 1})))


def own_bundle(v: Victim, target: str) -> str:
    """A target name that the repository has signed, which is none of this model's."""
    return v.newer(v.forge.store(HONEST, target))


def with_number(where: str, number: int) -> Callable[[dict[str, Any]], None]:
    """Put a number into a payload."""

    def change(document: dict[str, Any]) -> None:
        ref = document["models"][MODEL]["active"]
        if where == "gen":
            document["gen"] = number
        elif where == "sec_floor":
            document["sec_floor"] = {MODEL: number}
        elif where == "deadlines":
            ref["deadlines"] = {"download_s": number}
        else:
            ref[where] = number

    return change


def _envelopes() -> Iterator[Vector]:
    yield Vector("document signed by a stranger under the director's key id", SIGNATURE, forged)
    yield Vector("document signed by a stranger", SIGNATURE, lambda v: _by(v, [v.forge.stranger]))
    for role in ("releases", "targets", "snapshot", "timestamp", "root"):
        yield Vector(f"document signed by the key of {role}", SIGNATURE, _by_role(role))
    yield Vector("document signed twice by one of two directors", SIGNATURE, twice_signed)
    yield Vector("document signed by one of two directors and a stranger", SIGNATURE, one_of_two)
    yield Vector("document signed by a director that was replaced", SIGNATURE, retired_key)
    yield Vector(
        "document without a signature", BAD, lambda v: envelope(v, lambda e: Envelope(e.payload_type, e.payload, ()))
    )
    yield Vector(
        "document with 17 signatures",
        BAD,
        lambda v: envelope(v, lambda e: Envelope(e.payload_type, e.payload, e.signatures * 17)),
    )
    yield Vector(
        "document with one byte changed after it was signed",
        SIGNATURE,
        lambda v: envelope(
            v, lambda e: Envelope(e.payload_type, e.payload.replace(b'"gen":1', b'"gen":9'), e.signatures)
        ),
    )
    yield Vector("document with a second payload", SIGNATURE, second_payload)
    yield Vector("document relabelled as a hold", "verify.wrong_type", lambda v: relabelled(v, HOLD_TYPE))
    yield Vector("document of an unknown type", "verify.wrong_type", lambda v: relabelled(v, DESIRED_TYPE + "x"))
    yield Vector("hold sent as a document", "verify.wrong_type", lambda v: v.refusal(v.forge.sign(v.forge.hold(99))))
    yield Vector(
        "hold signed as a document",
        BAD,
        lambda v: v.refusal(v.forge.sign(msgspec.json.encode(v.forge.hold(99)), DESIRED_TYPE)),
    )
    yield Vector("empty envelope", BAD, lambda v: v.refusal(b""))
    yield Vector("truncated envelope", BAD, lambda v: v.refusal(newest(v)[:-20]))
    yield Vector("envelope with bytes after its end", BAD, lambda v: v.refusal(newest(v) + b"{}"))
    yield Vector("envelope of MessagePack", BAD, lambda v: v.refusal(msgspec.msgpack.encode(json.loads(newest(v)))))
    yield Vector("envelope that is too large", BAD, lambda v: v.refusal(newest(v).ljust(MAX_ENVELOPE_BYTES + 1)))
    yield Vector("envelope nested 100,000 deep", BAD, lambda v: v.refusal(b"[" * 100_000))
    yield Vector("base64 with stray bits", BAD, _stray_bits)


def _by(v: Victim, keys: Any) -> str:
    return v.refusal(v.forge.sign(v.forge.desired(v.gen + 1, v.ref), keys=keys))


def _by_role(role: str) -> Attack:
    return lambda v: _by(v, v.forge.keys[role])


def _numbered(where: str, number: int) -> Attack:
    return lambda v: payload(v, with_number(where, number))


def _at(target: str) -> Attack:
    return lambda v: active(v, target=target)


def _stray_bits(v: Victim) -> str:
    outer = json.loads(newest(v))
    text = outer["signatures"][0]["sig"]  # 64 bytes: two characters of padding, four bits to spare
    outer["signatures"][0]["sig"] = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    return v.refusal(json.dumps(outer).encode())


def _payloads() -> Iterator[Vector]:
    yield Vector("payload truncated before it was signed", BAD, lambda v: raw(v, lambda p: p[:-5]))
    yield Vector("payload with bytes after its end", BAD, lambda v: raw(v, lambda p: p + b"{}"))
    yield Vector("payload that is not UTF-8", BAD, lambda v: raw(v, lambda p: p.replace(b"d-victim", b"d-\xff\xfe")))
    yield Vector("payload nested 50,000 deep", BAD, lambda v: raw(v, lambda _: b'{"tasks":' + b"[" * 50_000))
    yield Vector("payload of version 2", BAD, lambda v: payload(v, lambda d: d.update(v=2)))
    yield Vector("payload without a device", BAD, lambda v: payload(v, lambda d: d.pop("device")))
    yield Vector("payload with a list of models", BAD, lambda v: payload(v, lambda d: d.update(models=[])))
    yield Vector("payload with a fractional number", BAD, lambda v: payload(v, lambda d: d.update(gen=11.5)))
    yield Vector(
        "payload with a time without zone", BAD, lambda v: payload(v, lambda d: d.update(expires="2099-01-01T00:00:00"))
    )
    for where in ("gen", "sec_floor", "deadlines", "attempt", "length"):
        for name, number in (("2^63", TOO_LARGE), ("2^80", HUGE), ("-1", -1)):
            yield Vector(f"{where} of {name}", BAD, _numbered(where, number))
    yield Vector("gen of 0", BAD, lambda v: payload(v, with_number("gen", 0)))
    yield Vector(
        "capture key that is none", BAD, lambda v: v.newer(capture=CaptureRequest(key="../../keys/capture.pem"))
    )
    yield Vector("document for another device", "verify.wrong_device", lambda v: v.newer(device="d-other"))
    yield Vector("document for the device in capitals", "verify.wrong_device", lambda v: v.newer(device=DEVICE.upper()))
    yield Vector(
        "document of an older generation", OLD, lambda v: v.refusal(v.forge.sign(v.forge.desired(v.gen - 1, v.ref)))
    )
    yield Vector("document of the same generation, other bytes", OLD, _same)
    yield Vector("older document with one copy of the floor torn", OLD, lambda v: floor_gone(v, "floor.a"))
    yield Vector("older document with both copies torn", OLD, lambda v: floor_gone(v, "floor.a", "floor.b"))
    yield Vector(
        "document that has expired", "verify.expired", lambda v: v.newer(expires=dt.datetime.now(dt.UTC) + YESTERDAY)
    )
    yield Vector("expired document and a clock of 1970", "verify.expired", clock_of_1970)


def _same(v: Victim) -> str:
    return v.refusal(v.forge.sign(v.forge.desired(v.gen, v.ref, sec_floor={MODEL: 0})))


def _wishes() -> Iterator[Vector]:
    """What a director's key alone may not do: each is refused for what the repository says."""
    other = f"{MODEL}/9.9.9/{PROFILE}.bundle"
    yield Vector("bundle that nobody signed", UNKNOWN, lambda v: active(v, target=other))
    yield Vector("bundle with another digest than its target", MISMATCH, lambda v: active(v, sha256="ab" * 32))
    yield Vector("bundle with another length than its target", MISMATCH, lambda v: active(v, length=v.ref.length + 1))
    yield Vector("bundle of length 0", MISMATCH, lambda v: active(v, length=0))
    yield Vector("bundle whose digest is none", "id.bad", lambda v: active(v, sha256="../../etc/passwd"))
    yield Vector("bundle of another model", MISMATCH, lambda v: own_bundle(v, f"other/1.0.0/{PROFILE}.bundle"))
    for name, target in (
        ("with a parent folder in it", f"{MODEL}/../../{PROFILE}.bundle"),
        ("that is absolute", "/etc/passwd"),
        ("with a NUL", f"{MODEL}/1.0.0/\0.bundle"),
        ("with a backslash", f"{MODEL}\\1.0.0\\{PROFILE}.bundle"),
        ("of 5,000 characters", f"{MODEL}/1.0.0/{'p' * 5000}.bundle"),
        ("that is empty", ""),
    ):
        yield Vector(f"target name {name}", "id.bad", _at(target))
    yield Vector(
        "model name with a parent folder in it",
        "id.bad",
        lambda v: v.newer(models={"../../identity": ModelDesired(active=v.ref)}),
    )
    yield Vector(
        "idle model with a parent folder in its name",
        "id.bad",
        lambda v: v.newer(models={"../x": ModelDesired(active=None)}),
    )
    yield Vector(
        "candidate that nobody signed", UNKNOWN, lambda v: candidate(v, msgspec.structs.replace(v.ref, target=other))
    )
    yield Vector("candidate with a share of 101 %", BAD, lambda v: candidate(v, v.ref, share_pct=101))
    yield Vector(
        "deadline that is a text",
        BAD,
        lambda v: payload(v, lambda d: d["models"][MODEL]["active"].update(deadlines={"apply_s": "soon"})),
    )


def _holds() -> Iterator[Vector]:
    def sent(change: Callable[[Victim, Forge], bytes]) -> Callable[[Victim], str]:
        return lambda v: v.hold_refusal(change(v, v.forge))

    yield Vector("hold of an older number", "verify.old_hold", sent(lambda v, f: f.sign(f.hold(v.gen - 1))))
    yield Vector(
        "hold of the same number, other bytes",
        "verify.old_hold",
        sent(lambda v, f: f.sign(f.hold(v.gen, rollouts=["r-x"]))),
    )
    yield Vector(
        "hold that has expired",
        "verify.expired",
        sent(lambda _, f: f.sign(f.hold(99, expires=dt.datetime.now(dt.UTC) + YESTERDAY))),
    )
    yield Vector("hold signed by a stranger", SIGNATURE, sent(lambda _, f: f.sign(f.hold(99), keys=[f.stranger])))
    yield Vector(
        "hold signed by the key of releases", SIGNATURE, sent(lambda _, f: f.sign(f.hold(99), keys=f.keys["releases"]))
    )
    yield Vector("document sent as a hold", "verify.wrong_type", lambda v: v.hold_refusal(newest(v)))
    yield Vector(
        "document signed as a hold", BAD, sent(lambda v, f: f.sign(encode_desired(f.desired(99, v.ref)), HOLD_TYPE))
    )
    yield Vector("hold with number 2^63", BAD, sent(lambda _, f: f.sign(f.hold(TOO_LARGE))))
    yield Vector("hold with a negative number", BAD, sent(lambda _, f: f.sign(f.hold(-1))))
    yield Vector("truncated hold", BAD, sent(lambda _, f: f.sign(f.hold(99))[:-9]))


DOCUMENTS = [*_envelopes(), *_payloads(), *_wishes(), *_holds()]
