"""What a thief of one thing tries. Each attempt returns the code of the refusal, or "" when the device took what it should not.

- server: the keys that a server must have online (snapshot, timestamp, director), its database, its files and what it sends.
- director: its key, and a way to send.
- team: the key of one model, and a way to send. broker: no key, but all that is sent. root: one of three root keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_protocol.blocks import LEAF_BYTES
from edgefleet_protocol.desired import Ref
from tests.hostile.device.forge import MODEL, MODEL_ROLE, Forge
from tests.hostile.theft.device import GOOD, OTHER_ROLE, Robbed, Steal, bundle, path

EVIL = "6.6.6"
FLOOR = "withdraw what is older than the good release: `edgectl release withdraw --floor`"


@dataclass(frozen=True)
class Attempt:
    """One thing that a thief tries. closes: what stops it, where the device takes it as things are; "" = it must be refused."""

    what: str
    steal: Steal
    closes: str = ""


def evil(v: Robbed, keys: Any, role: str = MODEL_ROLE) -> Ref:
    """Sign a bundle of the thief's into a role with these keys, vouched for by snapshot and timestamp."""
    ref = Forge.store(v.forge, bundle(EVIL), path(EVIL)) if role == MODEL_ROLE else _foreign(v, role)
    v.forge.serve(role, keys)
    return ref


def _foreign(v: Robbed, role: str) -> Ref:
    """Let a role name a bundle of another model."""
    ref = v.forge.store(bundle(EVIL), path(EVIL))
    v.forge.roles[role].targets[path(EVIL)] = v.forge.roles[MODEL_ROLE].targets.pop(path(EVIL))
    v.forge.release(role, MODEL_ROLE)
    return ref


def taken_back(then: Steal) -> Steal:
    """Serve the model's role again under the version that the snapshot names, with nothing withdrawn, to a device without a cache."""

    def steal(v: Robbed) -> str:
        v.forge.roles[MODEL_ROLE].unrecognized_fields["custom"] = {"withdrawn": [], "sec_floor": 0}
        v.forge.serve(MODEL_ROLE)
        v.lose("tuf")
        return then(v)

    return steal


def old_role(v: Robbed) -> str:
    """A new snapshot that names the model's role as it was before the withdrawal."""
    v.forge.roles[MODEL_ROLE].version -= 1
    v.forge.snap()
    return v.order(v.bad)


def without_role(v: Robbed) -> str:
    """A new snapshot without the model's role."""
    v.forge.target_roles = tuple(role for role in v.forge.target_roles if role != MODEL_ROLE)
    v.forge.snap()
    return v.order(v.bad)


def other_bytes(v: Robbed) -> str:
    """The thief's bytes under the good release's digest."""
    data = bundle(EVIL)
    v.leaf = lambda _blob, leaf, _data: data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES] or b"x"
    return v.fetch(v.facts().wanted[0])


def new_root(v: Robbed, keys: Any, *, kept: bool = False, threshold: int = 1) -> str:
    """A second root that trusts the thief for everything, signed by these keys and his own, and all that he signs below it.

    kept: the old root keys stay in it, next to his; threshold: of it.
    """
    mine = {role: [v.forge.stranger] for role in v.forge.keys}
    named = {**mine, "root": [*v.forge.keys["root"], v.forge.stranger]} if kept else mine
    v.forge.roles["root"] = v.forge.root_with(named, version=2, threshold=1)
    v.forge.roles["root"].roles["root"].threshold = threshold
    v.forge.files["2.root.json"] = v.forge.bytes_of("root", [*keys, v.forge.stranger])
    v.forge.keys |= mine
    for role in ("targets", "releases"):
        v.forge.roles[role].delegations.keys.clear()
    for parent, role, paths in (("targets", "director", "director/*"), ("targets", "releases", "*/*/*")):
        v.forge.delegate(parent, role, paths)
    for role, paths in ((MODEL_ROLE, f"{MODEL}/*/*"), (OTHER_ROLE, "faces/*/*")):
        v.forge.delegate("releases", role, paths)
    ref = v.forge.store(bundle(EVIL), path(EVIL))
    v.forge.release(*v.forge.target_roles)
    return v.order(ref)


def same_name(v: Robbed) -> str:
    """The team's signature for other bytes under the name of the good release, which a device that lost it is told to fetch honestly."""
    v.lose("tuf")
    honest = v.document(v.good)
    v.forge.store(bundle(EVIL), path(GOOD))
    v.forge.release(MODEL_ROLE)
    return v.attempt(honest)


def by_team(v: Robbed) -> str:
    """A document that the team's key signed."""
    honest = v.forge.desired(v.gen + 1, v.bad)
    return v.attempt(v.forge.sign(honest, keys=v.forge.keys[MODEL_ROLE]))


def forgotten(v: Robbed, *names: str) -> str:
    """The old document and the old repository again, on a device that lost some of its state."""
    v.lose(*names)
    return v.replayed(v.old, v.before)


def late(v: Robbed) -> str:
    """What the device was told to fetch before the withdrawal: its bytes are still in the slot."""
    return v.fetch(v.bad_wanted)


def _of_director() -> list[Attempt]:
    strange = Ref(target=path(EVIL), sha256="ab" * 32, length=1000)
    return [
        Attempt("orders the withdrawn release", lambda v: v.order(v.bad)),
        Attempt("orders the withdrawn release as a candidate", lambda v: v.beside(v.bad)),
        Attempt("orders the withdrawn release and a floor of 0", lambda v: v.order(v.bad, sec_floor={MODEL: 0})),
        Attempt("orders a bundle that nobody signed", lambda v: v.order(strange)),
        Attempt(
            "orders the withdrawn bytes under the name of the good release",
            lambda v: v.order(Ref(target=v.good.target, sha256=v.bad.sha256, length=v.bad.length)),
        ),
        Attempt("shuts out all that is to come", lambda v: v.order(v.good, sec_floor={MODEL: 2**62})),
        Attempt("orders an older release that was never withdrawn", lambda v: v.order(v.live), FLOOR),
    ]


def _of_server() -> list[Attempt]:
    return [
        *_of_director(),
        Attempt("names the model's role of before the withdrawal", old_role),
        Attempt("names no role of the model", without_role),
        Attempt("serves all metadata of before the withdrawal", lambda v: v.replayed(v.document(v.bad), v.before)),
        Attempt("signs a bundle of its own with another key", lambda v: v.order(evil(v, [v.forge.stranger]))),
        Attempt(
            "signs a bundle of its own with the keys it has",
            lambda v: v.order(evil(v, [*v.forge.keys["snapshot"], *v.forge.keys["director"]])),
        ),
        Attempt("sends other bytes for the good digest", other_bytes),
    ]


def _of_team() -> list[Attempt]:
    return [
        Attempt("signs a bundle of its own, for the honest order", lambda v: (evil(v, None), v.order(v.good))[1]),
        Attempt("signs a bundle of its own under the name of the good release, for the honest order", same_name),
        Attempt("signs an order with its key", by_team),
        Attempt("takes its withdrawal back, for the honest order", taken_back(lambda v: v.order(v.good))),
        Attempt("takes its withdrawal back, and lets the device fetch again", taken_back(late)),
        Attempt(
            "signs for another model with its key",
            lambda v: (evil(v, v.forge.keys[OTHER_ROLE]), v.order(v.good))[1],
        ),
        Attempt("names a bundle of another model", lambda v: v.order(evil(v, None, OTHER_ROLE))),
    ]


def _of_broker() -> list[Attempt]:
    return [
        Attempt("sends the order of before the withdrawal again", lambda v: v.attempt(v.old)),
        Attempt("sends order and metadata of before again", lambda v: v.replayed(v.old, v.before)),
        Attempt("sends the old metadata with the newest order", lambda v: v.replayed(v.document(v.good), v.before)),
        Attempt("the same, to a device that lost its cached metadata", lambda v: forgotten(v, "tuf")),
        Attempt("the same, to a device that lost one copy of its floor", lambda v: forgotten(v, "tuf", "floor.a")),
        Attempt("the same, to a device that lost its floor", lambda v: forgotten(v, "tuf", "floor.a", "floor.b")),
        Attempt("sends other bytes for the good digest", other_bytes),
        Attempt("lets a device that was stopped go on with an old fetch", late),
        Attempt(
            "sends the order of another device",
            lambda v: v.attempt(v.forge.sign(v.forge.desired(v.gen + 1, v.good, device="d-other"))),
        ),
    ]


def _of_root() -> list[Attempt]:
    return [
        Attempt("signs a new root with its key", lambda v: new_root(v, v.forge.keys["root"][:1])),
        Attempt("signs a new root twice with its key", lambda v: new_root(v, v.forge.keys["root"][:1] * 2)),
        Attempt(
            "adds a key of its own to root, and signs it with both",
            lambda v: new_root(v, v.forge.keys["root"][:1], kept=True, threshold=2),
        ),
        Attempt("signs a new root that needs one key only", lambda v: new_root(v, v.forge.keys["root"][:1], kept=True)),
    ]


THIEVES: Final[Mapping[str, Sequence[Attempt]]] = {
    "server": _of_server(),
    "director": _of_director(),
    "team": _of_team(),
    "broker": _of_broker(),
    "root": _of_root(),
}


def both_sides(v: Robbed) -> str:
    """A bundle that the team's key signed, ordered with the director's."""
    ref = v.forge.store(bundle(EVIL), path(EVIL))
    v.forge.release(MODEL_ROLE)
    return v.order(ref)


def passed_on(v: Robbed) -> str:
    """A new release, as its team and the director signed it."""
    raw = v.document(v.forge.store(bundle("1.4.0"), path("1.4.0")))
    v.forge.release(MODEL_ROLE)
    return v.attempt(raw)


CONTROLS: Final[Mapping[str, Attempt]] = {
    "server": Attempt("signs a bundle with the team's key as well, and orders it", both_sides),
    "director": Attempt("orders a bundle that the team's key signed", both_sides),
    "team": Attempt("signs a bundle, and orders it with the director's key as well", both_sides),
    "broker": Attempt("passes on a new release that its team and the director signed", passed_on),
    "root": Attempt("signs a new root with two keys of three", lambda v: new_root(v, v.forge.keys["root"][:2])),
}
"""For each thief the same with what it lacks: the device must take it, else its refusals prove nothing."""
