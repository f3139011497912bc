"""Entry of one inference worker: `python -m edgefleet_agent.worker --control-fd N`."""

import argparse
import importlib
import logging
import os
import signal
import socket
import sys
from types import ModuleType

from edgefleet_agent.worker.gentle import gently
from edgefleet_agent.worker.protocol import MAX_CONTROL_BYTES, BadControlMessageError, Start, decode_to_worker


def _import_life() -> ModuleType:
    return importlib.import_module("edgefleet_agent.worker.life")


def _is_gentle(control: socket.socket) -> bool:
    """Whether the first message, which stays where it is, asks for a start beside others that serve."""
    try:
        message = decode_to_worker(control.recv(MAX_CONTROL_BYTES, socket.MSG_PEEK))
    except (OSError, BadControlMessageError):
        return False  # what is wrong is said where it is read
    return isinstance(message, Start) and message.gentle


def main() -> int:
    """Run the worker on the inherited control socket and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="edgefleet_agent.worker", description="Inference worker, started by edge-agent."
    )
    parser.add_argument("--control-fd", type=int, required=True, help="inherited SOCK_SEQPACKET socket to the agent")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # Ctrl-C in a terminal reaches the whole group; agentd drains its workers in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        control = socket.socket(fileno=arguments.control_fd)
    except OSError as e:
        parser.error(f"--control-fd {arguments.control_fd} is not a socket: {e}")
    # numpy and a runtime are most of a start's work, so it is asked before they are imported whether there is a hurry
    life = gently(_import_life) if _is_gentle(control) else _import_life()
    status = life.run_worker(control)
    logging.shutdown()
    sys.stderr.flush()
    # threads inside native code cannot be joined: a drained worker must end whatever they do
    os._exit(status)


if __name__ == "__main__":
    main()
