"""kill -9 of the server at random moments of a rollout: it must go on where it was, skip no device, lose and double no transition.

A real server process with its own broker steers simulated devices that speak real MQTT over TLS with their own certificates.
Releases that are good and releases that crash on some devices go out by turns. In each rollout the server is killed at one or two
moments, drawn uniformly over the life of the rollout, and started again; when the rollout has ended, `fleet_sim_audit` compares
the event log with the tables, and every device must run what the outcome says. `main` does so on SQLite and on PostgreSQL and
returns figures as one JSON-able object, with the seed.
"""

import contextlib
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgefleet_protocol.ids import TenantId
from edgefleet_protocol.messages import Phase, Presence, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice
from tests.server.rollout.fleet_sim import MODEL, Habit, SimDevice, spec_of
from tests.server.rollout.fleet_sim_audit import audit
from tests.support.ports import kept_port
from tests.support.postgres import binaries, shared_server
from tests.support.servers import ServerProcess, server_process

DEVICES: Final = 24
STEP_S: Final = 0.1
WAIT_S: Final = 180.0
SHARE_THAT_CRASHES: Final = 0.1
_OVER: Final = frozenset(state.value for state in ROLLOUT_FINAL)
_TROUBLE: Final = ("engine step failed", "rollout tick failed", "inbound batch failed", "outbound failed")


class MqttSim:
    """A simulated device on a real connection. The MQTT thread only queues; `step` does the work on the conductor's thread."""

    def __init__(self, sim: SimDevice, keyed: KeyedDevice, port: int, folder: Path) -> None:
        self.sim = sim
        self._topics = Topics(TenantId(keyed.enrolment.tenant))
        self._lock = threading.Lock()
        self._inbox: list[tuple[str, bytes]] = []
        self._is_up = False
        self._connections = 0
        cert, key = folder / f"{sim.id}.crt", folder / f"{sim.id}.key"
        cert.write_text(keyed.enrolment.cert)
        key.write_bytes(keyed.key_pem())
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=sim.id, protocol=paho.MQTTv311)
        context = ssl.create_default_context(cadata=keyed.enrolment.ca)
        context.load_cert_chain(cert, key)
        self.client.tls_set_context(context)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.connect_async("127.0.0.1", port, keepalive=20)
        self.client.loop_start()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([(self._topics.desired(self.sim.id), 1), (self._topics.hold(), 1)])

    def _on_subscribe(self, *_: Any) -> None:
        with self._lock:
            self._is_up, self._connections = True, self._connections + 1
            self._inbox.append(("connected", b""))

    def _on_disconnect(self, *_: Any) -> None:
        with self._lock:
            self._is_up = False

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._lock:
            self._inbox.append((message.topic, bytes(message.payload)))

    def step(self) -> None:
        """Take what came, do one step and report when anything is new."""
        with self._lock:
            inbox, self._inbox = self._inbox, []
            is_up, number = self._is_up, self._connections
        is_news = False
        for topic, payload in inbox:
            if topic == self._topics.hold():
                self.sim.take_hold(payload)
            elif topic == self._topics.desired(self.sim.id) and payload:
                self.sim.take_desired(payload)
            elif topic == "connected":
                here = Presence(on=True, conn_id=f"c{number}", boot_id="b", ts=number)
                self._say(self._topics.presence(self.sim.id), encode(here))
            is_news = True
        is_news |= self.sim.step()
        if is_news and is_up:
            self._say(self._topics.state(self.sim.id), encode(self.sim.state()))

    def _say(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1, retain=True)

    def close(self) -> None:
        """Leave."""
        self.client.disconnect()
        self.client.loop_stop()


class Site:
    """A server folder, the devices of its fleet, and the server process, which may be killed and started again."""

    def __init__(self, folder: Path, url: str | None, rng: random.Random) -> None:
        self.data = folder / "data"
        self._folder = folder
        self._url = url or f"sqlite:///{self.data / 'edgefleet.db'}"
        self._rng = rng
        self.token = _init(self.data, self._url)
        with (self.data / "server.toml").open("a", encoding="utf-8") as settings:
            settings.write("engine_tick_s = 0.5\n")
        self.house = House(self._url, self.data, SystemClock())
        self.service = RolloutService(
            self.house.db, self.house.fleet, self.house.registry, self.house.clock, self.house.telemetry
        )
        self.devices: list[MqttSim] = []
        self.server: ServerProcess | None = None
        self._port = kept_port()
        self._running = ExitStack()
        self._stopping = threading.Event()
        self._conductor = threading.Thread(target=self._conduct, name="devices", daemon=True)
        self.base = "1.0.0"
        self.hits: list[str] = []

    def begin(self) -> None:
        """Start the server and the devices, and bring the first release to all of them."""
        house = self.house
        ref = self._release(self.base)
        claim = house.fleet.enrolment.create_claims(uses=DEVICES)[0]
        keyed = [KeyedDevice() for _ in range(DEVICES)]
        for one in keyed:
            one.enrolment = house.fleet.enrolment.enroll(claim.token, one.csr(), FACTS)
        house.fleet.deployer.deploy(ref, selector="")
        self.start()
        key = house.signing.director_key()
        self.devices = [MqttSim(SimDevice(one.id, key), one, self._port, self._folder) for one in keyed]
        self._conductor.start()
        self._wait(lambda: self._reported() == {self.base}, "the first release on every device")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        (self.data / "run" / "server.json").unlink(missing_ok=True)
        flags = ("--db", self._url, "--roles", "api,gateway,engine", "--broker-port", str(self._port))
        self.server = self._running.enter_context(server_process(self.data, self.token, *flags))

    def kill(self) -> None:
        """kill -9 of the server alone; its broker ends with it."""
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait()
        self._running.close()
        self.server = None

    def close(self) -> None:
        """Stop everything."""
        self._stopping.set()
        if self._conductor.ident is not None:
            self._conductor.join(20)
        for device in self.devices:
            device.close()
        self._running.close()
        self.house.db.dispose()

    def one_rollout(self, version: str, *, is_bad: bool, kills: list[float]) -> tuple[list[str], float]:
        """Roll a release out while the server is killed at these moments (seconds of the rollout's life, rising).

        Returns what went wrong, and how long the server was up until the rollout had ended. `hits` says where it was killed.
        """
        self.hits = []
        self._release(version)
        crash = Habit(fails_at=Phase.PROBATION, reason="it crashed in its trial")
        is_trusting = (
            is_bad and self._rng.random() < 0.5
        )  # one crash is enough, at any stage; else other devices confirm it
        share = SHARE_THAT_CRASHES if is_trusting else 1.0
        for device in self.devices:
            device.sim.habits[version] = crash if is_bad and self._rng.random() < share else Habit()
        if is_bad:
            self._rng.choice(self.devices).sim.habits[version] = crash
        rollout = self._create(version, "rollback" if is_trusting else "pause")
        lived = 0.0
        for moment in [*kills, WAIT_S]:
            lived += self._live(rollout, moment - lived)
            if self._view(rollout).state in _OVER:
                break
            if moment == WAIT_S:
                return [f"the rollout did not end within {WAIT_S:.0f} s: {self._view(rollout).reason}"], lived
            self.kill()
            view = self._view(rollout)
            self.hits.append(f"{view.state} {view.stage or ''}".strip())
            self.start()
        return self._check(rollout, version, is_bad=is_bad), lived

    def _live(self, rollout: str, for_s: float) -> float:
        """Let the server run for so long, or until the rollout has ended; return how long that was."""
        began = time.monotonic()
        while (left := began + for_s - time.monotonic()) > 0 and self._view(rollout).state not in _OVER:
            time.sleep(min(0.05, left))
        return time.monotonic() - began

    def _create(self, version: str, on_unconfirmed: str) -> str:
        assert self.server is not None
        stages = [
            {"name": "canary", "size": {"count": 2}, "soak": "1s"},
            {"name": "half", "size": {"percent": 50}, "soak": "1s"},
            {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
        ]
        with self.server.client() as client:
            answer = client.post(
                "/api/v1/rollouts", json=spec_of(f"{MODEL}@{version}", stages=stages, on_unconfirmed=on_unconfirmed)
            )
            if answer.status_code != 201:
                raise RuntimeError(f"the rollout was refused: {answer.text}; {self.log()[-3000:]}")
            return str(answer.json()["id"])

    def _check(self, rollout: str, version: str, *, is_bad: bool) -> list[str]:
        problems = audit(self.house.db, rollout)
        view = self._view(rollout)
        expected = "rolled_back" if is_bad else "finished"
        if view.state != expected:
            problems.append(f"ended {view.state}, expected {expected}: {view.reason}")
        self.base = self.base if is_bad else version
        with contextlib.suppress(TimeoutError):
            self._wait(lambda: self._reported() == {self.base}, "")
        if self._reported() != {self.base}:
            problems.append(f"devices report {self._reported()}, expected {self.base}")
        for device in self.devices:
            if device.sim.running != self.base:
                problems.append(f"{device.sim.id} runs {device.sim.running!r}, expected {self.base}")
            if device.sim.gens != sorted(device.sim.gens):
                problems.append(f"{device.sim.id} was sent gens that fall: {device.sim.gens[-20:]}")
        return problems

    def _release(self, version: str) -> Any:
        return self.house.release(f"{MODEL}@{version}", bundles={PROFILE: f"{version} for {PROFILE}".encode()})

    def _view(self, rollout: str) -> RolloutView:
        return self.service.reader.rollout(rollout)

    def _reported(self) -> set[str]:
        """Return the versions that devices report, "" for none."""
        ids = [device.sim.id for device in self.devices]
        said = self.house.fleet.offers.reports_of(ids, MODEL)
        return {one.active_target.split("/")[1] if one.active_target else "" for one in said.values()}

    def _wait(self, fact: Any, what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not fact():
            if time.monotonic() > until:
                raise TimeoutError(f"not within {WAIT_S:.0f} s: {what}; {self.log()[-2000:]}")
            time.sleep(0.1)

    def _conduct(self) -> None:
        while not self._stopping.wait(STEP_S):
            for device in self.devices:
                device.step()

    def log(self) -> str:
        """Return the server's log."""
        return (self._folder / "server.log").read_text(encoding="utf-8", errors="replace")


def main(n: int, seed: int) -> dict[str, Any]:
    """Kill a server `n` times on each kind of database; return {ok, devices, result by database}."""
    result: dict[str, Any] = {"sqlite": on_database("sqlite", n, seed)}
    if binaries() is not None:
        result["postgresql"] = on_database("postgresql", n, seed)
    is_whole = all(one["kills"] == n and not one["failures"] for one in result.values())
    return {"ok": is_whole and len(result) == 2, "devices": DEVICES, "result": result}


def on_database(kind: str, n: int, seed: int) -> dict[str, Any]:
    """Kill a server `n` times on one kind of database; return {kills, rollouts, states_hit, failures, …}."""
    rng = random.Random(f"{seed}/{kind}")
    began = time.monotonic()
    figures: dict[str, Any] = {"kills": 0, "rollouts": 0, "lives_s": {}, "killed_in": [], "failures": []}
    with _site(kind, rng) as site:
        site.begin()
        lives = {False: 0.0, True: 0.0}
        number, first_is_bad = 0, rng.random() < 0.5
        while figures["kills"] < n and number < 4 * n + 4:
            number += 1
            is_bad = (number % 2 == 0) != first_is_bad
            # how long rollouts live here is not known before the first one: it is not killed; until one of a kind has lived, the
            # other kind's life is taken for it
            life = lives[is_bad] or max(lives.values())
            left = n - figures["kills"]
            kills = sorted(rng.uniform(0, life) for _ in range(min(left, rng.choice((1, 2))))) if life else []
            problems, lived = site.one_rollout(f"1.{number}.0", is_bad=is_bad, kills=kills)
            lives[is_bad] = max(lives[is_bad], lived)
            figures["kills"] += len(site.hits)
            figures["rollouts"] += 1
            figures["killed_in"] += site.hits
            if problems:
                figures["failures"].append({"rollout": number, "kills_s": kills, "problems": problems[:20]})
        figures["lives_s"] = {("bad" if is_bad else "good"): round(life, 1) for is_bad, life in lives.items()}
        trouble = {line: site.log().count(line) for line in _TROUBLE}
        figures["log"] = trouble
        if trouble["engine step failed"] or trouble["rollout tick failed"] or trouble["inbound batch failed"]:
            figures["failures"].append({"log": trouble, "tail": _trouble_lines(site.log())})
    figures["elapsed_s"] = round(time.monotonic() - began, 1)
    return figures


def _trouble_lines(log: str) -> list[str]:
    return [line[:1500] for line in log.splitlines() if any(word in line for word in _TROUBLE)][:5]


@contextlib.contextmanager
def _site(kind: str, rng: random.Random) -> Iterator[Site]:
    """Yield a site in a temporary folder, on a database of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ef-kill-")))
        url = None
        if kind == "postgresql":
            server = shared_server()
            assert server is not None, "PostgreSQL is not installed"
            url = server.new_database()
            stack.callback(server.drop_database, url)
        site = Site(folder, url, rng)
        stack.callback(site.close)
        yield site


def _init(data: Path, url: str) -> str:
    """Make a server folder on a database and return the admin token."""
    command = [sys.executable, "-m", "edgefleet_server.process.init", "--data", str(data), "--db", url]
    subprocess.run(command, check=True, capture_output=True)
    return (data / "admin.token").read_text(encoding="ascii").strip()
