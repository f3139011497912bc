"""Entry of one inference worker: `python -m edgefleet_agent.worker --control-fd N`."""

import argparse
import logging
import os
import signal
import socket
import sys

from edgefleet_agent.worker.life import run_worker


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
    status = run_worker(control)
    logging.shutdown()
    sys.stderr.flush()
    # threads inside native code cannot be joined: a drained worker must end whatever they do
    os._exit(status)


if __name__ == "__main__":
    main()
