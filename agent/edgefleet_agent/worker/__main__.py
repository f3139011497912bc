"""Entry of one inference worker: `python -m edgefleet_agent.worker --control-fd N [--gentle idle|low]`.

The imports are most of a start's work, so it is asked before them whether there is a hurry; see `control.start_priority`.
"""

import os
import signal
import sys

from edgefleet_agent.worker.control.start_priority import FLAG, IDLE, LOW, gently, priority_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from types import ModuleType


def _import(into: "list[tuple[ModuleType, socket.socket]]") -> None:
    """Import the life of a worker; also read the command line, which takes imports as well."""
    import argparse
    import importlib
    import logging
    import socket

    parser = argparse.ArgumentParser(
        prog="edgefleet_agent.worker", description="Inference worker, started by edge-agent."
    )
    parser.add_argument("--control-fd", type=int, required=True, help="inherited SOCK_SEQPACKET socket to the agent")
    parser.add_argument(FLAG, choices=(IDLE, LOW), help="another worker answers meanwhile: start below it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        control = socket.socket(fileno=arguments.control_fd)
    except OSError as e:
        parser.error(f"--control-fd {arguments.control_fd} is not a socket: {e}")
    _cut_off()
    into.append((importlib.import_module("edgefleet_agent.worker.runtime.lifecycle"), control))


def _cut_off() -> None:
    """Take the network from this thread and those that it starts, before anything that came with a model is read."""
    from edgefleet_agent.worker.runtime.call_filter import forbid_network

    forbid_network()


def main() -> None:
    """Run the worker on the inherited control socket and exit with its status."""
    # Ctrl-C in a terminal reaches the whole group; agentd drains its workers in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    priority = priority_of(sys.argv)
    found: list[tuple[ModuleType, socket.socket]] = []
    gently(lambda: _import(found), priority)
    if priority:
        _cut_off()  # the thread that imported has done so for itself and what it started
    life, control = found[0]
    status: int = life.run_worker(control, priority)
    sys.stderr.flush()  # of logging as well, which keeps nothing back
    # threads inside native code cannot be joined: a drained worker must end whatever they do
    os._exit(status)


if __name__ == "__main__":
    main()
