"""A small TUF repository with all its keys in hand, in the shape of the server's: what it signs may be wrong in any way.

`targets` delegates `director` and `releases`, `releases` delegates `m.digits`; all terminating, consistent snapshots. Root has
threshold 2. Nothing here is checked: that is what the device is for.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented there, but not in __all__
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgefleet_protocol.blocks import leaf_index
from edgefleet_protocol.desired import (
    DESIRED_TYPE,
    HOLD_TYPE,
    Desired,
    Hold,
    ModelDesired,
    Ref,
    encode_desired,
    encode_hold,
)
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.envelope import Envelope, Signature, dump_envelope, pae

MODEL, DEVICE, PROFILE = "digits", "d-victim", "generic-x86_64-ort"
TARGET = f"{MODEL}/1.0.0/{PROFILE}.bundle"
MODEL_ROLE = f"m.{MODEL}"
LIFE = dt.timedelta(days=7)
TARGET_ROLES = ("targets", "releases", "director", MODEL_ROLE)


def signer() -> CryptoSigner:
    """Return a new key."""
    return CryptoSigner.generate_ed25519()


class Forge:
    """Roles, keys and files. `files`: what is served, by name; `blobs`: bundles and leaf indices, by digest."""

    def __init__(self) -> None:
        self.target_roles: tuple[str, ...] = TARGET_ROLES
        self.until = dt.datetime.now(dt.UTC).replace(microsecond=0) + LIFE
        self.stranger = signer()
        self.keys: dict[str, list[CryptoSigner]] = {"root": [signer(), signer()], "director": [signer()]}
        self.keys |= {role: [signer()] for role in ("targets", "snapshot", "timestamp", "releases")}
        self.keys[MODEL_ROLE] = self.keys["releases"]
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.roles: dict[str, Any] = {
            "root": Root(version=1, expires=self.until, consistent_snapshot=True),
            "targets": Targets(version=1, expires=self.until, delegations=Delegations({}, {})),
            "releases": Targets(version=1, expires=self.until, delegations=Delegations({}, {})),
            "director": Targets(version=1, expires=self.until),
            MODEL_ROLE: Targets(version=1, expires=self.until),
        }
        for role in ("root", "targets", "snapshot", "timestamp"):
            for key in self.keys[role]:
                self.roles["root"].add_key(key.public_key, role)
        self.roles["root"].roles["root"].threshold = 2
        self.delegate("targets", "director", "director/*")
        self.delegate("targets", "releases", "*/*/*")
        self.delegate("releases", MODEL_ROLE, f"{MODEL}/*/*")
        self.serve("root")
        self.release()

    @property
    def pinned(self) -> bytes:
        """The root that a device has from its enrolment."""
        return self.files["1.root.json"]

    def delegate(self, parent: str, role: str, *paths: str, threshold: int = 1) -> None:
        """Let `parent` delegate paths to the keys of `role`."""
        delegations = self.roles[parent].delegations
        delegations.roles[role] = DelegatedRole(role, [], threshold, terminating=True, paths=list(paths))
        for key in self.keys[role]:
            self.roles[parent].add_key(key.public_key, role)

    def bytes_of(self, role: str, keys: Iterable[CryptoSigner] | None = None) -> bytes:
        """Return a role as it is now, signed. keys: instead of its own."""
        signed = Metadata(self.roles[role])
        for key in self.keys[role] if keys is None else keys:
            signed.sign(key, append=True)
        return signed.to_bytes(JSONSerializer(compact=True))

    def serve(self, role: str, keys: Iterable[CryptoSigner] | None = None) -> None:
        """Serve a role as it is now under the name of its version."""
        name = "timestamp.json" if role == "timestamp" else f"{self.roles[role].version}.{role}.json"
        self.files[name] = self.bytes_of(role, keys)

    def release(self, *changed: str) -> None:
        """Sign what changed with the next version, then snapshot and timestamp; all roles the first time."""
        for role in changed:
            self.roles[role].version += 1
        for role in changed or self.target_roles:
            self.serve(role)
        self.snap()

    def snap(self) -> None:
        """Sign the next snapshot and timestamp for the roles as they are."""
        version = self.roles["snapshot"].version + 1 if "snapshot" in self.roles else 1
        meta = {f"{role}.json": MetaFile(self.roles[role].version) for role in self.target_roles}
        self.roles["snapshot"] = Snapshot(version=version, expires=self.until, meta=meta)
        self.serve("snapshot")
        self.stamp()

    def stamp(self) -> None:
        """Sign the next timestamp for the snapshot as it is served."""
        version = self.roles["timestamp"].version + 1 if "timestamp" in self.roles else 1
        snapshot = self.roles["snapshot"].version
        data = self.files[f"{snapshot}.snapshot.json"]
        meta = MetaFile(snapshot, len(data), {"sha256": sha256_hex(data)})
        self.roles["timestamp"] = Timestamp(version=version, expires=self.until, snapshot_meta=meta)
        self.serve("timestamp")

    def store(self, data: bytes, target: str = TARGET, *, custom: bool = True) -> Ref:
        """Store a bundle with its leaf index, name it in the repository, and return how a document names it."""
        index = leaf_index(data)
        self.blobs |= {sha256_hex(data): data, sha256_hex(index): index}
        extra = {"custom": {"leaves": sha256_hex(index)}} if custom else {}
        file = TargetFile(len(data), {"sha256": sha256_hex(data)}, target, unrecognized_fields=extra)
        self.roles[MODEL_ROLE].targets[target] = file
        self.release(MODEL_ROLE)
        return Ref(target=target, sha256=sha256_hex(data), length=len(data))

    def desired(self, gen: int, ref: Ref | None, **fields: Any) -> Desired:
        """Return a document. fields: other ones than those of an honest one."""
        now = dt.datetime.now(dt.UTC)
        honest = Desired(
            device=DEVICE, gen=gen, issued=now, expires=now + LIFE, models={MODEL: ModelDesired(active=ref)}
        )
        return msgspec.structs.replace(honest, **fields)

    def hold(self, seq: int, **fields: Any) -> Hold:
        """Return a hold."""
        return msgspec.structs.replace(Hold(seq=seq, expires=dt.datetime.now(dt.UTC) + LIFE), **fields)

    def sign(self, what: Desired | Hold | bytes, kind: str = "", keys: Iterable[CryptoSigner] | None = None) -> bytes:
        """Return the envelope of a document or hold. kind: of payload; keys: the director's without them."""
        if isinstance(what, bytes):
            payload, kind = what, kind or DESIRED_TYPE
        elif isinstance(what, Hold):
            payload, kind = encode_hold(what), kind or HOLD_TYPE
        else:
            payload, kind = encode_desired(what), kind or DESIRED_TYPE
        return dump_envelope(Envelope(kind, payload, signatures(kind, payload, keys or self.keys["director"])))


def signatures(kind: str, payload: bytes, keys: Iterable[CryptoSigner]) -> tuple[Signature, ...]:
    """Return the signatures of an envelope."""
    made = [key.sign(pae(kind, payload)) for key in keys]
    return tuple(Signature(one.keyid, bytes.fromhex(one.signature)) for one in made)
