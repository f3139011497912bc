"""Hostile TUF metadata: rollback of each role, freeze, mix and match, thresholds, the chain of roots, endless data, wrong hashes.

The key cases of the TUF project's conformance suite are here as tests of our own; the suite itself runs by `./dev soak tuf-conformance`.
The document is honest and new in each of them: what is wrong is what the device is served.
"""

import datetime as dt
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Metadata,
    MetaFile,
)
from tuf.api.serialization.json import JSONSerializer

from tests.hostile.device.forge import MODEL_ROLE, TARGET_ROLES, Forge, signer
from tests.hostile.device.victim import Attack, Vector, Victim

ROLLBACK, UNSIGNED, EXPIRED = "tuf.rollback", "tuf.unsigned", "tuf.expired"
HASH, NETWORK, GENERAL, FLOOR = "tuf.length_or_hash", "install.network", "tuf.repository", "trust.rollback"
PAST = dt.datetime(2026, 11, 10, tzinfo=dt.UTC)
"""Later than the build of the agent, so that its trusted time is not what refuses."""
ENDLESS = b" " * 8_000_000


def served(v: Victim, files: Mapping[str, bytes]) -> str:
    """Send an honest document while the repository is the honest one but for these files."""
    v.meta = lambda name: files.get(name) or v.honest_meta(name)
    return v.newer()


def after(change: Callable[[Forge], object]) -> Attack:
    """Return the attack that changes what is served, then sends an honest document."""

    def attack(v: Victim) -> str:
        change(v.forge)
        return v.newer()

    return attack


def moved_on(v: Victim) -> dict[str, bytes]:
    """Return what is served now, and let the device accept a newer version of each role."""
    before = dict(v.forge.files)
    v.forge.release(*TARGET_ROLES)
    assert not v.newer()
    v.gen += 1
    return before


def old_timestamp(v: Victim, *, forget: bool = False) -> str:
    """Serve all of yesterday's repository. forget: the device has lost python-tuf's cache."""
    before = moved_on(v)
    if forget:
        shutil.rmtree(v.state / "tuf")
    return served(v, {"timestamp.json": before["timestamp.json"]})


def older(role: str) -> Attack:
    """Return the attack of a new timestamp and snapshot that name an older version of a role."""

    def attack(v: Victim) -> str:
        moved_on(v)
        v.forge.roles[role].version -= 1
        v.forge.snap()
        return v.newer()

    return attack


def older_by_the_floor(role: str) -> Attack:
    """As `older`, on a device whose cache of python-tuf is lost: only its floor remembers."""

    def attack(v: Victim) -> str:
        moved_on(v)
        shutil.rmtree(v.state / "tuf")
        v.forge.roles[role].version -= 1
        v.forge.serve(role)
        v.forge.snap()
        return v.newer()

    return attack


def expired(role: str) -> Attack:
    """Return the attack of freezing: a role that is signed with all its keys and is over."""

    def change(forge: Forge) -> None:
        if role == "root":
            new_root(forge, lambda root: setattr(root, "expires", PAST))
            return
        forge.roles[role].expires = PAST
        if role == "timestamp":
            forge.roles[role].version += 1
            forge.serve(role)
        elif role == "snapshot":
            forge.roles[role].version += 1
            forge.serve(role)
            forge.stamp()
        else:
            forge.release(role)

    return after(change)


def by_stranger(role: str) -> Attack:
    """Return the attack of a new version of a role that a stranger has signed, vouched for by the online keys."""

    def change(forge: Forge) -> None:
        if role in TARGET_ROLES:
            forge.release(role)
            forge.serve(role, [forge.stranger])
        elif role == "snapshot":
            forge.roles[role].version += 1
            forge.serve(role, [forge.stranger])
            forge.stamp()
        else:
            forge.roles[role].version += 1
            forge.serve(role, [forge.stranger])

    return after(change)


def by_key_of(role: str, other: str) -> Attack:
    """Return the attack of a role signed by the key of another role."""

    def change(forge: Forge) -> None:
        forge.roles[role].version += 1
        forge.serve(role, forge.keys[other])
        if role != "timestamp":
            forge.snap()

    return after(change)


def new_root(forge: Forge, change: Callable[[Any], object], keys: Any = None, version: int = 2) -> None:
    """Serve a second root, signed by the two old keys unless others are given."""
    forge.roles["root"].version = version
    change(forge.roles["root"])
    forge.files["2.root.json"] = forge.bytes_of("root", keys)


def root_of(keys: Callable[[Forge], Any], version: int = 2) -> Attack:
    """Return the attack of a new root signed by these keys."""
    return after(lambda forge: new_root(forge, lambda _root: None, keys(forge), version))


def taken_over(forge: Forge) -> None:
    """A root that names a stranger's keys, signed by them and not by the old ones."""
    strangers = [signer(), signer()]

    def change(root: Any) -> None:
        for key in forge.keys["root"]:
            root.revoke_key(key.public_key.keyid, "root")
        for key in strangers:
            root.add_key(key.public_key, "root")

    new_root(forge, change, strangers)


def half_taken_over(forge: Forge) -> None:
    """The same, with one of the two old keys."""
    taken_over(forge)
    signed = Metadata(forge.roles["root"])
    signed.sign(forge.keys["root"][0], append=True)
    forge.files["2.root.json"] = signed.to_bytes(JSONSerializer())


def without_its_own_threshold(forge: Forge) -> None:
    """A root that asks for three signatures and has the two of before."""

    def change(root: Any) -> None:
        root.add_key(signer().public_key, "root")
        root.roles["root"].threshold = 3

    new_root(forge, change)


def other_snapshot(forge: Forge) -> None:
    """Another snapshot of the version that the timestamp names, signed by its key: mix and match."""
    forge.snap()
    forge.roles["snapshot"].meta[f"{MODEL_ROLE}.json"] = MetaFile(1)
    forge.serve("snapshot")


def renumbered(role: str) -> Attack:
    """Return the attack of a role whose file holds another version than its name and the snapshot say."""

    def change(forge: Forge) -> None:
        forge.release(role)
        name = f"{forge.roles[role].version}.{role}.json"
        forge.roles[role].version += 5
        forge.files[name] = forge.bytes_of(role)

    return after(change)


def fewer_roles(forge: Forge) -> None:
    """A snapshot that no longer names the model's role."""
    forge.snap()
    del forge.roles["snapshot"].meta[f"{MODEL_ROLE}.json"]
    forge.roles["snapshot"].version += 1
    forge.serve("snapshot")
    forge.stamp()


def other_role(forge: Forge) -> None:
    """The releases role served as the model's: the same key has signed it."""
    forge.release(MODEL_ROLE)
    forge.roles["releases"].version = forge.roles[MODEL_ROLE].version
    forge.files[f"{forge.roles[MODEL_ROLE].version}.{MODEL_ROLE}.json"] = forge.bytes_of("releases")


def one_type_as_another(forge: Forge) -> None:
    """A snapshot signed by the key of timestamp, served as the timestamp."""
    forge.files["timestamp.json"] = forge.bytes_of("snapshot", forge.keys["timestamp"])


def wrong(length: int, *, digest: bool) -> Attack:
    """Return the attack of a timestamp that gives the snapshot another length, or another hash."""

    def change(forge: Forge) -> None:
        forge.snap()
        meta = forge.roles["timestamp"].snapshot_meta
        meta.length += length
        if digest:
            meta.hashes = {"sha256": "00" * 32}
        forge.serve("timestamp")

    return after(change)


def hash_of_role(forge: Forge) -> None:
    """A snapshot with another hash of the model's role than its file has."""
    forge.release(MODEL_ROLE)
    forge.roles["snapshot"].meta[f"{MODEL_ROLE}.json"].hashes = {"sha256": "00" * 32}
    forge.serve("snapshot")
    forge.stamp()


def no_director(forge: Forge) -> None:
    """Targets that delegate no director."""
    del forge.roles["targets"].delegations.roles["director"]
    forge.release("targets")


def more_directors(forge: Forge) -> None:
    """Targets that ask for more directors than sign."""
    forge.keys["director"] = [*forge.keys["director"], signer()]
    forge.delegate("targets", "director", "director/*", threshold=2)
    forge.release("targets")
    forge.keys["director"].pop()


def foreign_path(forge: Forge) -> None:
    """A model's role that is trusted with another model's paths only."""
    forge.delegate("releases", MODEL_ROLE, "other/*/*")
    forge.release("releases")


def junk(name: str, data: bytes) -> Attack:
    """Return the attack of bytes that are no metadata."""
    return lambda v: served(v, {name: data})


def _rollbacks() -> Iterator[Vector]:
    yield Vector("timestamp of yesterday", ROLLBACK, old_timestamp)
    yield Vector("timestamp of yesterday, cache lost", FLOOR, lambda v: old_timestamp(v, forget=True))
    yield Vector("snapshot of yesterday under a new timestamp", ROLLBACK, _snapshot_of_yesterday)
    for role in TARGET_ROLES:
        yield Vector(f"older {role} under a new snapshot", ROLLBACK, older(role))
        yield Vector(f"older {role}, cache lost", FLOOR, older_by_the_floor(role))
    for role in ("targets", MODEL_ROLE):
        yield Vector(f"{role} with another version than its name", ROLLBACK, renumbered(role))


def _snapshot_of_yesterday(v: Victim) -> str:
    forge = v.forge
    before = forge.roles["snapshot"].version
    moved_on(v)
    forge.roles["snapshot"].version = before
    forge.stamp()
    return v.newer()


def _freezes() -> Iterator[Vector]:
    for role in ("root", "timestamp", "snapshot", "targets", "releases", MODEL_ROLE):
        yield Vector(f"{role} that is over", EXPIRED, expired(role))


def _signers() -> Iterator[Vector]:
    for role in ("timestamp", "snapshot", "targets", "releases", MODEL_ROLE):
        yield Vector(f"{role} signed by a stranger", UNSIGNED, by_stranger(role))
    yield Vector("timestamp signed by the key of snapshot", UNSIGNED, by_key_of("timestamp", "snapshot"))
    yield Vector("targets signed by the key of releases", UNSIGNED, by_key_of("targets", "releases"))
    yield Vector("targets signed by the director", UNSIGNED, by_key_of("targets", "director"))
    yield Vector("model's role signed by the director", UNSIGNED, by_key_of(MODEL_ROLE, "director"))
    yield Vector("root signed by one of two keys", UNSIGNED, root_of(lambda f: f.keys["root"][:1]))
    yield Vector("root signed twice by one of two keys", UNSIGNED, root_of(lambda f: [f.keys["root"][0]] * 2))
    yield Vector("root signed by one key and a stranger", UNSIGNED, root_of(lambda f: [f.keys["root"][0], f.stranger]))
    yield Vector(
        "root signed by the online keys", UNSIGNED, root_of(lambda f: [*f.keys["targets"], *f.keys["snapshot"]])
    )
    yield Vector("root that only its new keys have signed", UNSIGNED, after(taken_over))
    yield Vector("root that its new keys and one old one have signed", UNSIGNED, after(half_taken_over))
    yield Vector("root below its own new threshold", UNSIGNED, after(without_its_own_threshold))
    yield Vector("root that leaves out a version", ROLLBACK, root_of(lambda f: f.keys["root"], version=3))
    yield Vector("root that is the first again", ROLLBACK, root_of(lambda f: f.keys["root"], version=1))


def _shapes() -> Iterator[Vector]:
    yield Vector("another snapshot of the same version", HASH, after(other_snapshot))
    yield Vector("snapshot with another hash than the timestamp says", HASH, wrong(0, digest=True))
    yield Vector("snapshot longer than the timestamp says", NETWORK, wrong(-5, digest=False))
    yield Vector("snapshot shorter than the timestamp says", HASH, wrong(5, digest=False))
    yield Vector("model's role with another hash than the snapshot says", HASH, after(hash_of_role))
    yield Vector("snapshot that names a role less", "tuf.roles_missing", after(fewer_roles))
    yield Vector("one role served as another of the same key", "install.target_unknown", after(other_role))
    yield Vector("snapshot served as timestamp", GENERAL, after(one_type_as_another))
    yield Vector("targets without a director", "tuf.no_director", after(no_director))
    yield Vector("targets that ask for two directors", "verify.signature", after(more_directors))
    yield Vector("model's role trusted with other paths only", "install.target_unknown", after(foreign_path))
    yield Vector("target signed without a leaf index", "install.target_mismatch", _without_index)
    for name in ("timestamp.json", "2.root.json"):
        yield Vector(f"endless {name}", NETWORK, junk(name, ENDLESS))
        yield Vector(f"{name} that is not JSON", GENERAL, junk(name, b"\x00\xff" * 50))
        yield Vector(f"{name} nested 10,000 deep", GENERAL, junk(name, b"[" * 10_000))
        yield Vector(f"{name} of another type", GENERAL, junk(name, b'{"signed":{"_type":"mirrors"},"signatures":[]}'))


def _without_index(v: Victim) -> str:
    return v.newer(v.forge.store(b"any bytes", custom=False))


METADATA = [*_rollbacks(), *_freezes(), *_signers(), *_shapes()]
