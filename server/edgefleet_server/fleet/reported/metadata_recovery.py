"""A restored server signs its repository ahead of what devices have seen: once devices that it drew agree, or at an operator's word.

Rules:
- What a device says is kept, one row a device, and signs nothing. Nothing else knows of it: a database says nothing of what was written
  after its copy.
- `recovery_agreement` says how many devices are asked and what counts as agreement. A device is asked by a document with the same
  content and a higher number: to accept it, it fetches the metadata and says what it thinks of it.
- Roles of models are made only at an operator's word, by name: they can never be removed.
- The first word, and each signing, is an event.
"""

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import MAX_SEEN_ROLES, Seen
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.errors import NothingToRecoverError
from edgefleet_server.fleet.reported import store
from edgefleet_server.fleet.reported.model import RecoveryDone, RecoveryModel, RecoveryView, RecoveryWord
from edgefleet_server.fleet.reported.recovery_agreement import A_DAY, Agreement, Question, next_step
from edgefleet_server.signing.fast_forward_recovery import MAX_AHEAD, VersionsSeen, is_model_role, resign_plan
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import MODEL_PREFIX

KIND: Final = "restored"
KIND_OF_WORD: Final = "restore_suspected"
MAX_WORDS: Final = 1000
MAX_NAMED: Final = 10
"""How many devices are named for each model, and how many models in an event."""
WORD_LIFE: Final = timedelta(days=30)
_MOST: Final = 2**62

_log = logging.getLogger(__name__)


class MetadataRecovery:
    """Keeps words about a repository that was lost, and acts on them. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        signing: SigningService,
        desired: DesiredBook,
        feed: EventLog,
        clock: Clock,
        draw: random.Random | None = None,
    ) -> None:
        """Wire the parts. draw: whom to ask; None: by the system's randomness, which no device can foresee."""
        self._db = db
        self._signing = signing
        self._desired = desired
        self._feed = feed
        self._clock = clock
        self._draw = draw or random.SystemRandom()

    def take(self, device: DeviceId, seen: Seen) -> bool:
        """Keep what a device has seen, when that is more than is here; return whether it was new. Signs nothing."""
        return self.take_all({device: seen}) == 1

    def take_all(self, words: Mapping[DeviceId, Seen]) -> int:
        """Keep in one transaction what devices have seen, when that is more than is here; return how much was new. Signs nothing."""
        if not words:
            return 0
        ours, now = self._signing.versions(), self._clock.now()
        known = {device: _versions_of(seen) for device, seen in words.items()}
        more = {device: seen for device, seen in known.items() if resign_plan(ours, seen, now) is not None}
        if not more:  # a whole fleet repeats it until it has heard of the new metadata
            return 0
        new = 0
        with self._db.session() as session:
            is_first = not store.has_recovery_words(session)
            for device, seen in sorted(more.items()):
                if store.put_recovery_word(session, device, seen, now, MAX_WORDS):
                    if is_first and not new:
                        self._suspect(device, seen)
                    new += 1
        return new

    def _suspect(self, device: DeviceId, seen: VersionsSeen) -> None:
        """Tell people of the first word."""
        models = sorted(name.removeprefix(MODEL_PREFIX) for name in seen.roles)
        detail = {"device": device, "seen": seen.version, "unknown_models": models[:MAX_NAMED]}
        self._feed.add([NewEvent(KIND_OF_WORD, detail=detail)])
        _log.warning(
            "a device has seen newer metadata: was this server restored from an older copy? see `edgectl server restored`",
            extra={"device_id": device, "seen": seen.version, "unknown_models": len(models)},
        )

    def step(self, now: datetime) -> None:
        """Ask devices or sign, if a word waits for that. For the engine's tick. Raises SigningError when a key is missing."""
        with self._db.read() as session:
            words = store.recovery_words(session)
        if not words:
            return
        most = self._most()
        believed = [replace(word, version=min(word.version, most)) for word in words]
        match next_step(believed, min(self._signing.versions().versions.values()), now):
            case Agreement() as agreed:
                self._sign_agreed(agreed)
            case Question() as question:
                self._ask(question, now)
            case None:
                pass

    def prune(self, now: datetime) -> int:
        """Forget old words, and those that came true; return how many."""
        with self._db.session() as session:
            return self._forget(session, now)

    def view(self) -> RecoveryView:
        """Return what devices say, and what an operator's word would sign: all roles, whether a device spoke or not. Writes nothing."""
        with self._db.read() as session:
            said = store.said_words(session)
        before_now = int(self._clock.now().timestamp()) - 1
        version = min(max([before_now, *(one.version for one in said)]), self._most())
        ours = self._signing.versions().versions
        named: dict[str, list[DeviceId]] = {}
        for one in said:
            for role in one.roles.keys() - ours.keys():
                named.setdefault(role, []).append(DeviceId(one.device_id))
        return RecoveryView(
            version=version,
            roles=self._signing.recovery(VersionsSeen(version)),
            models=[
                RecoveryModel(role.removeprefix(MODEL_PREFIX), len(devices), devices[:MAX_NAMED])
                for role, devices in sorted(named.items())
            ],
            words=[
                RecoveryWord(DeviceId(one.device_id), one.version, len(one.roles), one.said_at, one.asked_at)
                for one in said
                if one.said_at
            ],
            lost_models=self._signing.lost_models(),
        )

    def sign(self, version: int, models: Collection[str], by: str) -> RecoveryDone:
        """Sign all roles above `version`, 0 = none of them, and make the roles of these models: an operator says so.

        Raises NothingToRecoverError for a version too far ahead, for a model that no device names, and when nothing is to be signed.
        """
        if version > self._most():
            raise NothingToRecoverError(
                f"version {version} is more than {MAX_AHEAD.days} day above this server's clock",
                next_step="set the clock right; `edgectl server restored` shows what can be signed",
            )
        with self._db.session() as session:
            said = store.said_words(session)
            roles = {f"{MODEL_PREFIX}{model}": 0 for model in models}
            for role in roles:
                claims = [one.roles[role] for one in said if role in one.roles]
                if not claims:
                    raise NothingToRecoverError(
                        f"no device names the model {role.removeprefix(MODEL_PREFIX)!r}",
                        next_step="see the models in `edgectl server restored`; publish others as usual",
                    )
                roles[role] = max(claims)
            done = self._signing.outrun(VersionsSeen(version, roles))
            if done is None:
                raise NothingToRecoverError(
                    "this server's metadata is ahead of that already",
                    next_step="see `edgectl server restored`; it names what is left",
                )
            lost = [role.removeprefix(MODEL_PREFIX) for role in done.lost]
            self._tell(version, is_everything=done.everything, lost=lost, detail={"by": by})
            self._forget(session, self._clock.now())
        return RecoveryDone(done.above, done.everything, lost)

    def _sign_agreed(self, agreed: Agreement) -> None:
        with self._db.session() as session:
            done = self._signing.outrun(VersionsSeen(agreed.version))
            if done is not None:
                who: dict[str, Any] = {"device": agreed.first, "confirmed_by": list(agreed.confirmed_by)}
                self._tell(agreed.version, is_everything=done.everything, lost=[], detail=who)
            self._forget(session, self._clock.now())

    def _tell(self, version: int, *, is_everything: bool, lost: Sequence[str], detail: dict[str, Any]) -> None:
        said = {**detail, "seen": version, "everything": is_everything, "lost_models": list(lost)}
        self._feed.add([NewEvent(KIND, detail=said)])
        _log.warning("this server was restored from an older copy: metadata signed again", extra=said)

    def _ask(self, question: Question, now: datetime) -> None:
        with self._db.session() as session:
            online = [one for one in store.online_devices(session) if one not in question.without]
            drawn = sorted(self._draw.sample(online, min(question.count, len(online))))
            for device in drawn:
                self._desired.resign(device)
            store.note_asked(session, drawn, now)
        if drawn:
            _log.info("devices asked what metadata they have seen", extra={"devices": drawn})

    def _forget(self, session: Session, now: datetime) -> int:
        """Take back words that came true or are old. That a device was asked is kept for a day: it is asked once in that time."""
        ours = self._signing.versions()
        gone = [
            one.device_id
            for one in store.said_words(session)
            if (one.said_at and now - one.said_at > WORD_LIFE)
            or resign_plan(ours, VersionsSeen(one.version, one.roles), now) is None
        ]
        return store.forget_recovery_words(session, gone, now - A_DAY)

    def _most(self) -> int:
        return int((self._clock.now() + MAX_AHEAD).timestamp())


def _versions_of(seen: Seen) -> VersionsSeen:
    """Return what a device says, within bounds."""
    roles = {name: _bounded(version) for name, version in seen.roles.items() if is_model_role(name)}
    return VersionsSeen(_bounded(seen.version), dict(sorted(roles.items())[:MAX_SEEN_ROLES]))


def _bounded(version: int) -> int:
    return max(0, min(version, _MOST))
