"""`./dev soak NAME [--n N] [--seed S] | --list`: the long tests at their full counts.

- An entry names a module with `main(n, seed)`, which returns a mapping that JSON can hold, with a true or false `ok` in it.
- One JSON object is printed: name, n, seed, elapsed_s and what the entry returned. Exit code 0 when `ok`, else 1.
- Without `--seed` one is drawn; it is printed at once on stderr and in the end, and the same seed repeats the same choices.
- SIGTERM is Ctrl-C: fault tests print the rounds that are done.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

Entry = Callable[[int, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Soak:
    """One long test. module: where `main(n, seed)` is, or `module:name`; n: the full count; about: what one of the n is.

    in_ci: how many of them a test of the suite runs, where it takes the number from here.
    """

    module: str
    n: int
    about: str
    in_ci: int = 0


EACH_POINT = 100_000
"""More than an update has points: each of them."""
SOAKS: dict[str, Soak] = {
    "newcomer": Soak(
        "tests.journeys.newcomer",
        100,
        "a page that a newcomer reads, after environment, demo and README on a clean clone",
    ),
    "page-stories": Soak(
        "tests.journeys.page_stories",
        40,
        "a question to the pages, by mouse, by keys, on a phone or without scripts, in turn: acts and seconds",
    ),
    "blob-storms": Soak(
        "tests.server.registry.collection_races",
        200,
        "threads that upload, publish, delete and collect at once, on SQLite and PostgreSQL in turn",
    ),
    "upload-kills": Soak(
        "tests.server.registry.upload_kills",
        30,
        "kill -9 of a move, a backup or a server while a part of a large blob is on its way to a bucket",
        1,
    ),
    "stores": Soak(
        "tests.server.registry.every_store",
        1,
        "a run of the contract of blob stores against moto (S3, Google's XML), fake-gcs-server and Azurite; installs them (pip, npm)",
    ),
    "two-hosts": Soak(
        "tests.server.signing.host_pair",
        3,
        "a pair of servers with data folders of their own, one PostgreSQL, one bucket and one signing process",
    ),
    "clients": Soak(
        "tests.journeys.clients", 200, "a request by kserve's client, by tritonclient or by curl, of each form"
    ),
    "retraining-loop": Soak(
        "tests.journeys.loop_kills",
        20,
        "a whole demo --loop in which server, runner or an agent is killed at a random moment, and started again",
    ),
    "worse-models": Soak(
        "tests.server.retraining.worse_models",
        20,
        "a retrained model that is worse than its parent, on evaluation data and before the gate of a shadow stage",
        2,
    ),
    "chart-values": Soak(
        "tests.deploy.chart_stories",
        400,
        "values of the Helm chart that are drawn, rendered, and validated for three versions of Kubernetes",
        30,
    ),
    "docs-site": Soak("tests.house.docs_site:soak", 1, "a strict build of all pages of the documentation"),
    "installer": Soak(
        "tests.journeys.installer",
        3,
        "a whole Debian system, booted or emulated, on which the line of `device enroll` is typed",
    ),
    "images": Soak(
        "tests.release.image_runs",
        1,
        "a build of server and agent images, twice, then a server in a container that an agent in another enrols at",
    ),
    "trial-stack": Soak(
        "tests.deploy.trial_stack",
        1,
        "a start of the trial for Docker Compose by podman-compose, with its page typed in it, after a build of the images",
    ),
    "packages": Soak(
        "tests.release.package_runs",
        1,
        "a build of the server's .deb and .rpm, which are installed into a Debian system each, where the server runs",
    ),
    "offline-30-days": Soak(
        "tests.agent.offline_soak", 30, "a day of three devices without a connection, then the drain"
    ),
    "worker-kill": Soak("tests.agent.worker.kills", 1000, "SIGKILL of the serving worker while callers ask"),
    "swaps": Soak(
        "tests.agent.worker.swaps", 1000, "a version that replaces another at 200 requests/s, with a second model"
    ),
    "agent-kill": Soak("tests.crash.agent_kill", 200, "F01: kill -9 of an agent at a random moment of an install", 6),
    "kill9-every-point": Soak(
        "tests.crash.points", EACH_POINT, "F02: kill -9 at a write, rename, fsync, unlink … of an update", 2
    ),
    "crash-states": Soak("tests.crash.states", 6_000, "F03: a state that a power cut may leave of whole installs", 300),
    "power-cuts": Soak("tests.crash.power_cuts", 50, "F04: the power of a whole machine with ext4 is cut in an update"),
    "double-fault": Soak("tests.crash.points:double", 100, "F05: kill -9 in an update, and again while it recovers", 1),
    "reboot-loop": Soak("tests.crash.reboots", 20, "F06: a version that kills the device at each start", 1),
    "corrupt-chunk": Soak("tests.crash.chunks", 1_000, "F07: a download with one damaged leaf", 50),
    "corrupt-slot": Soak("tests.crash.slots", 200, "F08: a slot, or both, rotten at the start of the agent", 1),
    "disk-full": Soak("tests.crash.disk:full", EACH_POINT, "F09: a disk that is full from a write of an update on", 2),
    "read-only-eio": Soak("tests.crash.disk:bad", 100, "F10: a disk that turns read-only or gives EIO in an update", 2),
    "wrong-clock": Soak("tests.crash.clocks", 40, "F11: a device clock in 1970, years ahead, back, or jumping", 4),
    "broken-net": Soak("tests.crash.nets", 120, "F12: an update over one of six kinds of bad network", 2),
    "poison-model": Soak(
        "tests.crash.poison:poison", 100, "F18: a version that crashes, gives NaN, hangs, is too big or slow", 2
    ),
    "bad-bundles": Soak(
        "tests.crash.poison", 40, "a version that turns bad in one of eight ways, without a network", 4
    ),
    "good-updates": Soak("tests.crash.poison:good", 1_000, "a good update under load, which must not be rolled back"),
    "hostile-vectors": Soak(
        "tests.hostile.device.vectors",
        1_000,
        "F14: a hostile document, file of metadata, bundle or source; each there is",
    ),
    "theft": Soak(
        "tests.hostile.theft.proofs",
        100,
        "an attempt of a thief of the server, the director's, a team's or a root key, or the broker; each there is",
    ),
    "key-drills": Soak(
        "tests.hostile.theft.key_drills",
        1_000,
        "F15: a device of a fleet whose keys are replaced one after the other: of each role, of root, of a team, of holders",
        4,
    ),
    "retraining-triggers": Soak(
        "tests.server.retraining.drift_stories",
        1000,
        "some weeks of drift that comes and goes under one to three triggers and several servers: how often they fire",
        in_ci=3,
    ),
    "moves": Soak(
        "tests.hostile.theft.move_drills",
        1_000,
        "a device whose server moves: other ports, another machine, back, and to a place that does not serve",
        3,
    ),
    "ca-rotation": Soak(
        "tests.hostile.theft.ca_drill",
        1_000,
        "F15: a device of a fleet whose device CA is rotated: undone half way, and after a theft, with devices that missed it",
        6,
    ),
    "fuzz": Soak("tests.hostile.device.fuzz", 1_000_000, "F19: a random input to each parser of foreign bytes", 20_000),
    "tuf-conformance": Soak(
        "tests.hostile.device.conformance",
        1,
        "a run of the TUF project's conformance suite, in the folder EDGEFLEET_TUF_SUITE",
    ),
    "broker-links": Soak(
        "tests.broker.soak", 1000, "a link broken at random while messages flow both ways, on each broker"
    ),
    "outside-brokers": Soak(
        "tests.broker.outside_soak",
        6,
        "a change of version of an agent through mosquitto on its own, bridged, and RabbitMQ, after the whole contract",
    ),
    "broker-reloads": Soak(
        "tests.broker.reload_soak",
        40,
        "a round of two revocations while devices with kept sessions are away, on a mosquitto that overwrites freed memory",
        1,
    ),
    "broker-kill": Soak(
        "tests.load.broker_kill",
        8_000,
        "a connected simulated device when the broker is killed: presence, CPU of connects",
    ),
    "fleet-load": Soak(
        "tests.load.fleet_load",
        10_000,
        "a device that sends a window a minute, of EDGEFLEET_LOAD_REGISTERED, for EDGEFLEET_LOAD_MINUTES: lateness, cores, memory",
    ),
    "uplink-flood": Soak(
        "tests.hostile.uplink_flood",
        20,
        "a second in which one device sends events of 30 KB as fast as the broker takes them",
    ),
    "audit-mutations": Soak(
        "tests.server.access.audit_mutations",
        1_000,
        "a change, removal, swap, addition or cut in the rows of an audit trail, with and without new hashes",
        20,
    ),
    "policy-walk": Soak(
        "tests.server.access.policy_walk",
        EACH_POINT,
        "a request to a route by a caller with one role in one scope, about things inside and outside; each there is",
        300,
    ),
    "revocation": Soak("tests.hostile.revocation", 50, "a connected device that is revoked, on each broker", 1),
    "backup-kills": Soak(
        "tests.crash.backup_kills",
        100,
        "kill -9 or a full disk at a random moment of a backup, a restore or a move to PostgreSQL, which then goes on",
        2,
    ),
    "disaster": Soak(
        "tests.crash.disaster",
        100_000,
        "a device of a server that is backed up, restored and moved to PostgreSQL: seconds, memory, lost rows",
    ),
    "server-kill": Soak(
        "tests.crash.server_kill", 10, "kill -9 of a server at a random moment of a rollout, on each kind of database"
    ),
    "replicas": Soak(
        "tests.crash.replicas", 600, "a second with three replicas, one killed every five, and one database crash"
    ),
    "rolling-restart": Soak(
        "tests.crash.rolling_restart",
        200,
        "a device of a server of replicas, each process of which, its database and its broker are restarted under load",
    ),
    "upgrade": Soak(
        "tests.frozen.upgrade",
        1_000,
        "a simulated device of a 0.1.0 server that is upgraded in place, with real agents of 0.1.0 (builds its wheels; needs pip)",
    ),
    "rollout-simulation": Soak(
        "tests.server.rollout.scenarios",
        1_000,
        "a rollout of the corpus in virtual time, with devices that do what they like",
    ),
    "rollout-explorer": Soak(
        "tests.server.rollout.explorer", 2_000_000, "a state of rollout, stages and devices of a small fleet"
    ),
    "sim": Soak("tests.sim.soak", 10_000, "a simulated rollout on a bad wire, with replicas and devices that crash"),
    "one-liar": Soak(
        "tests.sim.soak:one_liar",
        1_000,
        "a simulated rollout of a good release in which one device lies as it likes",
        20,
    ),
    "sim-blast": Soak("tests.sim.soak:blasts", 40, "a release that fails on each of 10,000 simulated devices"),
    "cost-intervals": Soak(
        "tests.profiles.intervals", 500, "a simulated fleet that is asked what one more model will cost"
    ),
    "converter-fuzz": Soak("tests.converters.fuzz", 500, "a broken or hostile upload through the sandboxed conversion"),
    "silent-wrong": Soak(
        "tests.converters.silent_wrong_soak",
        200,
        "a random fault that changes a random model's answers, after all planted ones: none may be offered",
    ),
    "tree-shap": Soak(
        "tests.converters.importance.tree_shap_soak",
        20,
        "a sample of gradient boosting, explained by our SHAP environment and by the package's TreeExplainer (EDGECTL_TOOLS)",
    ),
    "rollout-limits": Soak(
        "tests.server.rollout.limits_soak",
        1_000,
        "a lease of a download, taken by one of three engines at once on PostgreSQL",
    ),
    "rest-fuzz": Soak(
        "tests.server.rest.fuzzing", 100, "a random request of schemathesis to each operation of the API", 1
    ),
    "half-sent": Soak(
        "tests.hostile.half_sent", 1_000, "a request that never ends, against each listener, from two addresses"
    ),
    "mutants": Soak(
        "tests.house.mutants", 200, "a small fault in code that must not be wrong: do the nearest tests see it?"
    ),
    "frozen": Soak("tests.frozen.soak", 100, "a frozen version, whose wheels are built again and compared"),
    "floods": Soak(
        "tests.house.sampling", 1, "every case of each flood, and every slow story, of which one commit runs a part"
    ),
    "drift-montecarlo": Soak(
        "tests.protocol.drift_montecarlo",
        36_500,
        "a day of a device with 16 signals in which nothing happens, at each of three autocorrelations",
        8,
    ),
    "drift-real-data": Soak(
        "tests.converters.drift_corruptions",
        50,
        "an untouched shuffle of each real data set, and one of each corruption",
        1,
    ),
    "rollout-montecarlo": Soak(
        "tests.server.rollout.montecarlo", 10_000, "releases that fail on so many devices, judged report by report"
    ),
}


def in_ci(name: str) -> int:
    """Return how many rounds of a soak the suite runs."""
    return SOAKS[name].in_ci


def load(soak: Soak) -> Entry:
    """Return the entry function of a soak. Raises ImportError or AttributeError when the table is wrong."""
    module, _, name = soak.module.partition(":")
    return cast("Entry", getattr(import_module(module), name or "main"))


def run(name: str, n: int, seed: int) -> dict[str, Any]:
    """Run one soak and return its report."""
    sys.stderr.write(f"soak {name}: n {n}, seed {seed}\n")
    sys.stderr.flush()
    started = time.monotonic()
    result = dict(load(SOAKS[name])(n, seed))
    return {"name": name, "n": n, "seed": seed, "elapsed_s": round(time.monotonic() - started, 1), **result}


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev soak", description="Run a long test at its full count.")
    parser.add_argument("name", nargs="?", help="which one; see --list")
    parser.add_argument("--n", type=int, help="how many; without it the full count")
    parser.add_argument("--seed", type=int, help="repeat the choices of an earlier run")
    parser.add_argument("--list", action="store_true", help="show what there is")
    args = parser.parse_args(arguments)
    if args.list or args.name is None:
        for name, soak in SOAKS.items():
            print(f"{name:20} {soak.n:6}  {soak.about}")
        return 0
    if args.name not in SOAKS:
        parser.error(f"no soak is called {args.name}; there are: {', '.join(SOAKS)}")
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**31)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = run(args.name, args.n or SOAKS[args.name].n, seed)
    print(json.dumps(report))
    return 0 if report.get("ok") else 1


if __name__ == "__main__":
    sys.exit(main())
