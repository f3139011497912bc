"""`./dev soak moves`: a fleet follows its server to other ports, to another machine and back, and not to a place that does not serve.

Devices are the agent's own verifier, its rules and its files on a real server; the network between them is a table. A tenth of them is away
at each step and comes back at the next, and one adoption in ten is cut off by a power failure after any of its writes.
"""

import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest import mock

from edgefleet_agent.core.durable import encode_record, write_file, write_record
from edgefleet_agent.identity import place_follower
from edgefleet_agent.identity.place_follower import adopt, load_announced, place_of
from edgefleet_agent.identity.places import Choice, Following
from edgefleet_agent.identity.store import CA_FILE, RECORD_FILE, ROOT_FILE, Identity, load_identity
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import State
from edgefleet_protocol.server_places import ServerPlace
from edgefleet_server.clock import SystemClock
from edgefleet_server.fleet.moves.model import ServerMove
from edgefleet_server.fleet.moves.rules import Wanted
from edgefleet_server.fleet.moves.service import MoveBook
from tests.hostile.theft.key_drills import MEMORY, OFFLINE
from tests.server.fleet.house import House, TurnedClock

CUT: Final = 0.1
"""Share of adoptions that a power failure cuts off."""


class PowerCutError(Exception):
    """The device lost power."""


@dataclass
class Network:
    """What answers where. serves: places with a whole server behind them; silent: those that take devices and say nothing."""

    ca: str
    serves: set[ServerPlace]
    silent: set[ServerPlace]

    def takes(self, choice: Choice, own_cas: str) -> bool:
        """Return whether a device comes to be connected."""
        return choice.place in self.serves | self.silent and self.ca in (choice.cas or own_cas)


class Moved:
    """One device. Everything that it knows after a power cut is in its folder."""

    def __init__(self, house: House, folder: Path, place: ServerPlace, chance: random.Random) -> None:
        self.house, self.state, self.chance, self.id = house, folder, chance, house.device().id
        self.folder = folder / "identity"
        self.folder.mkdir(parents=True)
        (self.folder / ROOT_FILE).write_bytes(house.signing.root_chain()[0])
        (self.folder / CA_FILE).write_bytes(house.signing.ca_pem())
        identity = Identity(
            device=self.id, tenant="default", profile="p", broker_host=place.host, broker_port=place.port, mqtt=place.mqtt,
            url=place.url, enrolled_at="",
        )  # fmt: skip
        write_record(self.folder / RECORD_FILE, identity)
        self.seq = 0
        self.cuts = 0
        self.place = place
        self.rules = Following()

    def start(self) -> None:
        """Begin with what is on the disk."""
        self.rules = Following(None, load_identity(self.folder).place).hear(load_announced(self.folder))

    def visit(self, network: Network) -> bool:
        """Connect; where a server is, take its hold, follow it, and report. Return whether a server was reached."""
        for _ in range(3):  # to where it is served, to what is announced there, and what that needs after a power cut
            before = self.rules
            if not self._session(network):
                return False
            self.rules = self.rules.rested() if self.rules.told != before.told else self.rules
        return True

    def _session(self, network: Network) -> bool:
        current = place_of(load_identity(self.folder))
        for choice in self.rules.choices(current):
            if not network.takes(choice, (self.folder / CA_FILE).read_text()):
                continue
            self.rules = self.rules.connected(choice.number)
            if choice.place in network.silent:
                self.rules = self.rules.lost()
                continue
            self._take_hold()
            try:
                self._adopt()
            except PowerCutError:
                self.cuts += 1
                self.start()
                return self._session(network)
            self.rules = self.rules.hear(load_announced(self.folder))
            self.place = choice.place
            self._report()
            return True
        return False

    def _take_hold(self) -> None:
        task = Task(
            kind="hold", state_dir=str(self.state), device=self.id, repo_head=b"", meta_timeout_s=1, block_timeout_s=1, no_progress_s=1
        )  # fmt: skip
        raw = self.house.fleet.hold.envelope()
        if raw is not None:
            Documents(task, lambda name, _most: self.house.signing.metadata_file(name), self.house.clock).hold(raw)

    def _adopt(self) -> None:
        announced = self.rules.announced
        if not self.rules.on_trial or announced is None:
            return
        left = self.chance.randrange(4) if self.chance.random() < CUT else 99

        def cut(path: Path, data: bytes, **more: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCutError
            write_file(path, data, durable=False, **more)

        with (
            mock.patch.object(place_follower, "write_file", cut),
            mock.patch.object(place_follower, "write_record", lambda path, one: cut(path, encode_record(one))),
        ):
            adopt(self.folder, announced)
        self.rules = self.rules.proved()

    def _report(self) -> None:
        self.seq += 1
        told = [self.rules.told, 0 if self.rules.is_resting else self.rules.adopted]
        facts = {"place": told} if self.rules.told else {}
        self.house.fleet.receiver.take_state(
            DeviceId(self.id), State(device=self.id, gen=0, boot_id="b", seq=self.seq, ts=0, facts=facts, models=[])
        )


class Drill:
    """A fleet that moves."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.chance = random.Random(seed)
        clock = TurnedClock(SystemClock().now().replace(microsecond=0))
        self.house = House(
            f"sqlite:///{folder / 'a.db'}", folder / "server", clock, broker_port=8883, public_host="one.example"
        )
        fleet = self.house.fleet
        self.go(ServerPlace("https://one.example:8443", "one.example", 8883))
        self.network = Network(self.house.signing.ca_pem().decode(), {self.place}, set())
        self.moves = MoveBook(
            self.house.db, self.house.signing, fleet.hold, fleet.addresses, self.house.settings, clock, lambda *_: ""
        )
        self.devices = [Moved(self.house, folder / "devices" / str(at), self.place, self.chance) for at in range(count)]
        fleet.hold.sign_again()
        self.meet(everybody=True)

    def go(self, place: ServerPlace) -> None:
        """The server's settings name this place from now on."""
        self.place = place
        addresses = self.house.fleet.addresses
        host, port = place.url.removeprefix("https://").rsplit(":", 1)
        addresses._host, addresses._port = host, int(port)
        addresses.announce_broker(place.host, place.port, place.mqtt)

    def meet(self, *, everybody: bool = False) -> int:
        """Let devices connect, all but those that are away; return how many reached no server."""
        self.house.clock.turn(seconds=2)
        there = [one for one in self.devices if everybody or self.chance.random() >= OFFLINE]
        for one in there:
            one.rules = one.rules.rested()  # an hour went by
        return sum(not one.visit(self.network) for one in there)

    def told(self, wanted: Wanted, *, ahead: bool = False) -> ServerMove:
        """Plan and start a move."""
        self.moves.plan(wanted, "drill")
        started = self.moves.start(ahead=ahead, spread_s=0)
        self.moves.step()
        return started

    def ended(self) -> dict[str, Any]:
        """Let all return, finish, and let all hear of it."""
        lost = self.meet() + self.meet(everybody=True)
        found = self.moves.move().followers
        state = self.moves.finish(leave_behind=0, spread_s=0).state
        self.moves.step()
        lost += self.meet(everybody=True)
        at = sum(one.place == self.place for one in self.devices)
        return {"state": str(state), "followed": found.followed, "at_the_place": at, "lost": lost}

    # ---- the moves

    def ports(self) -> dict[str, Any]:
        """To other ports, both served for a while."""
        self.told(Wanted(device_port=9443, broker_port=9883))
        there = ServerPlace("https://one.example:9443", "one.example", 9883)
        self.network.serves.add(there)
        self.go(there)
        row = self.ended()
        self.network.serves = {there}
        return row | {"after_the_old_one_is_gone": self.meet(everybody=True)}

    def machine(self) -> dict[str, Any]:
        """To a machine that is not there yet when devices are told; the old one stops before it starts."""
        self.told(Wanted(host="two.example"), ahead=True)
        self.meet()
        self.meet(everybody=True)
        known = self.moves.move().followers
        there = ServerPlace("https://two.example:9443", "two.example", 9883)
        self.network.serves = {there}
        self.go(there)
        return {"knew": known.told, "too_early": known.followed} | self.ended()

    def back(self) -> dict[str, Any]:
        """To a name that half of the devices do not reach, and back."""
        here = self.place
        there = ServerPlace("https://three.example:9443", "three.example", 9883)
        self.told(Wanted(host="three.example"))
        self.network.serves.add(there)
        for one in self.devices[::2]:
            one.rules = one.rules.rested()
            one.visit(self.network)
        half = self.moves.move().followers.followed
        self.moves.undo(spread_s=0)
        self.moves.step()
        self.go(here)
        return {"half": half} | self.ended()

    def silent(self) -> dict[str, Any]:
        """To a place that takes devices and serves nothing: all stay."""
        here = self.place
        self.told(Wanted(host="four.example"))
        self.network.silent = {ServerPlace("https://four.example:9443", "four.example", 9883)}
        self.meet(everybody=True)
        adopted = self.moves.move().followers.followed
        self.moves.undo(spread_s=0)
        self.moves.step()
        self.go(here)
        return {"adopted": adopted} | self.ended()


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Move n devices in each way; ok when none was ever lost and each came to be where its server is."""
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="ef-moves-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        drill = Drill(Path(name), n, seed)
        for way in (drill.ports, drill.machine, drill.back, drill.silent):
            begun = time.monotonic()
            rows[way.__name__] = way() | {"seconds": round(time.monotonic() - begun, 1)}
            print(f"{way.__name__}: {rows[way.__name__]}", file=sys.stderr, flush=True)
        cuts = sum(one.cuts for one in drill.devices)
        drill.house.db.dispose()
    all_followed = all(row["followed"] == row["at_the_place"] == n and row["lost"] == 0 for row in rows.values())
    others = rows["ports"]["after_the_old_one_is_gone"] + rows["machine"]["too_early"] + rows["silent"]["adopted"]
    is_ok = all_followed and others == 0 and rows["machine"]["knew"] == n
    return {"ok": is_ok, "devices": n, "power_cuts": cuts, "moves": rows}
