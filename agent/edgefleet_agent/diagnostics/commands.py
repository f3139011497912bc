"""The parsers and the printing of `models bench self-test logs queue doctor diag bundle`. The work is in the modules next to this one."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefleet_agent.diagnostics.device import Device, as_json, look


def add_care_parsers(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> list[argparse.ArgumentParser]:
    """Add the commands; return those that take `--state` and `-o` like all others."""
    models = _command(sub, "models", _models, "show slots, digests, phases and quarantine of every model")
    bench = _command(sub, "bench", _bench, "measure latency, throughput and memory of a model on this device")
    bench.add_argument("model", nargs="?", default="", help="model; optional if there is only one")
    bench.add_argument("--n", type=_positive, default=200, help="requests to the serving worker (default: %(default)s)")
    own = bench.add_argument_group("without agent and server, in workers of its own")
    own.add_argument("--bundle", type=Path, metavar="FILE", help="a bundle file instead of the installed one")
    own.add_argument(
        "--runtime", type=_words, default=(), metavar="NAME,…", help="default: all here that it was proved in"
    )
    own.add_argument("--threads", type=_numbers, default=(), metavar="N,…", help="default: 1,2,4 up to the processors")
    own.add_argument("--batch", type=_numbers, default=(), metavar="N,…", help="samples a run (default: 1)")
    own.add_argument("--seconds", type=_seconds, help="for each combination (default: 3)")
    own.add_argument("--while-serving", action="store_true", help="also while this device serves")
    test = _command(sub, "self-test", _self_test, "check that the serving workers reproduce their golden vectors")
    test.add_argument("model", nargs="?", default="", help="only this model")
    logs = _command(sub, "logs", _logs, "show the last log lines of the agent and its workers, without secrets")
    logs.add_argument("-n", "--lines", type=_positive, default=100, help="number of lines (default: %(default)s)")
    logs.add_argument("--contains", default="", metavar="TEXT", help="only lines with this text")
    queue = _command(sub, "queue", _queue, "show what is queued for the server, by class")
    doctor = _command(sub, "doctor", _doctor, "check what the agent depends on; exit code 1 if a check fails")
    diag = _command(sub, "diag", _diag, "write one archive of at most 1 MB for support, without secrets")
    diag.add_argument("--out", type=Path, default=Path("edge-agent-diag.tar.gz"), help="file (default: %(default)s)")
    _add_bundle(sub)
    return [models, bench, test, logs, queue, doctor, diag]


def _command(
    sub: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    about: str,
) -> argparse.ArgumentParser:
    parser = sub.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def _add_bundle(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bundle = sub.add_parser("bundle", help="inspect bundle files")
    verbs = bundle.add_subparsers(title="commands", required=True, metavar="COMMAND")
    inspect = verbs.add_parser("inspect", help="check a bundle file and show its contents")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("-o", "--output", choices=("text", "json"), default="text")
    inspect.set_defaults(run=_inspect)


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise ValueError(text)
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(word) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError(text)
    return value


def _models(args: argparse.Namespace) -> int:
    from edgefleet_agent.diagnostics.models import models, models_text

    found = models(look(args.state))
    _print(args, found, lambda: models_text(found))
    return 0


def _bench(args: argparse.Namespace) -> int:
    device = look(args.state)
    own = args.bundle or args.runtime or args.threads or args.batch or args.seconds or args.while_serving
    if device.status is None or own:
        return _measure(args, device)
    from edgefleet_agent.diagnostics.model_checks import bench, bench_text

    found = bench(device, args.model, args.n)
    _print(args, found, lambda: bench_text(found))
    return 0


def _measure(args: argparse.Namespace, device: Device) -> int:
    from edgefleet_agent.diagnostics.measurement import Wanted, measure, measure_text
    from edgefleet_agent.settings import load_settings

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{line}\n")

    seconds = args.seconds or Wanted.seconds
    wanted = Wanted(args.model, args.bundle, args.runtime, args.threads, args.batch, seconds, args.while_serving)
    found = measure(device, load_settings(device.paths.settings), wanted, tell)
    _print(args, found, lambda: measure_text(found))
    return 0 if found["ok"] else 1


def _self_test(args: argparse.Namespace) -> int:
    from edgefleet_agent.diagnostics.model_checks import self_test, self_test_text

    found = self_test(look(args.state), args.model)
    _print(args, found, lambda: self_test_text(found))
    return 0 if found["ok"] else 1


def _logs(args: argparse.Namespace) -> int:
    from edgefleet_agent.diagnostics.diag import logs, logs_text

    found = logs(args.state, lines=args.lines, contains=args.contains)
    _print(args, found, lambda: logs_text(found))
    return 0


def _queue(args: argparse.Namespace) -> int:
    from edgefleet_agent.diagnostics.queue import queue, queue_text

    found = queue(look(args.state).paths.outbox)
    _print(args, found, lambda: queue_text(found))
    return 1 if found["error"] else 0


def _doctor(args: argparse.Namespace) -> int:
    from edgefleet_agent.clock import SystemClock
    from edgefleet_agent.diagnostics.doctor import doctor, doctor_json, doctor_text
    from edgefleet_agent.settings import load_settings

    device = look(args.state)
    found = doctor(device, load_settings(device.paths.settings), SystemClock())
    answer = doctor_json(found)
    _print(args, answer, lambda: doctor_text(found))
    return 0 if answer["ok"] else 1


def _diag(args: argparse.Namespace) -> int:
    from edgefleet_agent.clock import SystemClock
    from edgefleet_agent.diagnostics.diag import contents, diag
    from edgefleet_agent.paths import StatePaths
    from edgefleet_agent.settings import load_settings

    archive = diag(args.state, load_settings(StatePaths(args.state).settings), SystemClock())
    args.out.write_bytes(archive)
    members = contents(archive)
    found = {"file": str(args.out), "bytes": len(archive), "members": members}
    _print(args, found, lambda: f"wrote {args.out}: {len(archive)} bytes, {len(members)} files, no secrets")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from edgefleet_agent.diagnostics.bundles import inspect, inspect_text

    found = inspect(args.file)
    _print(args, found, lambda: inspect_text(found))
    return 0


def _print(args: argparse.Namespace, data: Any, text: Callable[[], str]) -> None:
    sys.stdout.write((as_json(data) if args.output == "json" else text()) + "\n")
