"""The signing process: holds the keys of one folder, and answers on a Unix socket.

    python -m edgefleet_server.signing.signer.signer_process --keys DIR --socket PATH [--user NAME …] [--allow-uri URI …] [--child]

* Only processes of the named users (default: its own) are answered; the kernel says whose they are.
* A key in a key service or a token is taken in at the URIs that `--allow-uri` names; a child takes all: its server can read the files.
* Its memory cannot be read by other processes of its user, and is in no core file.
* With `--child`, stdin is a JSON line with the passphrase, then the life line: it ends when the server at its other end has.
"""

import argparse
import ctypes
import json
import logging
import os
import pwd
import resource
import signal
import socket
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import msgspec

from edgefleet_protocol.errors import error_lines
from edgefleet_server.clock import SystemClock
from edgefleet_server.observability import logs
from edgefleet_server.signing.keys import service_libraries
from edgefleet_server.signing.keys.key_files import secret_of
from edgefleet_server.signing.signer.messages import frame, question_of
from edgefleet_server.signing.signer.unix_sockets import listen, mark_of, peer_uid, read_frame, remove_own

if TYPE_CHECKING:
    from edgefleet_server.signing.signer.question_handler import QuestionHandler

MAX_CONNECTIONS: Final = 64
_PR_SET_DUMPABLE: Final = 4
_log = logging.getLogger(__name__)


class SigningServer:
    """Answers connections on one socket, a thread each."""

    def __init__(self, handler: "QuestionHandler", listening: socket.socket, users: Collection[int]) -> None:
        """Take a listening socket. users: ids of the users that are answered."""
        self._handler = handler
        self._listening = listening
        self._users = frozenset(users)
        self._free = threading.Semaphore(MAX_CONNECTIONS)

    def run(self) -> None:
        """Accept connections until the socket is closed. Blocks."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            uid = peer_uid(connection)
            if uid not in self._users:
                _log.warning("a process of another user was turned away", extra={"uid": uid})
                connection.close()
            elif not self._free.acquire(blocking=False):
                _log.warning("too many connections to the signing process", extra={"limit": MAX_CONNECTIONS})
                connection.close()
            else:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections."""
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            _log.debug("the socket was closed already")
        self._listening.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                while (body := read_frame(connection)) is not None:
                    connection.sendall(frame(self._handler.answer(question_of(body))))
        except (OSError, msgspec.MsgspecError) as error:
            _log.info("a connection ended", extra={"error": repr(error)})
        finally:
            self._free.release()


def harden() -> None:
    """Keep the memory of this process from others of its user, and out of core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("other processes of this user may read the memory of this one")


def _user_id(name: str) -> int:
    return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid


def _end_with(life_line: int) -> None:
    while os.read(life_line, 1):
        pass
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run the signing process until SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server signer", description="Run the signing process apart.")
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--user", action="append", default=[])
    parser.add_argument("--allow-uri", action="append", default=[])
    parser.add_argument("--passphrase-file", type=Path)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args(arguments)
    harden()
    logs.set_up("signer", given.log_level, given.log_format)
    passphrase = None
    if given.child:
        for number in (signal.SIGINT, signal.SIGTERM):  # may reach the whole group; the server decides
            signal.signal(number, signal.SIG_IGN)
        passphrase = json.loads(sys.stdin.readline())["passphrase"]
    if not given.keys.is_dir():
        return _failed(f"{given.keys} is no folder of keys", "name the folder with keys.json: --keys DIR")
    try:
        users = [_user_id(name) for name in given.user] or [os.geteuid()]
        listening = listen(given.socket, mode=0o600 if users == [os.geteuid()] else 0o666)
    except (OSError, KeyError) as error:
        return _failed(f"no socket can be made at {given.socket}: {error}", "check the folder, its rights and --user")
    service_libraries.leave_out()
    from edgefleet_server.signing.signer.question_handler import QuestionHandler

    secret, places = secret_of(passphrase, given.passphrase_file), None if given.child else given.allow_uri
    server = SigningServer(QuestionHandler(given.keys, SystemClock(), secret, places), listening, users)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        server.stop()

    if given.child:
        threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), name="life-line", daemon=True).start()
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
    _log.info("the signing process answers", extra={"socket": str(given.socket), "users": ",".join(map(str, users))})
    mark = mark_of(given.socket)
    server.run()
    remove_own(given.socket, mark)
    return 0


def _failed(what: str, next_step: str) -> int:
    sys.stderr.write("\n".join(error_lines(what, next_step=next_step)) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
