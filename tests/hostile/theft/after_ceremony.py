"""What a thief of a whole server can do after a key ceremony: it has the key folder, the database and all that is sent.

The device is one that was enrolled in the trial, with the trial's root. One of the holders has keys of the other algorithm.
"""

import copy
import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented there, but not in __all__
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_agent.install.verifier_protocol import Accepted, Refused
from edgefleet_protocol.desired import Desired, ModelDesired, Ref, encode_desired
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing import store
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.tables import SigningMetadata
from tests.agent.child import ChildDriver
from tests.hostile.device.forge import DEVICE, MODEL, PROFILE
from tests.hostile.theft.device import bundle
from tests.server.fleet.house import House, TurnedClock
from tests.support.holders import NAMES, hold_ceremony, media

GOOD, EVIL = "1.0.0", "6.6.6"
STILL_ALLOWED: Final = "a team that signs the model: `edgectl key team`"


class Stolen:
    """A server after its ceremony, a device of before, and a thief with the server's key folder. gen: of the last document."""

    def __init__(self, folder: Path) -> None:
        self.house = House(f"sqlite:///{folder / 'a.db'}", folder / "server", TurnedClock(SystemClock().now()))
        self.driver = ChildDriver(self.house, folder / "device", DEVICE)
        self.holders = {**media(folder, NAMES[:2]), **media(folder, NAMES[2:], algorithm="ecdsa")}
        self.gen = 0
        self.house.release(f"{MODEL}@{GOOD}", bundles={PROFILE: bundle(GOOD)})
        assert self.order(GOOD) == "", "the trial"
        hold_ceremony(self.house.signing, self.holders, "ben", "carl")
        assert self.order(GOOD) == "", "the device follows"
        self.thief = SigningService(self.house.db, self.house.folder / "keys", self.house.clock)
        self.mine = CryptoSigner.generate_ed25519()

    def order(self, version: str, data: bytes | None = None, model: str = MODEL) -> str:
        """Order a release with the server's director key; "" when the device goes for it."""
        self.gen += 1
        data = data or bundle(version)
        now = self.house.clock.now()
        ref = Ref(target=f"{model}/{version}/{PROFILE}.bundle", sha256=sha256_hex(data), length=len(data))
        document = Desired(
            device=DEVICE, gen=self.gen, issued=now, expires=now + dt.timedelta(days=7),
            models={ModelName(model): ModelDesired(active=ref)},
        )  # fmt: skip
        answer, desired = self.driver.verify(self.house.signing.sign_desired(encode_desired(document)))
        if isinstance(answer, Refused):
            return answer.code
        assert isinstance(answer, Accepted)
        assert desired is not None
        return desired.refused[0].code if desired.refused else "" if desired.wanted else "nothing new"

    def today(self, name: str) -> Metadata[Any]:
        """Return a file as it is."""
        with self.house.db.read() as session:
            found = store.latest(session, name)
        assert found is not None
        return Metadata[Any].from_bytes(found[1])

    def publish(self, **files: Metadata[Any]) -> None:
        """Put files into the database, and sign snapshot and timestamp for them with the server's keys."""
        with self.house.db.session() as session:
            for name, file in files.items():
                there = session.get(SigningMetadata, (name, file.signed.version))
                if there is not None:
                    session.delete(there)
                    session.flush()
            self.thief._repository.publish_signed(session, files, self.house.clock.now())

    def server_keys(self) -> list[CryptoSigner]:
        """Return every key of the stolen folder that signs TUF files."""
        ring = self.thief._ring
        return [
            cast("CryptoSigner", ring.signer(one.keyid))
            for one in ring.inventory().keys
            if one.state.value != "revoked"
        ]


def _new_root(v: Stolen, keys: Sequence[CryptoSigner], *, is_next: bool = True) -> str:
    root = v.today("root")
    forged = copy.deepcopy(root)
    forged.signed.version += int(is_next)
    for role in ("root", "targets"):
        for keyid in list(forged.signed.roles[role].keyids):
            forged.signed.revoke_key(keyid, role)
        forged.signed.add_key(v.mine.public_key, role)
        forged.signed.roles[role].threshold = 1
    forged.signatures.clear()
    for key in [*keys, v.mine]:
        forged.sign(key, append=True)
    v.publish(root=forged, targets=_forged_targets(v, [v.mine]))
    return v.order(EVIL)


def _forged_targets(v: Stolen, keys: Sequence[CryptoSigner]) -> Metadata[Targets]:
    """Return targets that let the thief sign releases, signed by these keys."""
    forged = copy.deepcopy(v.today("targets"))
    forged.signed.version += 1000
    forged.signed.add_key(v.mine.public_key, "releases")
    forged.signatures.clear()
    for key in keys:
        forged.sign(key, append=True)
    return forged


def _new_targets(v: Stolen, keys: Sequence[CryptoSigner]) -> str:
    v.publish(targets=_forged_targets(v, keys))
    return v.order(EVIL)


def _one_holder(v: Stolen, *names: str) -> list[CryptoSigner]:
    from edgefleet_cli.keys.holder_folder import read_signers
    from tests.support.holders import PASSPHRASE

    return [key for one in names or ("anna",) for key in read_signers(v.holders[one], lambda _what: PASSPHRASE)]


def _two_holders(v: Stolen) -> str:
    """Sign root and targets with keys of two holders; return "" where the device takes them. No bundle of the thief's is in them."""
    code = _new_root(v, _one_holder(v, "anna", "ben"))
    return "" if code == "install.target_unknown" else code


def _by_server(v: Stolen) -> str:
    v.house.release(f"{MODEL}@{EVIL}", bundles={PROFILE: bundle(EVIL)})
    return v.order(EVIL)


ATTEMPTS: Final[Mapping[str, Callable[[Stolen], str]]] = {
    "signs a new root with all keys of the server": lambda v: _new_root(v, v.server_keys()),
    "signs another root of today's version": lambda v: _new_root(v, v.server_keys(), is_next=False),
    "signs targets with all keys of the server": lambda v: _new_targets(v, v.server_keys()),
    "signs a new root with the server's keys and those of one holder": lambda v: _new_root(
        v, [*v.server_keys(), *_one_holder(v)]
    ),
    "signs targets with the server's keys and those of one holder": lambda v: _new_targets(
        v, [*v.server_keys(), *_one_holder(v)]
    ),
}
"""What must be refused."""
CONTROL: Final = "signs a new root with the keys of two holders"
ALLOWED: Final = "signs a bundle and an order with the server's keys of releases and director"


def after_ceremony(attempts: Collection[str] = ATTEMPTS.keys()) -> dict[str, Any]:
    """Make attempts, each on a server and a device of its own; return what came of them, and of what is still allowed."""
    rows = {what: outcome(ATTEMPTS[what]) for what in attempts}
    return {
        "tried": rows,
        "unauthorized_installs": sum(not code for code in rows.values()),
        "control": {"what": CONTROL, "answer": outcome(_two_holders) or "taken"},
        "allowed": {"what": ALLOWED, "answer": outcome(_by_server) or "allowed", "closed_by": STILL_ALLOWED},
    }


def outcome(attempt: Callable[[Any], str], kind: type[Stolen] = Stolen) -> str:
    """Return what came of an attempt on a server and a device of its own: the code of the refusal, "" where the device took it."""
    with TemporaryDirectory(prefix="ef-theft-") as name:
        v = kind(Path(name))
        try:
            return attempt(v)
        except EdgefleetError as error:
            return error.code
        finally:
            v.house.db.engine.dispose()
